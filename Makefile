# Two commands for a fresh machine: `make demo` and `make test`. Each sets up its own virtual environment in .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow check bench tiny clean

demo: $(VENV)/.core
	$(BIN)/python recipes/demo.py --output demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

tiny: $(VENV)/.dev  # about two and a half hours on two cores; recipes/tiny/README.md
	$(BIN)/python recipes/tiny/train_autoencoder.py --output .runs/autoencoder --minutes 35
	$(BIN)/python recipes/tiny/train_classifier.py --output .runs/classifier
	$(BIN)/python recipes/tiny/train_painter.py --output .runs/painter
	$(BIN)/python recipes/tiny/publish.py
	$(BIN)/python recipes/tiny/evaluate.py --cards

clean:
	rm -rf $(VENV) demo build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing eyesel and PyTorch into $(VENV): a few minutes, once"
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing eyesel, PyTorch and what the tests compare with into $(VENV): a few minutes, once"
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.core
