"""The store and the history: check, clean up, rewrite."""
