"""What a person sees at a terminal: bars, tables, width and colour.

rich is imported when something is shown, never with these modules.
"""
