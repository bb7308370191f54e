"""The registry of encoders, their loading, and their frozen features."""
