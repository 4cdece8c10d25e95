# `make train` and `make test` do everything on a fresh machine with Python 3.11, git and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The whole suite is sized for two cores; one torch thread a worker keeps them from fighting.
PYTEST_ARGS ?= -n 2 --dist worksteal
export OMP_NUM_THREADS ?= 1

.PHONY: help train test lint type format commit-checks bench build clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# A CPU build of torch first: an unpinned torch may bring gigabytes of CUDA libraries.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

train: $(STAMP)  ## Install, train TRPO on CartPole-v1, evaluate and save it
	$(BIN)/python examples/train_cartpole.py

test: $(STAMP)  ## Install and run the test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## Apply style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(STAMP)  ## Check types
	$(BIN)/mypy

commit-checks: format lint type  ## Everything before a commit but the tests

bench: $(STAMP)  ## Measure speed against sb3-contrib and draw the figures
	$(BIN)/python -m benchmarks.speed

build: $(STAMP)  ## Build the wheel and the source distribution
	$(BIN)/python -m build

clean:  ## Remove the environment and everything built
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
