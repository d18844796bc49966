"""The command line: one module a command.

It alone reads arguments, environment and current folder.
"""
