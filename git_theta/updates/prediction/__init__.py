"""Finding the base of an update, and computing what it predicts."""
