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

# the accuracy gate: the main job on the shipped weights, held against tests/baselines; see CONTRIBUTING.md
gate: $(VENV)/dev
	$(BIN)/lf demo --out out/gate
	$(BIN)/lf compare tests/baselines/wren.json out/gate/results.json --gates tests/baselines/gates.toml

$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[export,quantize]"
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[export,quantize,train,plots,hloc,dataframe,tflite,openvino,dev]"
	touch $@ $(VENV)/demo

clean:
	rm -rf $(VENV) out
