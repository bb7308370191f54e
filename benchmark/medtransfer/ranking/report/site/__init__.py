"""What the page is made of: its data, and the static files that show them."""
