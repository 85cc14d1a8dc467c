# `make demo` and `make test` are all a fresh machine needs: they make .venv and install into it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs dist clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo "  VENV=DIR uses an environment other than $(VENV)"

demo: $(STAMP) ## Install into .venv; export, build and bench the demo on a CPU
	$(BIN)/lpx demo

# In alphabetical order: by default, files with few tests, which are long ones, would come last, and
# one process would wait for the other.
test: $(STAMP) ## Run all tests (GPU tests are skipped where there is no GPU)
	@# Tests start many processes; where Python may not write bytecode, each would compile lpx again.
	$(BIN)/python -m compileall -q lpx
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## Check style, types and the order of packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Strict: a broken link, a missing anchor or a page outside the navigation fails (never with --quiet,
# which drops the warnings before they are counted).
docs: $(DOCS_STAMP) ## Build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(STAMP) ## Build a source distribution and a wheel into dist/
	$(PIP) build
	$(BIN)/python -m build

# torch goes first, and alone: what depends on it must find it rather than choose a build.
# TensorRT for RTX has wheels for x86-64 only, and only tests of it are skipped without.
$(STAMP): pyproject.toml setup.py lpx/calibration/tally.c constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) torch
	$(PIP) --editable ".[dev,export,train]"
	$(PIP) --editable ".[rtx]" \
		|| echo "note: TensorRT for RTX cannot be installed here; its tests will be skipped"
	touch $@

$(DOCS_STAMP): $(STAMP)
	$(PIP) --editable ".[docs]"
	touch $@

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) lpx-out build dist site *.egg-info
