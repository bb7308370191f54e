"""Optimisations, one per module with its gain; ``switch`` turns all of them off."""
