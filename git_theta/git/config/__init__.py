"""Git's configuration, attributes, remotes and hooks."""
