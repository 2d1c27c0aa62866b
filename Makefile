# make demo    train SimCLR on digits and print the result table
# make test    every test but the long runs with kills            make test-fast   without the slow ones
# make test-faults    the long runs with kills, one after the other, beside nothing else
# make lint    style and types       make clean       remove what make made (runs/demo too)
# make golden  write the flattened recipes again that tests/config/test_load.py compares with
#
# make smoke   a short run of the tests with the newest releases that Python 3.13 takes
#
# Each first makes .venv when it is missing, or older than what the project asks for. PYTHON=python3.12 chooses another
# Python, with an environment of its own; EXTRAS=dev,series,tpu what the tests' environment has beside the package;
# JOBS=4 runs so many test processes; LIBTPU=.venv/tpu adds the tests that compile for TPUs, and need none.
# constraints.txt pins the releases, except with Python 3.13, which takes the newest: make test PYTHON=python3.13.

PYTHON ?= python3
EXTRAS ?= dev,series
JOBS ?= 2
NEWEST := $(if $(findstring 3.13,$(shell $(PYTHON) --version 2>/dev/null)),yes)
VENV := .venv$(if $(filter python3,$(PYTHON)),,-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
RUNS := $(VENV)/.installed
STAMP := $(VENV)/.installed-dev
# Compiling every module ahead takes longer than compiling those that are used.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(if $(NEWEST),,--constraint constraints.txt)

.PHONY: demo test test-fast test-faults smoke lint golden clean install

demo: $(RUNS)
	$(BIN)/python -m hcl_jax.main --config=simclr:digits --workdir=runs/demo

test: $(STAMP) $(LIBTPU)
	LIBTPU=$(LIBTPU) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not faults"

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not faults"

test-faults: $(STAMP)
	$(BIN)/python -m pytest -m faults -v

smoke: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not faults" tests/losses tests/parallel tests/core/test_model.py \
	  tests/core/test_optim.py tests/core/test_objectives.py tests/parallel/test_seeds.py tests/config/test_load.py tests/test_end_to_end.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

golden: $(STAMP)
	PYTHONPATH=.:tests $(BIN)/python tests/write_golden.py

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache runs/demo

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

# Beside the environment: a process that imports jax where libtpu is installed looks for a TPU and complains.
ifneq ($(LIBTPU),)
$(LIBTPU): $(STAMP)
	$(PIP) --no-deps --target $@ --upgrade libtpu
	@touch $@
endif

$(STAMP): $(RUNS)
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@
