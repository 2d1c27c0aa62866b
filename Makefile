# make demo    train SimCLR on digits and print the result table
# make test    before a change: the fast tests, and one slow case of a kind
# make test-all       what make test runs and every slow case, with the 50 slowest; fails a case above its mark
# make test-faults    the long runs with kills, one after the other, beside nothing else
# make smoke   a short run of the tests, for the newest releases that Python 3.13 takes
# make lint    style and types
# make golden  write the flattened recipes and the tables of the docs again, after they were changed on purpose
# make clean   remove what make made (runs/demo too)
#
# Each first makes .venv when it is missing, or older than what the project asks for. PYTHON=python3.12 chooses another
# Python, with an environment of its own; EXTRAS=dev,series,tpu what the tests' environment has beside the package;
# JOBS=4 runs so many test processes; LIBTPU=.venv/tpu adds the tests that compile for TPUs, and need none;
# MARKS=2 allows a case twice its seconds; JAX_COMPILATION_CACHE_DIR in the environment names a folder of programs to keep.
# constraints.txt pins the releases, except with Python 3.13, which takes the newest: make test PYTHON=python3.13.

PYTHON ?= python3
EXTRAS ?= dev,series
JOBS ?= 2
MARKS ?= 1
NEWEST := $(if $(findstring 3.13,$(shell $(PYTHON) --version 2>/dev/null)),yes)
VENV := .venv$(if $(filter python3,$(PYTHON)),,-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
RUNS := $(VENV)/.installed
STAMP := $(VENV)/.installed-dev
# Compiling every module ahead takes longer than compiling those that are used.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(if $(NEWEST),,--constraint constraints.txt)
# pip says nothing for a minute while it unpacks: every five seconds a line says how far it is.
define INSTALL
@echo "$(PIP) $(1)"; $(PIP) $(1) & pip=$$!; trap "kill $$pip" INT TERM; \
  while kill -0 $$pip 2>/dev/null; do \
    seconds=$$(($${seconds:-0} + 1)); sleep 1; \
    [ $$((seconds % 5)) -gt 0 ] || echo "  installing, $$seconds s: $$(du -sm $(VENV) | cut -f1) MB in $(VENV)"; \
  done; wait $$pip
endef
# One list of tests, of which two workers take the ends: fixtures of a module are mostly set up once.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# Without bytecode each process compiles the sources of jax and TensorFlow again: 5 s and more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-faults smoke lint golden clean install

demo: $(RUNS)
	$(BIN)/python -m hcl_jax.main --config=simclr:digits --workdir=runs/demo

test: $(STAMP)
	$(PYTEST) -m "not faults" --one-slow

test-all: $(STAMP) $(LIBTPU)
	LIBTPU=$(LIBTPU) $(PYTEST) -m "not faults" --seconds=$(MARKS)

test-faults: $(STAMP)
	$(BIN)/python -m pytest -m faults -v

smoke: $(STAMP)
	$(PYTEST) -m "not faults" --one-slow tests/losses/test_values.py tests/losses/test_errors.py tests/similarity/test_engine.py \
	  tests/core/test_model.py tests/core/test_optim.py tests/core/test_objectives.py tests/parallel/test_sharding.py \
	  tests/encoders/test_encoders.py tests/config/test_load.py tests/workdir/test_checkpoint.py tests/test_end_to_end.py

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
	$(call INSTALL,--editable .)
	@touch $@

# Beside the environment: a process that imports jax where libtpu is installed looks for a TPU and complains.
ifneq ($(LIBTPU),)
$(LIBTPU): $(STAMP)
	$(call INSTALL,--no-deps --target $@ --upgrade libtpu)
	@touch $@
endif

$(STAMP): $(RUNS)
	$(call INSTALL,--editable '.[$(EXTRAS)]')
	@touch $@
