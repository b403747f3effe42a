# Commands of the project; `make` lists them.
PYTHON ?= python3
SETUP ?= rect
# Setups with stored reference weights.
REFERENCE = square rect
ACTIONS = --attribute forward --attribute stop --attribute left --attribute right
PROFILE ?= synthetic
DIR ?= .
WORKERS ?= 1
KIND ?= cf
PREFIX ?= blobex
BASE ?= main
NAME ?= $(SETUP)
SWEEP = --setup $(SETUP) --name $(NAME) --workers $(WORKERS) $(if $(TRIALS),--trials $(TRIALS))
VENV := .venv
READY := $(VENV)/ready

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export OMP_WAIT_POLICY ?= passive
ifdef STORAGE
export BLOBEX_STORAGE := $(STORAGE)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo app short test test-slow chaos chaos-sweep check same profile code repro ui dag bench release report believable figures notebooks docs data external remote-s3 sweep-cf sweep-invert sweep-encoder sweep-apply requirements clean-demo

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with every pinned package

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "blobex needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV) || { echo "python3 cannot make a virtual environment: install Debian's python3-venv"; exit 1; }
	$(VENV)/bin/python -m pip install --quiet uv==0.13.9
	$(VENV)/bin/uv pip sync --quiet --compile-bytecode --python $(VENV)/bin/python requirements.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --editable .
	@touch $@

demo: $(READY) ## explain road scenes with the reference models
	dvc pull --quiet --allow-missing
	@blobex scenes demo/photos > /dev/null
	@for setup in $(REFERENCE); do \
		blobex explain demo/photos --setup $$setup $(ACTIONS) --out demo/$$setup || exit 1; \
		echo "Query, reconstruction and counterfactuals: demo/$$setup/snapshot_0.png"; \
	done

app: $(READY) ## serve the web page (PORT=7860; DIR=short: with the models of make short)
	@[ $(DIR) != . ] || dvc pull --quiet --allow-missing
	@cd $(DIR) && blobex app $(if $(PORT),--port $(PORT)) $(if $(filter command line,$(origin SETUP)),--setup $(SETUP))

short: $(READY) ## train a small model in short/ and explain photos with it (SETUP=rect; about 10 minutes)
	@mkdir -p short && cp -r blobex dvc.yaml profiles short/
	@cd short && { [ -d .dvc ] || dvc init --quiet --no-scm; } && dvc config core.analytics false
	@cd short && python -m blobex.config.profile short && python -m blobex.stages.code
	cd short && dvc repro explain@$(SETUP)-basic
	@echo "Query, reconstruction and counterfactuals: short/reports/explain/$(SETUP)/basic/results/snapshot_0.png"

test: $(READY) ## lint, type-check and test
	ruff check . && ruff format --check . && mypy
	python -m pytest -q -n auto

test-slow: $(READY) ## run the tests that take minutes
	OMP_NUM_THREADS=1 python -m pytest -q -m slow -n auto --dist loadfile

chaos: $(READY) ## kill every stage at ten random moments; the results must be those of an undisturbed run
	python tests/chaos.py

chaos-sweep: $(READY) ## kill workers of a small sweep, and the sweep, at random moments; no trial may be lost or run twice
	PYTHONPATH=. python tests/chaos_sweep.py

check: test ## the same as test

same: $(READY) ## compare all results of HEAD with those of another commit, byte by byte (BASE=main; about half an hour)
	python tests/same.py $(BASE)

profile: $(READY) ## write a profile to params.yaml (PROFILE=smoke|short|synthetic|bdd100k|published)
	@python -m blobex.config.profile $(PROFILE)

code: $(READY) ## write code/*.txt, the hashes of the code of every stage
	@python -m blobex.stages.code

repro: code ## run every stage whose code, data or parameters changed
	dvc repro

dag: $(READY) ## print the pipeline of one setup as a Mermaid graph
	dvc dag --mermaid evaluate@$(SETUP)

bench: $(READY) ## measure the speed of a trained setup beside the published method (SETUP=rect; DIR=short; many minutes)
	cd $(DIR) && python -m blobex.stages.bench $(SETUP)

release: $(READY) ## copy networks to models/release/SETUP and set their alias in MLflow (SETUP=square, rect or all; DIR=short)
	cd $(DIR) && blobex release --setup $(SETUP)

report: $(READY) ## render all results as one page, reports/report/report.html (DIR=short)
	cd $(DIR) && python -m blobex.stages.report

notebooks: $(READY) ## execute notebooks/*.ipynb in place with the reference weights
	dvc pull --quiet --allow-missing
	jupyter execute --inplace --timeout=600 --NotebookClient.record_timing=False notebooks/*.ipynb

believable: $(READY) ## print the table of how believable images and explanations are, from reports/ (DIR=short)
	@cd $(DIR) && python -m blobex.report.believable

figures: $(READY) ## write the measured figures into README.md and docs/*.md, from models/, reports/ and what dvc.lock records
	@python docs/generate/figures.py

docs: $(READY) ## build the documentation in site/, offline; warnings and dead links are errors
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "open site/index.html, or search it, too: mkdocs serve"

sweep-cf: $(READY) ## tune the search of a setup (SETUP=rect TRIALS=50 WORKERS=2 NAME=study; STORAGE=URL before `make`)
	cd $(DIR) && blobex sweep cf $(SWEEP)

sweep-invert: $(READY) ## tune the inversion of a setup (options of sweep-cf)
	cd $(DIR) && blobex sweep invert $(SWEEP)

sweep-encoder: $(READY) ## tune the pretraining of the encoder (options of sweep-cf)
	cd $(DIR) && blobex sweep encoder $(SWEEP)

sweep-apply: $(READY) ## write the best settings of a sweep to params.yaml (SETUP=rect or NAME=study; KIND=invert or encoder)
	cd $(DIR) && blobex sweep apply $(NAME) --kind $(KIND)

data: $(READY) ## list the missing parts of data.root, and write its manifest <data.root>.json, which DVC tracks
	@blobex data

external: $(READY) ## list the weights of other projects: purpose, path, and whether they are intact
	@blobex external

remote-s3: $(READY) ## store weights and MLflow's files in a bucket (BUCKET=name PREFIX=blobex ENDPOINT=http://host:port)
	@test -n "$(BUCKET)" || { echo "name a bucket: make remote-s3 BUCKET=name"; exit 1; }
	@cd $(DIR) && blobex remote s3 "$(BUCKET)" --prefix "$(PREFIX)" $(if $(ENDPOINT),--endpoint "$(ENDPOINT)")

ui: $(READY) ## serve MLflow's pages on http://127.0.0.1:5000 (DIR=short)
	cd $(DIR) && blobex ui --port 5000

requirements: $(READY) ## pin the packages of pyproject.toml; pins that still fit stay
	uv pip compile pyproject.toml --extra dev --extra docs --extra onnx --extra postgresql --python-version 3.11 --no-annotate --no-header --quiet --output-file requirements.txt

clean-demo: ## remove the results of make demo and make short
	rm -rf demo short
