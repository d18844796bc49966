"""Archives that hold other checkpoints."""
