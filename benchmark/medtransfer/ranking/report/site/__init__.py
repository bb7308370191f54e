"""Data and static files of the page."""
