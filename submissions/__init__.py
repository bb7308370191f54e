"""Committed results, one folder an encoder; this file lets an installed package find them."""
