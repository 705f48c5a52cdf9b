# Everything people do here. Each target makes .venv if it is missing and reuses it otherwise.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-sb3
SBX_VENV := .venv-sbx
BACKENDS_VENV := .venv-backends
OLDEST_VENV := .venv-oldest
NEWEST_VENV := .venv-newest
DIST_VENV := .venv-dist
WHEEL_VENV := .venv-wheel
# Tests of one module stay in one process, for agents are costly to compile.
WORKERS ?= -n 2 --dist loadscope
# TensorFlow's start-up messages would hide the one line of progress.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: dist test-wheel docs test-docs
.PHONY: help demo test test-all test-ledger test-numerics test-oldest test-versions newest test-backends lint format bench \
	bench-collect bench-prefetch bench-memory bench-loop bench-overhead bench-compile bench-crash bench-registry \
	bench-compile-cache bench-life \
	bench-damage bench-power-loss \
	bench-ensemble bench-tuning bench-regimes bench-swap bench-market bench-normalized bench-policies bench-live \
	bench-live-restarts bench-live-interrupts bench-confirmation bench-held-out bench-stopping bench-autopilot \
	bench-watch-swap bench-hpo bench-replay bench-tuning-replay bench-swap-replay clean

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

$(VENV)/.docs-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs-installed ## builds the site into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Pages share two processes; the blocks of a page run in one of them, in their order.
test-docs: docs ## runs the Python of README.md and all pages; links, spelling and warnings (minutes)
	$(BIN)/codespell README.md CHANGELOG.md docs examples keras_optix
	$(BIN)/python -m pytest tests/docs $(WORKERS)
	$(BIN)/python -m pytest -p tests.docs.runner -n 2 --dist loadfile README.md docs

test-ledger: $(VENV)/.installed ## brings back each fault of docs/ledger.md in a copy, and shows that its test fails (minutes)
	$(BIN)/python -m tests.ledger -n 2

# Each line computes in another way: with the instructions of an older CPU, without oneDNN and with it (which of the two
# is the default depends on the CPU), with one thread. TensorFlow asks the CPU and not ONEDNN_MAX_CPU_ISA whether there is
# bfloat16: on a CPU that has it, a dense layer of Keras alone ends the process under that limit.
test-numerics: $(VENV)/.installed ## what computes with TensorFlow: as it is, as on another CPU, without and with oneDNN, one thread
	$(BIN)/python -m pytest -m "numerics and not slow" $(WORKERS)
	XLA_FLAGS=--xla_cpu_max_isa=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell \
		$(BIN)/python -m pytest -m "numerics and not slow" -k "not bfloat16" $(WORKERS)
	TF_ENABLE_ONEDNN_OPTS=0 $(BIN)/python -m pytest -m "numerics and not slow" $(WORKERS)
	TF_ENABLE_ONEDNN_OPTS=1 $(BIN)/python -m pytest -m "numerics and not slow" $(WORKERS)
	TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -m "numerics and not slow" $(WORKERS)

$(OLDEST_VENV)/.installed: pyproject.toml tests/oldest-constraints.txt
	$(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint tests/oldest-constraints.txt \
		--editable '.[test]'
	touch $@

# Whatever is the newest today, so it is asked for each time.
newest:
	$(PYTHON) -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/pip install --quiet --disable-pip-version-check --pre --upgrade --upgrade-strategy eager \
		--editable '.[test]'

# What reads and writes files: there the versions of NumPy, filelock and Gymnasium show.
OLDEST_TESTS := tests/test_versions.py tests/test_states.py tests/store/test_registry.py tests/tuners/test_schedule.py \
	tests/callbacks/test_resume.py tests/agents/test_saving_agents.py tests/experience/test_spaces_json.py

test-oldest: $(OLDEST_VENV)/.installed ## the quick start and the tests of files on the oldest versions that are declared
	$(OLDEST_VENV)/bin/python examples/cartpole.py --max-windows 20 --checkpoint-dir $(OLDEST_VENV)/checkpoints \
		--log-dir $(OLDEST_VENV)/runs
	$(OLDEST_VENV)/bin/python -m pytest -m "not slow" $(WORKERS) $(OLDEST_TESTS)

test-versions: $(OLDEST_VENV)/.installed newest ## all quick tests on the oldest versions declared and the newest (pre-release)
	$(OLDEST_VENV)/bin/python -m pytest -m "not slow" $(WORKERS)
	$(NEWEST_VENV)/bin/python -m pytest -m "not slow" $(WORKERS)

$(BACKENDS_VENV)/.installed: tests/backends-requirements.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BACKENDS_VENV)
	$(BACKENDS_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement $<
	$(BACKENDS_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

test-backends: $(BACKENDS_VENV)/.installed ## ops and an ordinary fit on JAX and Torch, where there is no TensorFlow
	for backend in jax torch; do \
		KERAS_BACKEND=$$backend $(BACKENDS_VENV)/bin/python -m pytest tests/ops tests/callbacks/test_ordinary_fit.py \
			tests/callbacks/test_any_model.py tests/callbacks/test_population.py tests/evaluators/test_log_values.py && \
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

$(SBX_VENV)/.installed: benchmarks/sbx-requirements.txt
	$(PYTHON) -m venv $(SBX_VENV)
	$(SBX_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/sbx-requirements.txt
	touch $@

bench: $(VENV)/.installed $(BENCH_VENV)/.installed $(SBX_VENV)/.installed ## speed of PPO, DQN and SAC beside Stable-Baselines3 and SBX (hours; it goes on where it was cut off)
	$(BIN)/pip install --quiet --disable-pip-version-check 'gymnasium[box2d,mujoco]'
	$(BIN)/python benchmarks/speed.py --sb3-python $(BENCH_VENV)/bin/python --sbx-python $(SBX_VENV)/bin/python

bench-collect: $(VENV)/.installed ## collecting against stepping alone, acting against a tf.function (about a minute)
	$(BIN)/python benchmarks/collect.py

bench-replay: $(VENV)/.installed ## the replay buffer: bytes, rates, and what resume points cost (a minute)
	$(BIN)/python benchmarks/replay.py

bench-prefetch: $(VENV)/.installed ## what collecting a window ahead gives, five seeds (some minutes)
	$(BIN)/python benchmarks/prefetch.py --slow-env 200

bench-memory: $(VENV)/.installed ## whether memory grows over a million env steps (some minutes)
	$(BIN)/python benchmarks/memory.py

bench-loop: $(VENV)/.installed ## the original's defects and the run lengths of the CUSUM (some minutes)
	$(BIN)/python benchmarks/loop.py

bench-watch-swap: $(VENV)/.installed ## how long a swap goes unnoticed where evaluations are rarest (some minutes)
	$(BIN)/python benchmarks/watch_swap.py

bench-overhead: $(VENV)/.installed ## what the callback costs in an ordinary fit and an agent's (some minutes)
	$(BIN)/python benchmarks/overhead.py

bench-compile-cache: $(VENV)/.installed ## seconds to the first update without and with the compilation cache, and damage to it (ten minutes)
	$(BIN)/python benchmarks/compile_cache.py

bench-compile: $(VENV)/.installed $(BENCH_VENV)/.installed ## with XLA, without, as chosen; and Stable-Baselines3 (ten minutes)
	$(BIN)/python benchmarks/compile.py --sb3-python $(BENCH_VENV)/bin/python --resume

bench-crash: $(VENV)/.installed ## 200 kills and 50 SIGTERMs over seven kinds of runs, resuming after each (half an hour)
	$(BIN)/python benchmarks/crash.py --compare

bench-registry: $(VENV)/.installed ## kills a writer of snapshots 200 times, then two write at once (some minutes)
	$(BIN)/python benchmarks/registry.py

bench-damage: $(VENV)/.installed ## 10,000 flips and 200 forgeries of each kind of file: only named errors (a minute)
	$(BIN)/python benchmarks/damage.py

bench-life: $(VENV)/.installed ## a week of simulated life: faults by kind, violations (some minutes; --seed N replays)
	$(BIN)/python benchmarks/simulated_life.py

bench-power-loss: $(VENV)/.installed ## a power failure at every moment of every kind of write: nothing reported is lost (a minute)
	$(BIN)/python benchmarks/power_loss.py

bench-ensemble: $(VENV)/.installed ## acting with five agents against acting with one (seconds)
	$(BIN)/python benchmarks/ensemble.py

bench-tuning: $(VENV)/.installed ## tuning: synthetic learner, noise, PBT's toy, then CartPole and Acrobot (hours)
	$(BIN)/python benchmarks/tuning.py
	$(BIN)/python benchmarks/tuning_agents.py --resume

bench-hpo: $(VENV)/.installed ## HPO-RL-Bench: PPO tuned from every point of the grid (hours; it goes on where it was cut off)
	$(BIN)/python benchmarks/hpo_rl_bench.py

bench-regimes: $(VENV)/.installed ## labelled series against the labels of RegimeDetector (about a minute)
	$(BIN)/python benchmarks/regimes.py

bench-swap: $(VENV)/.installed $(BENCH_VENV)/.installed ## CartPole whose actions swap, against Stable-Baselines3 (hours)
	$(BIN)/python benchmarks/swap.py --sb3-python $(BENCH_VENV)/bin/python --resume

bench-tuning-replay: $(VENV)/.installed ## DQN and SAC tuned from learning rates a decade off, beside fixed ones (two hours)
	$(BIN)/python benchmarks/tuning_replay_agents.py

bench-swap-replay: $(VENV)/.installed ## DQN on CartPole whose actions swap: what to keep of the replay buffer (an hour)
	$(BIN)/python benchmarks/swap_replay.py

bench-market: $(VENV)/.installed ## an ensemble of specialists in a market of changing regimes, ten seeds (an hour)
	$(BIN)/python benchmarks/market.py

bench-held-out: $(VENV)/.installed ## a pattern that later data lack: chosen on training scores and by eval_env (a quarter of an hour)
	$(BIN)/python benchmarks/held_out.py

bench-confirmation: $(VENV)/.installed ## the sequential test of candidates: error rates, power, episodes used (ten minutes)
	$(BIN)/python benchmarks/confirmation.py

bench-stopping: $(VENV)/.installed ## when training ends on curves whose true scores are known, and whether that was right (some minutes)
	$(BIN)/python benchmarks/stopping.py

bench-normalized: $(VENV)/.installed ## wrappers with running statistics: what training reached, what fit left (half an hour)
	$(BIN)/python benchmarks/normalized.py

bench-policies: $(VENV)/.installed ## ensembles in every action space, variants within bounds (minutes)
	$(BIN)/python benchmarks/policies.py

bench-live: $(VENV)/.installed ## 1,000 observations per second while PPO trains: losses and latency (a quarter of an hour)
	$(BIN)/python benchmarks/live.py

bench-live-restarts: $(VENV)/.installed ## kills the server of a live feed ten times, then for good (minutes)
	$(BIN)/python benchmarks/live_restarts.py

bench-live-interrupts: $(VENV)/.installed ## Ctrl-C at twenty random moments of a live run (ten minutes)
	$(BIN)/python benchmarks/live_interrupts.py

bench-algorithms: $(VENV)/.installed $(BENCH_VENV)/.installed ## DQN, SAC and PQN: what they learn, and their speed beside Stable-Baselines3 (hours)
	$(BIN)/python benchmarks/algorithms.py learning --sb3-python $(BENCH_VENV)/bin/python
	$(BIN)/python benchmarks/algorithms.py speed --sb3-python $(BENCH_VENV)/bin/python

bench-autopilot: $(VENV)/.installed $(BENCH_VENV)/.installed ## whether trained means trained: six tasks, beside Stable-Baselines3 (a day)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt box2d pygame
	$(BIN)/python benchmarks/autopilot.py --sb3-python $(BENCH_VENV)/bin/python
	$(BIN)/python benchmarks/autopilot.py --continue

dist: ## builds sdist and wheel, checks both, and runs the quick start from the wheel in bare environments
	rm -rf dist build
	$(PYTHON) -m venv $(DIST_VENV)
	$(DIST_VENV)/bin/pip install --quiet --disable-pip-version-check build twine
	$(DIST_VENV)/bin/python -m build
	$(DIST_VENV)/bin/twine check --strict dist/*
	$(MAKE) test-wheel

# In an environment with nothing but the wheel and what it asks for, in an empty folder outside the repository.
WHEEL_VERSIONS ?= newest oldest
test-wheel: ## the quick start from the wheel in dist, on the newest and the oldest versions (WHEEL_VERSIONS=newest: one)
	set -e; for versions in $(WHEEL_VERSIONS); do \
		$(PYTHON) -m venv --clear $(WHEEL_VENV)-$$versions; \
		constraints=; if [ $$versions = oldest ]; then constraints="--constraint tests/oldest-constraints.txt"; fi; \
		$(WHEEL_VENV)-$$versions/bin/pip install --quiet --disable-pip-version-check $$constraints dist/*.whl; \
		bin=$(CURDIR)/$(WHEEL_VENV)-$$versions/bin; folder=$$(mktemp -d); \
		cp examples/cartpole.py examples/act_without_keras.py tests/wheel_check.py $$folder; \
		(cd $$folder && $$bin/pip check --disable-pip-version-check && $$bin/python wheel_check.py $$bin/.. && \
			$$bin/python act_without_keras.py cartpole.tflite && $$bin/python cartpole.py --max-windows 20); \
		rm -rf $$folder $(WHEEL_VENV)-$$versions; \
	done

clean: ## remove what the targets made
	rm -rf $(VENV) $(BENCH_VENV) $(SBX_VENV) $(BACKENDS_VENV) $(OLDEST_VENV) $(NEWEST_VENV) $(DIST_VENV) $(WHEEL_VENV)-* dist checkpoints runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache
