#!/usr/bin/env bash
# The same float32 number has another exp, cos or power in TensorFlow when it stands elsewhere in its vector.
#
# Seen with tensorflow 2.21.0, Python 3.11, x86-64 CPU: of 1,000 numbers, computed at once and in pieces of 7, so many
# differ in their last bit:
#
#   exp 116   cos 187   log 169   pow 229   rsqrt 375   sqrt 0
#
# The kernels take as many numbers at a time as a vector register holds, and the few at the end one by one, with another
# polynomial. Pieces of a multiple of 8 agree. So a row's result depends on how many rows were computed with it: hosts that
# share a batch in another way, or a batch that is cut short, get other bits for the same row, although nothing is summed
# across rows. In float64 the same happens, one rounding to float32 later it no longer shows.
#
# The counts depend on the processor; that there are some is checked. hcl_jax/views/image.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check tensorflow==2.21.0 numpy==2.3.5
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - <<'PY'
import sys

import numpy as np
import tensorflow as tf

numbers = tf.constant(np.random.default_rng(0).uniform(0, 6, size=1000), tf.float32)
functions = {
    "exp": tf.exp,
    "cos": tf.cos,
    "log": tf.math.log,
    "pow": lambda x: x**1.3,
    "rsqrt": tf.math.rsqrt,
    "sqrt": tf.sqrt,
}


def differing(function, piece, wide=False):
    def call(x):
        return tf.cast(function(tf.cast(x, tf.float64)), tf.float32).numpy() if wide else function(x).numpy()

    pieces = [call(numbers[i : i + piece]) for i in range(0, len(numbers), piece)]
    return int(np.sum(np.concatenate(pieces) != call(numbers)))


seen = {name: differing(function, 7) for name, function in functions.items()}
wide = {name: differing(function, 7, wide=True) for name, function in functions.items()}
print("float32, pieces of 7:", *(f"{name} {count}" for name, count in seen.items()))
print("float32, pieces of 8:", *(f"{name} {differing(function, 8)}" for name, function in functions.items()))
print("through float64, pieces of 7:", *(f"{name} {count}" for name, count in wide.items()))
sys.exit(not (seen["exp"] and seen["cos"] and seen["pow"] and not any(wide.values())))
PY
