"""Validation of transferability scores against outcomes."""
