"""The store and the history."""
