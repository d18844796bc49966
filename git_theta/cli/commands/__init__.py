"""The commands, one module each, in the sections of ``git theta -h``."""
