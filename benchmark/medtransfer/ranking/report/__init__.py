"""Files for readers: Markdown, CSV, figures and the page."""
