"""Setting Git-Theta up, and seeing how it is set up."""
