#!/usr/bin/env bash
# The compiler's cost analysis counts the body of a lax.scan once, however long the scan is.
#
# Seen with jax 0.10.2, CPU: products of 256 x 256 matrices in a scan, compiled(...).cost_analysis()["flops"]:
#
#   length     1      33,554,432
#   length    10      33,554,432      335,544,320 with unroll=True
#   length   100      33,554,432    3,355,443,200 with unroll=True
#
# The length is known at compile time, and the text of the program carries it. A utilisation (MFU) computed from this figure
# is too low by the number of layers where a model scans over its layers, by the number of sub-batches where it accumulates
# gradients, and it changes when a loop is unrolled although the work does not. "bytes accessed" has the same fault.
#
# hcl_jax/plan reads how often each loop runs and multiplies.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
JAX_PLATFORMS=cpu venv/bin/python - <<'PY'
import sys

import jax
import jax.numpy as jnp

SIZE = 256
weights = jnp.ones((SIZE, SIZE))


def cost(length, unroll):
    def products(x):
        return jax.lax.scan(lambda carry, _: (carry @ weights, None), x, None, length=length, unroll=unroll)[0]

    analysis = jax.jit(products).lower(weights).compile().cost_analysis()
    return analysis["flops"], analysis["bytes accessed"]


once = 2 * SIZE**3
loops, unrolled = ({length: cost(length, unroll) for length in (1, 10, 100)} for unroll in (1, True))
for length, (flops, size) in loops.items():
    print(f"length {length}: {flops:,.0f} FLOP, {size:,.0f} bytes; done are {once * length:,} FLOP")
    print("   unrolled: {:,.0f} FLOP, {:,.0f} bytes".format(*unrolled[length]))
counted_once = all(flops == once for flops, _ in loops.values())
sys.exit(not (counted_once and unrolled[100][0] == 100 * once and unrolled[100][1] > 10 * loops[100][1]))
PY
