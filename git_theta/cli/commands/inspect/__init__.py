"""Looking at models, their differences and their history."""
