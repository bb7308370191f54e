"""Cards, protocols and records as data. Imports neither torch nor pandas."""
