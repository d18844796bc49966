"""Git as Git-Theta sees it: the repository, its config and attributes, packet lines, blobs, the
index.
"""
