"""Data models of cards, protocols and records. Imports neither torch nor pandas."""
