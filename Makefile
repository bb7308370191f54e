.PHONY: install test check leaderboard performance

install:
	python -m pip install -e '.[dev]'

test:
	python -m pytest

check:
	ruff format --check .
	ruff check .
	mypy
	bench validate tasks
	bench leaderboard --check

leaderboard:
	bench leaderboard

performance:
	python tests/performance.py
