# make demo    train SimCLR on digits and print the result table
# make test    every test            make test-fast   without the slow ones
# make lint    style and types       make clean       remove what make made (runs/demo too)
# make golden  write the flattened recipes again that tests/test_config.py compares with
#
# Each first makes .venv when it is missing, or older than what the project asks for. PYTHON=python3.12 chooses another
# Python for it; EXTRAS=dev,series,tpu what the tests' environment has beside the package;
# JOBS=4 runs so many test processes.

PYTHON ?= python3
EXTRAS ?= dev,series
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.installed
STAMP := $(VENV)/.installed-dev
# Compiling every module ahead takes longer than compiling those that are used.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

.PHONY: demo test test-fast lint golden clean install

demo: $(RUNS)
	$(BIN)/python -m hcl_jax.main --config=simclr:digits --workdir=runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

golden: $(STAMP)
	PYTHONPATH=.:tests $(BIN)/python tests/write_golden.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache runs/demo

install: $(STAMP)

$(RUNS): setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "PYTHON: found $(PYTHON), missing or of another version; allowed: Python 3.11 to 3.13, as make PYTHON=python3.12" >&2; \
	  exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "PYTHON: found $(PYTHON) without ensurepip; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(STAMP): $(RUNS)
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@
