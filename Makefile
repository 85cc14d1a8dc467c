# `make demo` and `make test` are all a fresh machine needs: they make .venv and install into it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint clean

demo: $(STAMP)
	$(BIN)/lpx demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# torch goes first, and alone: what depends on it must find it rather than choose a build.
# TensorRT for RTX has wheels for x86-64 only, and only tests of it are skipped without.
$(STAMP): pyproject.toml setup.py lpx/calibration/tally.c constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,train]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[rtx]" \
		|| echo "note: TensorRT for RTX cannot be installed here; its tests will be skipped"
	touch $@

clean:
	rm -rf $(VENV) lpx-out build *.egg-info
