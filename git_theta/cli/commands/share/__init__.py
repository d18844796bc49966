"""Objects to and from remotes."""
