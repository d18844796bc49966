# make demo, make test: each sets up what it needs in .venv the first time. It takes Python 3.11+, git and make, nothing else.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
STAMPS ?= .make
# Where torch's processor-only build is (PyPI's own for Linux brings gigabytes of GPU libraries); passed over where it cannot be reached.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# One more worker than cores (tests/conftest.py): tests mostly wait for commands. The longest tests are begun first.
PYTEST_ARGS ?= -n auto --dist worksteal

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CONSTRAINTS := constraints.txt

.PHONY: help demo test unit lint format docs bench coverage clean

help:
	@echo "make demo    train a small classifier and version it (half a minute)"
	@echo "make test    everything that must hold: lint and all tests"
	@echo "make unit    the fast tests alone"
	@echo "make coverage  which lines the tests run: a table, and htmlcov/index.html"
	@echo "make lint    ruff, mypy and zizmor alone"
	@echo "make format  put the source into its form"
	@echo "make docs    the documentation as a site: site/index.html"
	@echo "make bench   measure beside git-lfs (see docs/benchmarks.md)"
	@echo "make clean   remove .venv and everything made"

demo: $(STAMPS)/install
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python examples/demo/demo.py $(DEMO_ARGS)

# Compiled first: thousands of commands are started, and with PYTHONDONTWRITEBYTECODE set each would compile what it imports.
test: lint $(STAMPS)/test
	$(BIN)/python -m compileall -q git_theta
	$(BIN)/python -m pytest $(PYTEST_ARGS)

unit: $(STAMPS)/test
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

lint: $(STAMPS)/test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/zizmor --offline --quiet .github

format: $(STAMPS)/test
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# The programs that git starts are measured too: coverage hands itself on to every Python process.
coverage: $(STAMPS)/test
	$(BIN)/python -m pytest $(PYTEST_ARGS) --cov --cov-report=term --cov-report=html

docs: $(STAMPS)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file docs/mkdocs/mkdocs.yml

bench: $(STAMPS)/install
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(STAMPS) dist build site .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov

# Each stamp says that a step was done and is older than nothing it depends on.

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "Git-Theta needs Python 3.11 or newer; 'make PYTHON=/path/to/python3 ...' names one" >&2; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(STAMPS)/pip: $(VENV)/pyvenv.cfg $(CONSTRAINTS)
	@mkdir -p $(STAMPS)
	@$(PIP) install --constraint $(CONSTRAINTS) --upgrade pip
	@touch $@

$(STAMPS)/install: $(STAMPS)/pip pyproject.toml
	@echo "Installing git-theta ..."
	@$(PIP) install --constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS) --editable .
	@touch $@

$(STAMPS)/docs: $(STAMPS)/install
	@echo "Installing what the site needs ..."
	@$(PIP) install --constraint $(CONSTRAINTS) --group docs
	@touch $@

$(STAMPS)/torch: $(STAMPS)/pip
	@echo "Installing torch ..."
	@$(PIP) --quiet install --constraint $(CONSTRAINTS) --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) torch
	@touch $@

$(STAMPS)/test: $(STAMPS)/install $(STAMPS)/torch
	@echo "Installing what the tests need ..."
	@$(PIP) install --constraint $(CONSTRAINTS) --group test --group docs --group lint
	@touch $@
