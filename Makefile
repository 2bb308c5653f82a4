# `make` alone lists the targets. VENV: the environment's folder; PYTHON: the python3 that makes it; ARGS: passed on.
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
FRESH ?=

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test proofs bench lint lock ui clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make or refresh the environment from requirements.lock (at once when nothing changed)
	@$(PYTHON) fer_lib/bootstrap.py --venv "$(VENV)"

demo: setup  ## the whole road on drawn faces; FRESH=1: re-use nothing
	@"$(BIN)/fer" run params/quickstart.yaml $(if $(FRESH),--fresh) $(ARGS)

test: lint  ## lint and the whole suite
	"$(BIN)/python" -m pytest -q -n 2 --dist loadgroup $(ARGS)

proofs: setup  ## the slow proofs: kills, fuzz, coverage, scale, browser
	"$(BIN)/python" -m pytest -q tests/proofs $(ARGS)

bench: setup  ## the measurements of benchmarks/, one after another; each prints a table
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; "$(BIN)/python" "$$script" $(ARGS) || exit 1; done

lint: setup  ## ruff, and the layers of the library (import-linter)
	"$(BIN)/python" -m ruff check
	"$(BIN)/lint-imports" --no-cache

lock:  ## write requirements.lock from the environment
	"$(BIN)/python" -m fer_lib.lockfile

ui: setup  ## MLflow's page, on this machine only
	@"$(BIN)/fer" ui $(ARGS)

clean:  ## remove caches and build leftovers (the environment and mlruns/ stay)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -path './$(VENV)' -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
