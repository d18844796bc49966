"""Reports: what was compared, as lines for a terminal, as data, as Markdown, as a page."""
