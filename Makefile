# The one entry: each target is also what CI runs.
PYTHON ?= python3
VENV ?= .venv
CHECKPOINTS ?=
MODELS ?= models
JOBS ?= 2
# For convert-all: a glob over hub names, and 1 to fetch nothing.
ONLY ?= *
OFFLINE ?=
# For publish: where the site of MODELS goes, and where npm has installed @litertjs/core.
SITE ?= site
DEMO ?=
# For fuzz: 1 for the long run, and further arguments, such as --only '*HDF5*/cut'.
LONG ?=
FUZZ ?=

# Some tests wait for processes of their own: a worker more than cores keeps the cores busy.
ifndef PYTEST_XDIST_AUTO_NUM_WORKERS
export PYTEST_XDIST_AUTO_NUM_WORKERS := $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 1)')
endif

bin := $(VENV)/bin
installed := $(VENV)/.installed

.PHONY: help install test test-slow test-all test-versions check convert-sample convert-all \
	publish notebooks dist fuzz bench clean

help:  ## the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(installed)  ## .venv with everything that is needed here

$(installed): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@# Without setuptools' warning of every editable installation.
	PYTHONWARNINGS='ignore:Editable installation' \
		$(bin)/python -m pip install --quiet --editable '.[notebooks]' --group dev
	touch $@

tests := $(bin)/python -m pytest -n auto --dist loadfile

test: $(installed)  ## the tests but for the slow ones
	$(tests) -m "not slow"

test-slow: $(installed)  ## the slow tests alone
	$(tests) -m slow

test-all: $(installed)  ## all tests
	$(tests)

test-versions: $(installed)  ## the oldest to the newest libraries, in .venvs [ONLY=colab]
	$(bin)/python -m tools.versions $(filter-out *,$(ONLY))

check: $(installed)  ## linter, formatter, types
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

convert-sample: $(installed)  ## convert the shipped checkpoint and show what the module can do
	$(bin)/python -m convert checkpoint sample/mobilenet_v1_0.25_64.ckpt \
		--labels sample/labels.txt --output $(MODELS)
	$(bin)/python -m tools.show_sample $(MODELS)/mobilenet_v1_025_64/classification \
		--output $(MODELS)/sample.png
	@echo 'Next, your own images: "A first result" in README.md'

convert-all: $(installed)  ## every published variant: MODELS=dir [CHECKPOINTS=dir] [JOBS=2]
	$(bin)/python -m convert all $(if $(CHECKPOINTS),--checkpoints '$(CHECKPOINTS)') \
		--output $(MODELS) --jobs $(JOBS) --only '$(ONLY)' $(if $(OFFLINE),--offline)

publish: $(installed)  ## a folder of modules to a site that hosts them: MODELS=dir SITE=dir [DEMO=dir]
	$(bin)/python -m convert publish '$(MODELS)' --output '$(SITE)' \
		$(if $(DEMO),--demo '$(DEMO)')

notebooks: $(installed)  ## run the notebooks and store their outputs; CHECK=1 compares instead
	$(bin)/python notebooks/run.py $(if $(CHECK),--check)

dist: $(installed)  ## the wheel and the source archive, in dist/
	$(bin)/python -m build --no-isolation

fuzz: $(installed)  ## hostile files; LONG=1 also kills and soaks, and writes docs/trust.md
	PYTHONPATH=tests:. $(bin)/python -m fuzz \
		$(if $(LONG),--rounds 40 --kills 25 --soak 1 --page) $(FUZZ)

bench: $(installed)  ## measure beside other implementations: benchmarks/RESULTS.md [SECTIONS=…]
	$(bin)/python -m benchmarks $(SECTIONS)

clean:  ## remove .venv and caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
