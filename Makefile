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
.PHONY: help setup demo test proofs fuzz bench lint size lock sbom ui clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make or refresh the environment from requirements.lock (at once when nothing changed)
	@$(PYTHON) fer_lib/setup_environment.py --venv "$(VENV)"

demo: setup  ## the whole road on drawn faces; FRESH=1: re-use nothing
	@"$(BIN)/fer" run params/quickstart.yaml --parallel 2 $(if $(FRESH),--fresh) $(ARGS)

test: export OMP_NUM_THREADS = 1  # a core for each of the two workers
test: lint  ## lint and the whole suite
	"$(BIN)/python" -m pytest -q -n 2 $(ARGS)

proofs: setup  ## the slow proofs: kills, fuzz, coverage, real datasets, browser
	"$(BIN)/python" -m pytest -q tests/proofs $(ARGS)

fuzz: setup  ## damaged files for every reader, at most an hour; what fails goes to tests/fuzz/corpus
	"$(BIN)/python" tests/fuzz/fuzz.py $(ARGS)

bench: setup  ## the measurements of benchmarks/, one after another; each prints a table
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; "$(BIN)/python" "$$script" $(ARGS) || exit 1; done

lint: setup  ## ruff, and the layers of the library (import-linter)
	"$(BIN)/python" -m ruff check
	"$(BIN)/lint-imports" --no-cache

size: setup  ## lines of each room of the library beside its limit
	@"$(BIN)/python" docs/architecture.py --size

# one pin per package for every platform and Python; kept where it still fits. No find-links or extra index is used: a
# local build such as torch's +cpu would not be found elsewhere. torch and torchvision are in a separate file, without
# hashes, because their builds for CPU and for each CUDA differ; they pin their CUDA libraries themselves
COMPILE = UV_FIND_LINKS= UV_EXTRA_INDEX_URL= UV_INDEX= "$(BIN)/python" -m uv pip compile --quiet --universal \
    --python-version 3.11 --fork-strategy fewest --no-annotate --generate-hashes --custom-compile-command "make lock"
HASHED = $(COMPILE) - --no-deps
lock:  ## write the locks and environment.yml for pyproject.toml (ARGS=--upgrade: newest versions)
	$(COMPILE) pyproject.toml --extra test --extra weights --output-file requirements.lock $(ARGS)
	sed -nE 's/^((torch|torchvision)==[^ ]+).*/\1/p' requirements.lock > requirements-torch.txt
	awk '/^[a-z0-9]/ {skip = /^(torch|torchvision|triton|cuda-[a-z-]+|nvidia-(cu|nccl|nv)[a-z0-9-]*)==/} !skip' \
	    requirements.lock > requirements.lock.part
	mv requirements.lock.part requirements.lock
	echo uv==0.13.9 | $(HASHED) --output-file requirements-uv.txt
	sed -nE 's/^opencv-python(==[^ ]+).*/opencv-python-headless\1/p' requirements.lock | \
	    $(HASHED) --output-file requirements-headless.txt
	{ printf '%s\n' '# conda env create -f environment.yml && conda activate fer-lab' '# Written by `make lock`.' \
	    'name: fer-lab' 'channels:' '  - conda-forge' 'dependencies:' '  - python=3.11' '  - pip' '  - pip:'; \
	    sed -nE 's/^([a-z0-9][^\\]*[^ \\]).*/      - \1/p' requirements-torch.txt requirements.lock; echo '      - -e .'; } > environment.yml

sbom: setup  ## sbom.json: the installed packages, their versions and licences in CycloneDX's format
	"$(BIN)/python" -m uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py environment "$(VENV)" \
	    --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json

ui: setup  ## MLflow's page, on this machine only
	@"$(BIN)/fer" ui $(ARGS)

clean:  ## remove caches and build leftovers (the environment and mlruns/ stay)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -path './$(VENV)' -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
