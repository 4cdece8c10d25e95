# `make train` and `make test` do everything on a fresh machine with Python 3.11, git and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The whole suite is sized for two cores; one torch thread a worker keeps them from fighting.
PYTEST_ARGS ?= -n 2 --dist worksteal
export OMP_NUM_THREADS ?= 1

.PHONY: help train test test-imitation lint type format commit-checks bench build clean

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

# imitation 1.0.1 asks for SB3 2.2, which this package is too new for, and works with the newer one: its pins are passed over.
IMITATION_VENV ?= .venv-imitation
IMITATION := $(IMITATION_VENV)/.installed
$(IMITATION): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(IMITATION_VENV)
	$(IMITATION_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(IMITATION_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . pytest tensorboard tqdm rich matplotlib
	$(IMITATION_VENV)/bin/python -m pip install --quiet --disable-pip-version-check datasets scikit-learn sacred "huggingface-sb3~=3.0"
	$(IMITATION_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps imitation==1.0.1 seals==0.2.1
	@touch $@

test-imitation: $(IMITATION)  ## Test with imitation's GAIL, in an environment of its own
	$(IMITATION_VENV)/bin/python -m pytest -o filterwarnings=default tests/imitation

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
	rm -rf $(VENV) $(IMITATION_VENV) dist build .pytest_cache .mypy_cache .ruff_cache
