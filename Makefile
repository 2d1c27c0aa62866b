# make demo    train SimCLR on digits and print the result table
# make test    every test            make test-fast   without the slow ones
# make lint    style and types       make clean       remove what make made (runs/ too)
#
# All of them first make .venv when it is missing, or older than what the project asks for. PYTHON=python3.12 chooses another.

PYTHON ?= python3
EXTRAS ?= dev,series
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast lint clean install

demo: $(STAMP)
	$(BIN)/python -m hcl_jax.main --config=simclr:digits --workdir=runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache runs/demo

install: $(STAMP)

$(STAMP): setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "$(PYTHON) is missing or not Python 3.11 to 3.13; allowed: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12, say" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: sudo apt-get install -y python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]' --constraint constraints.txt
	@touch $@
