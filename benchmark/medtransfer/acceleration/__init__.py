"""Tricks for speed, each in a module that says what it gains; ``switch`` turns all of them off."""
