"""One module per checkpoint format.

Knows neither git nor disk, and never executes what a file holds.
"""
