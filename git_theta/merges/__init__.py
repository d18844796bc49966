"""Merging: the plan by digests, and the strategies that resolve real conflicts.

Knows neither git nor disk.
"""
