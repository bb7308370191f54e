"""Encoder registry, loading, and frozen features."""
