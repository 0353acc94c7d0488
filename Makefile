# `make demo` and `make test` do all their set-up; they can be run again quickly.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TYPING := $(VENV)/typing
FLOORS := hashing store shim cli benchmarks
WORKERS ?= auto
INTEROP := build/interop

.PHONY: demo test lint bench clean picture screens

# The reference compiler (jaxlib) and the plots.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench,docs,test]'
	touch $@ $(VENV)/.demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "neuron-store needs Python 3.10 or newer; run: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The documentation as a site that needs no network: build/site/index.html.
.PHONY: docs
docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet

# Real HLO from JAX, compiled once with XLA's CPU backend through the shim, then served.
demo: $(VENV)/.demo
	$(BIN)/python -m neuron_store.benchmarks.hlo_models build/demo
	$(BIN)/neuron-store bench build/demo --plot build/demo/time-saved.png

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -n $(WORKERS)

# The tests of structured inputs again, with examples drawn anew at each run.
.PHONY: explore
explore: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --hypothesis-profile=default \
		$$(grep -l 'from hypothesis import' tests/test_*.py)

# The real optimum-neuron, in a venv of its own and without any Neuron package: it and neuron-store read each other.
$(INTEROP)/.installed: tests/interop/requirements.txt | $(BIN)/python
	$(PYTHON) -m venv --clear $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

.PHONY: test-interop
test-interop: $(VENV)/.test $(INTEROP)/.installed
	NEURON_STORE_INTEROP_PYTHON=$(CURDIR)/$(INTEROP)/bin/python $(BIN)/python -m pytest -m interop tests/test_interop.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(TYPING)/neuron_store
	@for floor in $(FLOORS); do ln -sfn ../../../$$floor $(TYPING)/neuron_store/$$floor; done
	MYPYPATH=$(TYPING) $(BIN)/mypy $(FLOORS:%=-p neuron_store.%)

# Speed, as ratios within one run: docs/speed.md says what to expect.
bench: $(VENV)/.test
	$(BIN)/python -m pytest benchmarks/speed --benchmark-columns=min,median,rounds \
		-p no:xdist -o addopts="" -o pythonpath=benchmarks/speed --import-mode=importlib

# The picture in the README.
picture: $(VENV)/.demo
	$(BIN)/python -m neuron_store.benchmarks.hlo_models build/demo
	$(BIN)/neuron-store bench build/demo --plot docs/images/time-saved.svg

# What commands show, as pictures for the documentation; the report's page needs a Chromium on PATH.
screens: $(VENV)/.test
	$(BIN)/python -m neuron_store.benchmarks.screens docs/images

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
