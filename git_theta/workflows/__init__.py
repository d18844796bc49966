"""The verbs: clean, smudge, checkout, … Each is told what to work on; none reads the environment or
a terminal.
"""
