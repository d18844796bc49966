"""From a manifest back to the checkpoint's bytes, or to single tensors."""
