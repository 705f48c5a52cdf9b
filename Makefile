# Everything people do here. Each target makes .venv if it is missing and reuses it otherwise.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-sb3
# TensorFlow's start-up messages would hide the one line of progress.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo test test-all lint format bench bench-collect bench-prefetch bench-memory clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed ## the main job: PPO learns CartPole and stops itself (about a minute)
	$(BIN)/python examples/cartpole.py

test: $(VENV)/.installed ## tests that run in minutes; `make test-all` adds the slow ones (learning curves)
	@echo "Tests that run in minutes; make test-all also runs the slow ones."
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/.installed ## all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BENCH_VENV)/.installed: benchmarks/sb3-requirements.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/sb3-requirements.txt
	touch $@

bench: $(VENV)/.installed $(BENCH_VENV)/.installed ## throughput against Stable-Baselines3, in an environment of its own
	$(BIN)/python benchmarks/throughput.py --sb3-python $(BENCH_VENV)/bin/python

bench-collect: $(VENV)/.installed ## collecting against stepping alone, acting against a tf.function (about a minute)
	$(BIN)/python benchmarks/collect.py

bench-prefetch: $(VENV)/.installed ## what collecting a window ahead gives, five seeds (some minutes)
	$(BIN)/python benchmarks/prefetch.py --slow-env 200

bench-memory: $(VENV)/.installed ## whether memory grows over a million env steps (some minutes)
	$(BIN)/python benchmarks/memory.py

clean: ## remove what the targets made
	rm -rf $(VENV) $(BENCH_VENV) checkpoints runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache
