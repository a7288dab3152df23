# Two commands for newcomers: `make demo` and `make test`. Everything goes into .venv; run again, nothing is done twice.
PYTHON ?= python3.11
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
CROSS := .venv-cross
DOCS := .venv-docs
DEMO_METHODS := -m random -m pixel -m ssim -m grad-dot -m 'dmin:v=4096|8192' -m dmin:search=hnsw \
	-m dmin:normalize=false -m dmin:v=none -m dmin:dtype=int8 \
	-m dmin:search=faiss,index=RaBitQ,rerank=5

.PHONY: demo test test-fast test-wheel lint docs bench bench-gpu faults cross-check clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## every method of the demo on ddpm-mnist-mini, then the leaderboard
	$(BIN)/attrbench run -t ddpm-mnist-mini $(DEMO_METHODS)
	$(BIN)/attrbench leaderboard -t ddpm-mnist-mini

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.installed  ## the fast layer, for while one works
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'unit and not slow'

test-wheel:  ## what a user installs: the wheel in a bare environment
	OMP_NUM_THREADS=1 $(PYTHON) tests/packaging/wheel.py --torch '$(TORCH)'

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(DOCS)/.installed: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	touch $@

docs: $(DOCS)/.installed  ## the site, in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

bench: $(VENV)/.installed  ## ratios against references measured in the same run; BENCH=name JSON=file, ROWS=n for BENCH=million
	$(BIN)/python -m tests.benchmarks $(if $(JSON),--json $(JSON))

bench-gpu: $(VENV)/.installed  ## the gpu tests, and ratios of passes, sketches and search on a CUDA device
	$(BIN)/python -m pytest -m gpu -rs
	$(BIN)/python -m tests.benchmarks.gpu

faults: $(VENV)/.installed  ## thousands of kills, file faults, damaged files and nonsense inputs; JSON=file
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaign $(if $(JSON),--json $(JSON))

$(CROSS)/.installed: pyproject.toml tests/cross_check/requirements.txt
	$(PYTHON) -m venv $(CROSS)
	$(CROSS)/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(CROSS)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	$(CROSS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-r tests/cross_check/requirements.txt
	touch $@

cross-check: $(CROSS)/.installed  ## our scores beside those of dattri, traker and kronfluence; JSON=file
	OMP_NUM_THREADS=1 $(CROSS)/bin/python -m tests.cross_check $(if $(JSON),--json $(JSON))

clean:
	rm -rf $(VENV) $(CROSS) $(DOCS) build attrbench-results
