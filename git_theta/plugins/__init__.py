"""How Git-Theta is extended: hooks, and the registry that finds what registers through them."""
