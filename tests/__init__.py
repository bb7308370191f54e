"""The tests; fixtures are in ``conftest``, helpers in ``helpers``."""
