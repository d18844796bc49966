"""An example of a Git-Theta plugin with something of every kind."""
