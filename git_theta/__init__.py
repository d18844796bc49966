"""Git-Theta: version control for machine-learning models, as an extension of Git."""

__version__ = "1.0.0.dev0"
