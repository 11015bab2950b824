PYTHON ?= python3
VENV ?= .venv
DEMO ?= runs/demo
TOY ?= data/toy

bin := $(VENV)/bin
installed := $(VENV)/.installed

.PHONY: install demo test lint format clean
.DELETE_ON_ERROR:

install: $(installed)

$(installed): pyproject.toml $(wildcard snvideo/norm/kernels/cpp/*)
	$(PYTHON) -m venv $(VENV)
	$(bin)/pip install --quiet --editable '.[dev]'
	touch $@

# From nothing to a table: draw real videos, index them, train 3 norms at 2 batch sizes, report.
demo: $(installed)
	$(bin)/python data_tools/make_toy_kinetics.py $(TOY) --difficulty medium --train 960 --val 160
	$(bin)/python data_tools/build_index.py kinetics $(TOY) --csv $(TOY)/train.csv --csv $(TOY)/val.csv --out $(TOY)/index.csv
	$(bin)/snvideo compare configs/toy/compare.yaml output=$(DEMO) data.index=$(TOY)/index.csv

# Waiting threads that spin would starve the processes that some tests start.
test: $(installed) lint
	OMP_WAIT_POLICY=PASSIVE $(bin)/python -m pytest

lint: $(installed)
	$(bin)/ruff check .
	$(bin)/ruff format --check .

format: $(installed)
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

clean:
	rm -rf data/toy runs/demo
