"""The programs that git starts: thin shells that speak git's protocols and leave the work to the
workflows.
"""
