"""The tests; helpers are in ``conftest``."""
