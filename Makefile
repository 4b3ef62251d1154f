# Each target sets up what it needs: a virtual environment in .venv with the pinned packages of requirements/dev.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal --durations 10
AGAIN := and not again
PINS := --quiet --universal --generate-hashes --no-header
START := /lab/tree/docs/start.md?file-browser-path=/notebooks
export PYTHONUNBUFFERED := 1
export PYTHONDONTWRITEBYTECODE :=  # tests start hundreds of processes; without bytecode each of them compiles labcore

.PHONY: help setup demo test test-slow test-all test-gpu test-slurm test-browser lab docs site tables lint format notebooks bench colour-models requirements clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## make .venv and install the pinned packages

$(READY): requirements/setup.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "labcore needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Say which: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/setup.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/dev.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)  ## train, invert, score and sample a flow in an executed notebook (5 minutes)
	@$(BIN)/python -m labcore.cli.demo

test: $(READY)  ## the tests that run in minutes
	$(PYTEST) -m "not slow and not gpu and not slurm and not browser"

test-slow: $(READY)  ## notebooks, faults, many processes
	$(PYTEST) -m "slow $(AGAIN) and not gpu and not slurm and not browser"

test-all: $(READY)  ## every test that this machine can run, also those that repeat others (hours)
	.ci/run --all
	$(MAKE) test-gpu

test-gpu: $(READY)  ## the tests of tests/gpu on a CUDA device; one line where there is none
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  $(BIN)/python -m pytest tests/gpu -m gpu -v -n 8 --dist worksteal --timeout 100 --jaxtyping-packages=; \
	else echo "make test-gpu: skipped, torch finds no CUDA device"; fi

test-slurm: $(READY)  ## batch runs on a one-node Slurm, installed and started here (root; Debian or Ubuntu)
	SLURM_CONF=$$(tests/slurm_up.sh) && export SLURM_CONF && $(BIN)/python -m pytest -m slurm

test-browser: $(READY)  ## notebooks in JupyterLab, and explorables, in Chromium, which is installed here (root; Debian or Ubuntu)
	@tests/chromium_up.sh >/dev/null
	$(BIN)/python -m pytest -m "browser $(AGAIN)"

lab: $(READY)  ## open JupyterLab on its start page
	JUPYTER_CONFIG_PATH='$(CURDIR)/labcore/cli/jupyter' $(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url='$(START)' \
	  --ServerApp.contents_manager_class=labcore.cli.saving.TrackedNotebooks

docs: $(READY)  ## the pages of README and docs, with the API reference, in site/ (minutes)
	$(BIN)/python -m labcore.site.docs site

site: $(READY)  ## the same with all notebooks executed (hours; SITE=--smoke: minutes)
	$(BIN)/python -m labcore.site.build site $(SITE)

tables: $(READY)  ## write the generated parts of README and docs anew, from records (minutes)
	$(BIN)/python -m labcore.site.tables

lint: $(READY)  ## ruff over code and notebooks, and no outputs in notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

format: $(READY)  ## format code, strip notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

notebooks: $(READY)  ## run every notebook at its smoke size
	$(BIN)/python -m pytest -m "not gpu" tests/test_notebooks.py

bench: $(READY)  ## speed as ratios measured in one run (BENCH="--reference FOLDER" adds ml-tarflow)
	$(BIN)/python -m benchmarks.run $(BENCH)

SHIP := $(BIN)/python -m labcore.experiments.ship

# `lab train` resumes, so that a second call goes on. On a CPU, 6,000 aligned steps take as long as the 12,000 of the first model.
# The student's width keeps the weights of the three below 5 MB as float16. Its teacher knows the state of any image, so mirrored ones
# teach it too
colour-models: $(READY)  ## train a flow of emoji-32, an aligned one and a student in runs/, and write them into labcore/zoo (hours)
	$(BIN)/lab train --preset emoji-32 --out runs/emoji-tarflow
	$(SHIP) runs/emoji-tarflow emoji-tarflow
	$(BIN)/lab train --preset emoji-32 --align reverse --out runs/emoji-r-repa --set train.steps=6000
	$(SHIP) runs/emoji-r-repa emoji-r-repa
	$(BIN)/lab train --invert emoji-tarflow --out runs/emoji-biflow --set model.width=48 --set model.head_dim=24 \
	  --set model.max_guidance=2 --set train.steps=11000 --set train.batch_size=32 --set train.lr=0.002 --set train.warmup_steps=200 \
	  --set train.sampling=balanced --set data.flip=true --set train.compile=true
	$(SHIP) runs/emoji-biflow emoji-biflow

requirements: $(READY)  ## compile the pinned sets again from pyproject.toml
	$(BIN)/uv pip compile $(PINS) -c requirements/constraints.txt pyproject.toml -o requirements/base.txt
	$(BIN)/uv pip compile $(PINS) -c requirements/constraints.txt pyproject.toml --extra dev -o requirements/dev.txt
	echo uv | $(BIN)/uv pip compile $(PINS) --no-annotate -c requirements/dev.txt - -o requirements/setup.txt

clean:  ## remove caches (not .venv, not runs/)
	rm -rf .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
