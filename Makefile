# One file of commands for contributors and for CI. It needs make, Python 3.11 or newer and a package index;
# everything else goes into .venv, by the hashes of requirements/dev.lock. `make help` lists the targets.
#
#   make demo ARGS=--check      make test ARGS="tests/unit -k weights"      make bench ARGS="--quick --json"
#   make test PYTHON=python3.13 builds .venv with that interpreter

# Left empty, tools/make-venv looks for one that is new enough. PYTHON=... insists on one.
PYTHON ?=
ARGS ?=
# Two workers: what the smallest machine has. Every test file stays in one worker, and its Envoys with it.
WORKERS ?= 2

# A run starts hundreds of Python processes: without bytecode kept, each compiles all its modules again.
unexport PYTHONDONTWRITEBYTECODE

# What `make test` leaves out unless ARGS name it.
SLOWER := --ignore=tests/conformance --ignore=tests/mutants --ignore=tests/pods

BIN := .venv/bin
# The stamp's name is made from what was installed, so the second run has nothing to do whatever git did to the
# times of files, and a changed lock file leads to a new installation.
STAMP := .venv/installed-$(shell cat requirements/dev.lock pyproject.toml tools/make-venv | cksum | tr -s ' ' '-')

.DEFAULT_GOAL := help
.PHONY: help demo test test-apiserver test-pods test-mutants tools lint format conformance bench lock clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP):
	@PYTHON="$(PYTHON)" tools/make-venv "$@"

demo: $(STAMP) ## the bookstore on real Envoys, without a cluster (ARGS=--check: without a terminal)
	@$(BIN)/smi-adapter demo $(ARGS)

test: $(STAMP) ## the test suite, real Envoys included (ARGS: passed to pytest)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(or $(ARGS),$(SLOWER))
	@$(if $(ARGS),,echo "left out, as they take longer: tests/conformance, tests/mutants, tests/pods (make test-mutants, make test-pods)")

tools: $(STAMP) ## build etcd, kube-apiserver and kubectl for tests, once, with Go (ARGS=helm4, ARGS=--list)
	@$(BIN)/python -m tests.tools $(ARGS)

test-apiserver: $(STAMP) ## the tests against a real Kubernetes API server; builds the tools first (ARGS: passed to pytest)
	@$(BIN)/python -m tests.tools kubernetes
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(or $(ARGS),tests/apiserver)

test-pods: $(STAMP) ## the chart, its image and proxies in a cluster with pods, as root; builds all of it first (ARGS: to pytest)
	@$(BIN)/python -m tests.cluster.node
	@$(BIN)/python -m tests.tools kubernetes node pods
	@$(BIN)/python -m tests.cluster.images
	@$(BIN)/python -m pytest $(or $(ARGS),tests/pods)

lint: $(STAMP) ## ruff, mypy --strict, direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# What ARGS chooses is no full run, so it must not take the place of the report that is committed.
REPORTS := $(if $(ARGS),build/conformance,conformance/reports/smi-adapter)

conformance: $(STAMP) ## the conformance suite on real Envoys; writes conformance/reports (with ARGS="--quick": build/)
	@PYTHONPATH=conformance $(BIN)/python -m smi_conformance run --target tests/conformance/target.yaml \
		--profile SPLIT,SPLIT-AB,ACCESS,ACCESS-L4,IDENTITY,CONSUMER \
		--expect-readings tests/conformance/readings-spec.yaml --expect-failures tests/conformance/known-failures.yaml \
		--report $(REPORTS)/report.yaml --html $(REPORTS)/report.html --junit $(REPORTS)/junit.xml $(ARGS)

# Three times the workers: most of a mutant's time goes by in waiting for what never comes.
test-mutants: $(STAMP) ## broken variants of the adapter that the conformance suite must find (ARGS: passed to pytest)
	@$(BIN)/python -m pytest -n $$((3 * $(WORKERS))) --dist worksteal $(or $(ARGS),tests/conformance tests/mutants)

bench: $(STAMP) ## the benchmarks with their controls (ARGS="--quick --json")
	@$(BIN)/python -m benchmarks $(ARGS)

lock: ## resolve requirements/*.lock anew from pyproject.toml
	@PYTHON="$(PYTHON)" tools/lock

clean: ## remove .venv and everything else that can be made again
	rm -rf .venv .venv-lock build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
