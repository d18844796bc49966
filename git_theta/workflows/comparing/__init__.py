"""What changed between versions of a model."""
