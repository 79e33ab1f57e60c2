# Every target does its own set-up; repeating one installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLD_RUNTIME := $(VENV)/.tflite-runtime-ready
MICRO_RUNTIME := $(VENV)/.tflite-micro-ready
OUT ?= artifacts
# Processes that tests are spread over, as tests/conftest.py says; each takes about 1 GB. All in one: make test WORKERS=0
WORKERS ?= 2
# The tests start edgeconv some 200 times; where Python may not write compiled files, each start compiles it anew.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup
# What `make export` makes. One recipe: make export RECIPES=models/digits_dsc.toml
RECIPES ?= models/dsconv_3x64_224.toml models/mobilenet_dsc_224.toml models/digits_dsc.toml

.DEFAULT_GOAL := help
.PHONY: help setup export zoo test test-all fuzz mutants bench operators readme lint format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) $(OLD_RUNTIME) ## virtual environment, pinned packages, the old runtime's own environment

# The stamp depends on what is installed; an interrupted set-up leaves no stamp and is done again.
$(READY): pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev,zoo]'
	@touch $@

$(OLD_RUNTIME): $(READY) edgeconv/devices/_environments.py
	$(BIN)/edgeconv devices --install tflite-runtime
	@touch $@

# Only the tests run everything on it.
$(MICRO_RUNTIME): $(READY) edgeconv/devices/_environments.py
	$(BIN)/edgeconv devices --install tflite-micro
	@touch $@

export: setup ## export every default recipe to $(OUT)/<recipe>/ and prove it
	$(BIN)/python export_scripts/export_all.py --out $(OUT) $(RECIPES)

zoo: setup ## export EfficientNet-Lite0 with its real ImageNet weights
	$(BIN)/python export_scripts/export_all.py --out $(OUT) models/efficientnet_lite0.toml

test: setup $(MICRO_RUNTIME) ## fast tests (about 10 minutes on 2 cores)
	$(PYTEST) -m "not slow"

test-all: setup $(MICRO_RUNTIME) ## all tests, the slow sweeps too
	$(PYTEST)

# Mutants of every file that is read: make fuzz FUZZ_SECONDS=3600.
FUZZ_SECONDS ?= 600
fuzz: setup ## mutated files and answers: no traceback, no hang, no growth (10 minutes)
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) --out $(OUT)/fuzz

# MUTANTS holds options: make mutants MUTANTS="--networks dsconv relu6 --seed 7".
mutants: setup ## faults planted into files and graphs: does the proof reject them? (half an hour)
	$(BIN)/python tests/mutants/run.py --out $(OUT)/mutants $(MUTANTS)

# NETWORKS=quick, NETWORKS=full, or names; BENCH holds further options: make bench BENCH="--rounds 10".
NETWORKS ?= full
bench: setup ## edgeconv beside its peers into $(OUT)/bench (NETWORKS=quick for five networks)
	$(BIN)/python tests/bench/run.py --networks "$(NETWORKS)" --out $(OUT)/bench $(BENCH)

operators: $(READY) ## write what every table has of each operator, or why not, to $(OUT)/operators.md
	@mkdir -p $(OUT)
	$(BIN)/edgeconv operators --details > $(OUT)/operators.md

readme: $(READY) ## write the list of operators of edgeconv/capture/README.md anew
	$(BIN)/python -m edgeconv.flow.operators edgeconv/capture/README.md

lint: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY) ## write requirements.lock from what is installed now
	$(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools | sed 's/+cpu$$//' > requirements.lock

clean: ## remove the virtual environment, artifacts and caches
	rm -rf $(VENV) $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
