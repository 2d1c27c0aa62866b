#!/usr/bin/env bash
# tf.random.experimental.index_shuffle orders different seeds alike.
#
# Seen with tensorflow 2.21.0, Python 3.11, CPU:
#
#   n = 1,437      correlation of two orders between -0.07 and 0.06
#   n = 50,000     between 0.75 and 0.76
#   n = 65,536     1.00
#
# Each order is a permutation, and two of them share almost no place. But with n near a power of four and the default of 4
# rounds, an element that stands early under one seed stands early under every other: the correlation between the
# positions of the same element, expected to be 0 +- 1 / sqrt(n), is 0.75 and 1.0. Shuffled by (seed, epoch), an epoch of
# 65,536 records would run through the data in nearly the same direction each time. A look at the first few elements or a
# count of fixed points does not show it.
#
# The raw op has an attribute `rounds`; 16 rounds bring all three correlations to the noise. hcl_jax/data/order.py.
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


def correlations(n, rounds=None):
    """Between the places of the same elements, over all pairs of four seeds."""
    index = tf.range(n, dtype=tf.int64)
    orders = []
    for epoch in range(4):
        if rounds is None:
            order = tf.random.experimental.index_shuffle(index, [7, epoch], n - 1)
        else:
            order = tf.raw_ops.RandomIndexShuffle(index=index, seed=[7, 0, epoch], max_index=n - 1, rounds=rounds)
        orders.append(order.numpy())
        assert len(np.unique(order)) == n
    pairs = np.corrcoef(orders)[np.triu_indices(4, 1)]
    return float(pairs.min()), float(pairs.max())


seen = {n: correlations(n) for n in (1437, 50_000, 65_536)}
for n, (low, high) in seen.items():
    print(f"n = {n:,}: {low:.2f} to {high:.2f}; 16 rounds: {' to '.join(f'{c:.2f}' for c in correlations(n, 16))}")
sys.exit(not (seen[1437][1] < 0.2 and seen[50_000][0] > 0.6 and seen[65_536][0] > 0.95))
PY
