# make demo        a small model from raw text to a chat assistant, on this machine's CPU in about ten minutes
# make help        this text
# make test        the tests, in some minutes
# make test-slow   those too slow for that: kills, several ranks, malformed inputs by the thousand, the pages' commands, and on a
#                  Slurm like that of test-slurm what may befall a job at night
# make test-slurm  jobs on a real Slurm of virtual nodes, which needs root and installs Slurm by apt; skipped where it cannot be
# make check       format, lint, types, import rules
# make clean       removes .venv, builds and caches; never runs/
#
# Each works from a fresh clone and makes .venv at the first call. Needs Python 3.11 or newer.
#   PYTHON=python3.12            another interpreter for .venv
#   PIP_ARGS="--find-links DIR"  your own index or wheels, e.g. the CPU-only or a CUDA build of torch
#   ARGS="..."                   appended to the command of demo (overrides) or of the tests (pytest's arguments)

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
SOURCES := llamatrain launch pretrain sft reward rlhf evaluation toyworld
AT_ONCE := --numprocesses auto --maxprocesses 8 --dist worksteal  # one process of tests per core
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -qq -c constraints.txt $(PIP_ARGS)
SILENT := That takes one or two minutes plus the download, and says nothing until it is done ...

.PHONY: help demo test test-slow test-slurm check clean
.DELETE_ON_ERROR:

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/installed
	@$(BIN)/llamatrain pipeline preset=demo $(ARGS)

test: $(VENV)/installed-test
	@$(BIN)/python -m pytest -m "not slow and not slurm" $(AT_ONCE) $(ARGS)

test-slow: $(VENV)/installed-test
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-slurm: $(VENV)/installed-test
	@$(BIN)/python -m pytest -m "slurm and not slow" $(ARGS)

check: $(VENV)/installed-test
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

clean:
	@rm -rf $(VENV) build dist llamatrain.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find $(SOURCES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: a second call installs again only when setup.py or constraints.txt changed.
$(VENV)/installed: setup.py constraints.txt | $(BIN)/python
	@echo "Installing llamatrain and what it needs into $(VENV): 1.6 GB with a CPU build of torch, more with CUDA."
	@echo "$(SILENT)"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/installed-test: setup.py constraints.txt | $(BIN)/python
	@echo "Installing llamatrain with its tests' tools into $(VENV): 1.7 GB with a CPU build of torch, more with CUDA."
	@echo "$(SILENT)"
	@$(INSTALL) -e ".[test]"
	@touch $(VENV)/installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "llamatrain needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
