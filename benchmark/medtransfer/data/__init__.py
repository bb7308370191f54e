"""Decode sources into memory-mapped splits, and draw few-shot items from them."""
