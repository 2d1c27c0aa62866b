#!/usr/bin/env bash
# aeon reads the class labels of a .ts file in lower case, so that two classes can become one.
#
# Seen with aeon 1.6.0, Python 3.11: three series labelled Cat, cat and DOG, all named in the header:
#
#   @classLabel true Cat cat DOG      ->      y = ['cat' 'cat' 'dog'], two classes
#
# Nothing is said. The values are as in the file. A probe on such a set looks better than it is, and the names of classes do not
# match those of a table from elsewhere. hcl_jax/data/series.py refuses labels that differ in case alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check aeon==1.6.0
cat > pets.ts <<'TS'
@problemName pets
@timeStamps false
@missing false
@univariate true
@equalLength true
@seriesLength 3
@classLabel true Cat cat DOG
@data
1.0,2.0,3.0:Cat
4.0,5.0,6.0:cat
7.0,8.0,9.0:DOG
TS
venv/bin/python -W ignore - <<'PY'
import sys

from aeon.datasets import load_from_ts_file

x, y = load_from_ts_file("pets.ts")
print(x.shape, y)
sys.exit(not (list(y) == ["cat", "cat", "dog"]))
PY
