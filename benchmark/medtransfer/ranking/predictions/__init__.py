"""How well transferability scores predict outcomes."""
