"""What ``import git_theta`` offers Python programs; :mod:`git_theta` imports it when it is first
used.
"""
