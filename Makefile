# From a fresh clone: `make search` runs the main job, `make test` the plain test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install search test bench gpu lint types clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.py pyproject.toml constraints.txt $(wildcard grownas/cells/native/*)
	@echo "installing into $(VENV), which takes some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[finance,dev]'
	touch $@

search: install
	$(BIN)/grownas search index_returns/growing

test: install
	$(BIN)/python -m pytest -n auto --dist worksteal

bench: install
	$(BIN)/python -m pytest tests/benchmarks -m slow -s

# On a machine with one GPU: tests, speed and a short search in at most 8 minutes; writes OUT/gpu.json and OUT/gpu.md.
OUT ?= build/gpu

gpu: install
	$(BIN)/python tests/benchmarks/gpu.py $(OUT)

lint: install
	$(BIN)/ruff check grownas tasks configs tests setup.py
	$(BIN)/ruff format --check grownas tasks configs tests setup.py

# The installed layout, where tasks/ and configs/ are parts of grownas, is what is checked.
types: install
	rm -rf build/types
	$(BIN)/python setup.py --quiet build_py --build-lib build/types
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p grownas

clean:
	rm -rf $(VENV) build dist *.egg-info
