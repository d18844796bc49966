"""Writing to a repository: index, objects, refs, history."""
