# make demo    one job on the bundled samples, run by handler.py as on RunPod; leaves out/infinitetalk-output/demo.mp4
# make test    the tests
# make check   ruff, mypy and the tests
#
# Everything is installed into a virtual environment, .venv. If python3 has torch, that one is used; otherwise
# TORCH is installed. Without an NVIDIA GPU the CPU build is much smaller:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
HAS_TORCH := -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'

.PHONY: demo test lint check
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python scripts/demo.py

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python $(HAS_TORCH) || $(PIP) $(TORCH)
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python $(HAS_TORCH) || $(PIP) $(TORCH)
	$(PIP) -e '.[dev]'
	touch $(VENV)/.installed $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $$($(PYTHON) $(HAS_TORCH) && echo --system-site-packages) $(VENV)
