# Everything people do here. Each target makes .venv if it is missing and reuses it otherwise.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-sb3
BACKENDS_VENV := .venv-backends
# Tests of one module stay in one process, for agents are costly to compile.
WORKERS ?= -n 2 --dist loadscope
# TensorFlow's start-up messages would hide the one line of progress.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo test test-all test-backends lint format bench bench-collect bench-prefetch bench-memory bench-loop \
	bench-overhead bench-compile bench-crash bench-registry bench-ensemble bench-tuning bench-regimes bench-swap bench-market \
	bench-policies bench-live bench-live-restarts bench-live-interrupts clean

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
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-all: $(VENV)/.installed ## all tests
	$(BIN)/python -m pytest $(WORKERS)

$(BACKENDS_VENV)/.installed: tests/backends-requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BACKENDS_VENV)
	$(BACKENDS_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement $<
	$(BACKENDS_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

test-backends: $(BACKENDS_VENV)/.installed ## an ordinary fit on JAX and Torch, where TensorFlow is not even installed
	for backend in jax torch; do \
		KERAS_BACKEND=$$backend $(BACKENDS_VENV)/bin/python -m pytest tests/callbacks/test_ordinary_fit.py \
			tests/callbacks/test_population.py && \
		KERAS_BACKEND=$$backend $(BACKENDS_VENV)/bin/python examples/supervised.py || exit 1; \
	done

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

bench-loop: $(VENV)/.installed ## the original's defects and the run lengths of the CUSUM (some minutes)
	$(BIN)/python benchmarks/loop.py

bench-overhead: $(VENV)/.installed ## what the callback costs in an ordinary fit and an agent's (some minutes)
	$(BIN)/python benchmarks/overhead.py

bench-compile: $(VENV)/.installed $(BENCH_VENV)/.installed ## with XLA, without, as chosen; and Stable-Baselines3 (ten minutes)
	$(BIN)/python benchmarks/compile.py --sb3-python $(BENCH_VENV)/bin/python --resume

bench-crash: $(VENV)/.installed ## a hundred kills at random moments, and resuming after each (half an hour)
	$(BIN)/python benchmarks/crash.py

bench-registry: $(VENV)/.installed ## kills a writer of snapshots 200 times, then two write at once (some minutes)
	$(BIN)/python benchmarks/registry.py

bench-ensemble: $(VENV)/.installed ## acting with five agents against acting with one (seconds)
	$(BIN)/python benchmarks/ensemble.py

bench-tuning: $(VENV)/.installed ## tuning: synthetic learner, noise, PBT's toy, then CartPole and Acrobot (hours)
	$(BIN)/python benchmarks/tuning.py
	$(BIN)/python benchmarks/tuning_agents.py --resume

bench-regimes: $(VENV)/.installed ## labelled series against the labels of RegimeDetector (about a minute)
	$(BIN)/python benchmarks/regimes.py

bench-swap: $(VENV)/.installed $(BENCH_VENV)/.installed ## CartPole whose actions swap, against Stable-Baselines3 (hours)
	$(BIN)/python benchmarks/swap.py --sb3-python $(BENCH_VENV)/bin/python --resume

bench-market: $(VENV)/.installed ## an ensemble of specialists in a market of changing regimes, ten seeds (an hour)
	$(BIN)/python benchmarks/market.py

bench-policies: $(VENV)/.installed ## ensembles in every action space, variants within bounds (minutes)
	$(BIN)/python benchmarks/policies.py

bench-live: $(VENV)/.installed ## 1,000 observations per second while PPO trains: losses and latency (a quarter of an hour)
	$(BIN)/python benchmarks/live.py

bench-live-restarts: $(VENV)/.installed ## kills the server of a live feed ten times, then for good (minutes)
	$(BIN)/python benchmarks/live_restarts.py

bench-live-interrupts: $(VENV)/.installed ## Ctrl-C at twenty random moments of a live run (ten minutes)
	$(BIN)/python benchmarks/live_interrupts.py

clean: ## remove what the targets made
	rm -rf $(VENV) $(BENCH_VENV) $(BACKENDS_VENV) checkpoints runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache
