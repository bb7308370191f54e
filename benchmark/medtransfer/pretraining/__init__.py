"""Pre-training: encoders made under matched conditions, with their cost measured."""
