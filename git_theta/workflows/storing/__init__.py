"""From a checkpoint's bytes to a manifest and the objects that it names."""
