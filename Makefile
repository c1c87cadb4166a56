# make repro   set up, then rebuild everything that changed, from samples to report
# make test    set up, then run the tests
# make full    the long profile behind docs/results (up to two hours on two cores)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test lint full clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "lop needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[pipeline,reference,dev]'
	touch $@

repro: $(VENV)/.installed
	python -m flows.server dvc repro

test: $(VENV)/.installed
	python -m pytest

lint: $(VENV)/.installed
	ruff check
	ruff format --check
	mypy

full: $(VENV)/.installed
	python -m flows.server python -m flows.profile full

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
