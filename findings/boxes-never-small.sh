#!/usr/bin/env bash
# tf.image.sample_distorted_bounding_box gives the whole picture when it is asked for a small part of it.
#
# Seen with tensorflow 2.21.0, Python 3.11: 1,000 boxes of a picture of 100 x 100 pixels, the box around the whole picture given,
# area_range (0.02, 0.08), max_attempts 100:
#
#   min_object_covered=0.1 (the default)  1,000 of 1,000 are the whole picture
#   min_object_covered=0.0                parts of 2.1 to 8.0 %, as asked
#
# min_object_covered is a share of the object, which is the whole picture here, so every box below a tenth is rejected however
# often it is drawn, and after max_attempts the whole picture comes back without a word. With SimCLR's area_range (0.08, 1.0)
# it cuts off what lies between 8 and 10 %. Small crops of multi-crop methods (5 to 14 %) cannot be made with the default.
# hcl_jax/views/boxes.py has both as arguments.
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

whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])


@tf.function
def areas(covered):
    def one(seed):
        _, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            [100, 100, 3], whole, seed=[seed, 0], min_object_covered=covered, area_range=(0.02, 0.08), max_attempts=100
        )
        return size[0] * size[1]

    return tf.map_fn(one, tf.range(1000))


found = {covered: areas(covered).numpy() / 100**2 for covered in (0.1, 0.0)}
for covered, area in found.items():
    print(covered, f"{(area == 1).sum()} of {len(area)} are the whole picture; areas {area.min():.3f} to {area.max():.3f}")
sys.exit(not ((found[0.1] == 1).all() and found[0.0].max() < 0.1 and np.median(found[0.0]) < 0.08))
PY
