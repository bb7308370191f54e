"""Boards of published results, never mixed with measured ones."""
