"""Models in the working tree, and in other forms."""
