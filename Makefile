# Thin: each target is one tool call. Everything works on a clean clone with Python >= 3.11, pip, make and git.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
SEED   ?= 1
SECONDS ?= 60
MINUTES ?= 1

# A cluster is a dozen Python processes: without bytecode files each of them compiles everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help up down test test-long check generate bench chaos simulate simulate-mutations wheel clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 22

$(VENV)/server.stamp: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/server.stamp
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server,dev]'
	@touch $@

up: $(VENV)/server.stamp          ## the main job: a real 3+3 cluster here, a file stored, the leader killed, the file read back
	@$(BIN)/dfsctl dev tour

down:                             ## stop the cluster that `make up` left running
	@test ! -x $(BIN)/dfsctl || $(BIN)/dfsctl dev down

test: $(VENV)/dev.stamp           ## unit, property, simulation and cluster tests (14 to 30 minutes on 2 cores)
	@$(BIN)/python -m pytest tests -m 'not long' -n $(JOBS) --dist loadfile -q

test-long: $(VENV)/dev.stamp      ## the soaks as well
	@$(BIN)/python -m pytest tests -m long -q
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest tests/property tests/unit -n $(JOBS) -q

check: $(VENV)/dev.stamp          ## format, lint, types, import rules, generated code, migrations, docs
	@$(BIN)/ruff format --check --quiet . || { echo "run: ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary quorumfs common coordinator datanode sidecar dfsctl migrations
	@$(BIN)/lint-imports --no-logo > $(VENV)/lint-imports.log 2>&1 || { cat $(VENV)/lint-imports.log; exit 1; }
	@$(BIN)/python -m pytest tests/house -q

generate: $(VENV)/dev.stamp       ## quorumfs/v1 from protos/
	@$(BIN)/python -m tests.house.generate

simulate: $(VENV)/dev.stamp       ## one seed of the deterministic simulations, of consensus and with datanodes: SEED=n SECONDS=n
	@$(BIN)/python -m tests.simulation --first $(SEED) --seconds $(SECONDS)
	@$(BIN)/python -m tests.simulation --datanodes --first $(SEED) --seconds $(SECONDS)

chaos: $(VENV)/dev.stamp          ## harm of every kind to real processes under load, then all must be whole: SEED=n MINUTES=n
	@$(BIN)/python -m tests.support.chaos --seed $(SEED) --minutes $(MINUTES)

bench: $(VENV)/dev.stamp          ## measure, into benchmarks/results: ONLY=create,stat,failover,sequential,small-files,datanode,scale,gc,heartbeats QUICK=1
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick)

simulate-mutations: $(VENV)/dev.stamp   ## one safeguard removed at a time: the simulation has to find each
	@$(BIN)/python -m tests.simulation.mutations
	@$(BIN)/python -m tests.simulation.garbage.mutations

wheel: $(VENV)/dev.stamp          ## dist/*.whl
	@$(BIN)/python -m build --wheel --outdir dist .

clean:                            ## remove what was built here (never a cluster's data)
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
