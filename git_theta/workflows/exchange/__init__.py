"""A model in other forms: files of other formats, zarr arrays."""
