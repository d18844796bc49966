"""The help of the programs that git starts."""
