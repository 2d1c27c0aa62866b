#!/usr/bin/env bash
# safetensors.numpy reads a BF16 tensor from a file, and not from the bytes of the same file.
#
# Seen with safetensors 0.8.0, numpy 2.3.5 and ml_dtypes 0.5.4, Python 3.11: one tensor of bfloat16, saved by save_file:
#
#   load_file(path)                      {'weight': array([0, 1, 2], dtype=bfloat16)}
#   load(open(path, "rb").read())        KeyError: 'BF16'
#
# The two are documented as the same, from disk and from memory. Published weights are in BF16 more often than not, and whoever
# takes the error for a damaged file (as we did) refuses them. hcl_jax/workdir/init_from.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check safetensors==0.8.0 numpy==2.3.5 ml_dtypes==0.5.4
venv/bin/python - <<'PY'
import pathlib
import sys

import ml_dtypes
import numpy as np
import safetensors.numpy as safetensors

path = pathlib.Path("weights.safetensors")
safetensors.save_file({"weight": np.arange(3).astype(ml_dtypes.bfloat16)}, path)
print("load_file:", safetensors.load_file(path))
try:
    print("load:", safetensors.load(path.read_bytes()))
    raised = False
except KeyError as error:
    print("load: KeyError:", error)
    raised = True
sys.exit(not (raised))
PY
