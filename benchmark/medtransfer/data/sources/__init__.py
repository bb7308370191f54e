"""Readers of sources, one module a kind; `data/loaders.py` lists them."""
