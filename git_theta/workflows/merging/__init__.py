"""Several versions of a model into one."""
