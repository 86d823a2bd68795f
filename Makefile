# `make demo` shows the main job; `make test` runs what CI runs. Both build their environment from constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint gate clean

demo: $(VENV)/demo
	$(BIN)/lf demo

test: $(VENV)/dev lint
	$(BIN)/pytest
	$(MAKE) gate

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the accuracy gate: the shipped weights against tests/baselines, see CONTRIBUTING.md
gate: $(VENV)/dev
	$(BIN)/python tests/gate.py

$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[export,quantize]"
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[export,quantize,train,dev]"
	touch $@ $(VENV)/demo

clean:
	rm -rf $(VENV) out
