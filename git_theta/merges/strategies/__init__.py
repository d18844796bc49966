"""The built-in merge strategies, one family a module."""
