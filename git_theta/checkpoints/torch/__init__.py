"""The files of PyTorch, read and written without it."""
