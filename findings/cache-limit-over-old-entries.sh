#!/usr/bin/env bash
# A size limit set on a folder of compiled programs that was filled without one does not bound it: from then on jax keeps nothing new.
#
# Seen with jax 0.10.2 on a CPU, Python 3.11: programs in JAX_COMPILATION_CACHE_DIR after each of two processes, which compile
# another function each:
#
#                                                        first   second
#   no limit, then JAX_COMPILATION_CACHE_MAX_SIZE=10 MB    3       3, with a warning: FileNotFoundError, "...-atime"
#   the limit both times                                   3       4
#
# One would expect the limit to drop what is oldest, or to count old entries without a time as the oldest. The time of the last read is in a
# second file beside each program, which is written only while a limit is set; a program without one ends each write, while reads of old
# programs go on. A folder that was ever used without a limit has to be emptied first.
# hcl_jax/runtime/programs.py keeps its own files, and takes the time from the file itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5 filelock==3.20.0
venv/bin/python - <<'PY'
import os
import pathlib
import subprocess
import sys

PROGRAM = "import sys, jax, jax.numpy as jnp; jax.jit(lambda x: jnp.sin(x) * float(sys.argv[1]))(jnp.ones(3))"


def kept(folder, number, limit=None):
    """How many programs a folder has after a process that compiles one function, and what it warns of."""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    env |= {"JAX_COMPILATION_CACHE_MAX_SIZE": str(limit)} if limit else {}
    end = subprocess.run([sys.executable, "-c", PROGRAM, str(number)], env=env, capture_output=True, text=True, check=True)
    return len(list(pathlib.Path(folder).glob("*-cache"))), "FileNotFoundError" in end.stderr and "-atime" in end.stderr


old = kept("a", 2), kept("a", 3, 10_000_000)
new = kept("b", 2, 10_000_000), kept("b", 3, 10_000_000)
print(old, new)
sys.exit(not (old[0][0] > 0 and old[1] == (old[0][0], True) and new[1][0] > new[0][0] > 0 and not new[0][1] and not new[1][1]))
PY
