"""Shared basics: errors, documents, files, text. Imports neither torch nor pandas."""
