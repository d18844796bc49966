"""What a checkpoint is: dtypes, extents, layout, skeleton, digests, manifest.

Knows neither git nor disk.
"""
