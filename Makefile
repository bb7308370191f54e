.PHONY: install test check docs leaderboard performance faults fuzz lowest soak

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

# The site, from docs/ and the docstrings, into build/site. A broken link fails.
docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

leaderboard:
	bench leaderboard

performance:
	python -m tests.performance

# Each fault 25 times, and every reader with 650 damaged files; the tests try both a few times.
faults:
	BENCH_FAULTS=25 python -m pytest tests/faults

fuzz:
	BENCH_FUZZ=650 python -m pytest tests/hostile

# Thousands of tiny cells in one process, for half an hour: memory and open files stay flat.
soak:
	python -m tests.performance.soak

# The oldest versions that pyproject.toml allows, in an environment of their own. As pip does, uv
# takes the certificates of the system.
lowest: export UV_SYSTEM_CERTS = 1
lowest:
	uv venv --quiet --clear .cache/lowest
	VIRTUAL_ENV=.cache/lowest uv pip install --quiet --compile-bytecode --resolution lowest-direct -e '.[test]'
	.cache/lowest/bin/python -m pytest
