"""Transferability scores: how well an encoder will transfer, from the training images alone."""
