"""Loaders of sources, one module per kind; `data/loaders.py` lists them."""
