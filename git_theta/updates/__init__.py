"""Updates: the ways to store a tensor exactly, one module each, and the choice among them.

Knows neither git nor disk.
"""
