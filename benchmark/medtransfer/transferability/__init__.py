"""Transferability scores: predict an encoder's transfer from the training images alone."""
