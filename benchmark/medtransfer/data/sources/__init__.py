"""Where images come from: one module a kind; `data/loaders.py` lists them."""
