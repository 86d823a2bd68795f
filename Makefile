# `make demo` shows the main job; `make test` runs what CI runs; `make nightly` what is too slow or too delicate for that.
# All build their environment from constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Python keeps byte code: without it every process compiles all modules again, 18 s of the processor for `lf export`
export PYTHONDONTWRITEBYTECODE :=
# pip does not compile: it would take 50,000 files, Python takes only those that are imported
INSTALL := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e
EXTRAS := export,quantize,adopt,train,plots,hloc,dataframe,tflite,openvino,pose,sfm,docs,dev
# test processes, and one thread in each; worksteal keeps neighbours together, so what a module makes is made about once
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test nightly audit lint gate docs clean

demo: $(VENV)/demo
	rm -rf out/demo
	$(BIN)/lf demo

# the gate and mypy have one process each, pytest has WORKERS
test: $(VENV)/dev
	$(MAKE) -j2 lint gate docs
	$(PYTEST)

# every test but those of a GPU, with coverage; one by one, those that measure the process they run in; damaged files
# for every parser, other ones each day
SEED ?= $(shell date +%Y%m%d)
nightly: $(VENV)/nightly
	$(PYTEST) -m "not alone and not gpu" --cov --cov-report=term
	$(BIN)/pytest -m "alone and not gpu"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seed $(SEED) --count 310

# known vulnerabilities of the pinned versions; needs the internet
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)-audit/bin/pip-audit --no-deps --disable-pip --requirement constraints.txt

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

# the documentation site in out/site, warnings as errors: open out/site/index.html
docs: $(VENV)/dev
	$(BIN)/python -m scripts.site

# the accuracy gate: the main job on the shipped weights, held against tests/baselines; see CONTRIBUTING.md
gate: $(VENV)/dev
	rm -rf out/gate
	$(BIN)/lf demo --out out/gate
	$(BIN)/lf compare tests/baselines/default.json out/gate/results.json --gates tests/baselines/gates.toml

$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) ".[export,quantize]"
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) ".[$(EXTRAS)]"
	touch $@ $(VENV)/demo

$(VENV)/nightly: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) ".[$(EXTRAS),ray]"
	touch $@ $(VENV)/dev $(VENV)/demo

clean:
	rm -rf $(VENV) $(VENV)-audit out
