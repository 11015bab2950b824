PYTHON ?= python3
VENV ?= .venv
DEMO ?= runs/demo
TOY ?= data/toy_mixed
GPU_PYTHON ?= $(PYTHON)

bin := $(VENV)/bin
installed := $(VENV)/.installed

.PHONY: install demo test test-process coverage lint format docs wheel gpu clean
.DELETE_ON_ERROR:

install: $(installed)

$(installed): pyproject.toml setup.py $(wildcard snvideo/norm/kernels/cpp/*)
	$(PYTHON) -m venv $(VENV)
	$(bin)/pip install --quiet --editable '.[dev]'
	touch $@

# From nothing to a table: draw real videos, index and prepare them, train 3 norms at 2 batch sizes.
demo: $(installed)
	$(bin)/snvideo toy $(TOY) --difficulty mixed --train 960 --val 240 --test 480
	$(bin)/snvideo index build kinetics $(TOY) --csv $(TOY)/train.csv --csv $(TOY)/val.csv --csv $(TOY)/test.csv --out $(TOY)/index.csv
	$(bin)/snvideo prepare $(TOY)/index.csv $(TOY)/prepared --short-side 54 --keyframes 1
	$(bin)/snvideo compare toy/compare output=$(DEMO) data.index=$(TOY)/prepared/index.csv data.workers=0 --parallel 2

# Waiting threads that spin would starve the processes that some tests start.
test: $(installed) lint
	OMP_WAIT_POLICY=PASSIVE $(bin)/python -m pytest -n auto --dist loadfile

# What starts whole processes, and is left out of `make test`.
test-process: $(installed)
	OMP_WAIT_POLICY=PASSIVE $(bin)/python -m pytest -n auto --dist loadfile -m process

coverage: $(installed)
	OMP_WAIT_POLICY=PASSIVE $(bin)/python -m pytest -n auto --dist loadfile --cov=snvideo --cov-report=term:skip-covered

lint: $(installed)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

format: $(installed)
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

docs: $(installed)
	$(bin)/python docs/build_reference.py docs/reference

wheel: $(installed)
	$(bin)/python -m build

# On a machine with a GPU, with the packages of GPU_PYTHON and no network; goes on where it stopped.
gpu:
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/gpu.py

clean:
	rm -rf data/toy_mixed runs/demo build dist docs/reference
