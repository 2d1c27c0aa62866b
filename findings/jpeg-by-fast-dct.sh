#!/usr/bin/env bash
# TensorFlow decodes a JPEG by libjpeg's fast integer transform unless told otherwise: other pixels than Pillow's in two places of three.
#
# Seen with tensorflow 2.21.0 and pillow 12.0.0, Python 3.11, x86-64 CPU: a colour picture of 320 x 240 with some grain, saved at quality 90,
# decoded to uint8, beside Image.open:
#
#                                                        mean difference   largest   numbers that differ
#   tf.io.decode_jpeg, tf.io.decode_image                     1.004           5            66.1 %
#   tf.io.decode_jpeg(dct_method="INTEGER_ACCURATE")          0.000           0             0.0 %
#
# The documentation calls the default a choice of the system that may change; both libraries sit on libjpeg-turbo, whose own default is the
# accurate transform. So a network that was trained on pictures that PIL or torchvision read, and is evaluated behind tf.data, sees a level of
# noise that augmentation and resize filters are then blamed for. It is decode_image's only way: that function has no such argument.
#
# hcl_jax/views/crops.py: `dct` is an argument of the ops that decode, "accurate" with like="torchvision" or "pillow".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check tensorflow==2.21.0 pillow==12.0.0 numpy==2.3.5
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - <<'PY'
import io
import sys

import numpy as np
import tensorflow as tf
from PIL import Image

y, x = np.mgrid[:240, :320]
waves = np.stack([np.sin(x / 17) * np.cos(y / 23), np.cos(x / 9 + y / 31), np.sin(y / 13)], axis=-1)
grain = np.random.default_rng(0).normal(0, 8, waves.shape)
file = io.BytesIO()
Image.fromarray((127 + 120 * waves + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
read = np.asarray(Image.open(file)).astype(int)


def difference(decoded):
    off = np.abs(decoded.numpy().astype(int) - read)
    return off.mean(), off.max(), (off > 0).mean()


default = difference(tf.io.decode_jpeg(file.getvalue()))
image = difference(tf.io.decode_image(file.getvalue()))
accurate = difference(tf.io.decode_jpeg(file.getvalue(), dct_method="INTEGER_ACCURATE"))
for name, (mean, largest, share) in {"decode_jpeg": default, "decode_image": image, "accurate": accurate}.items():
    print(f"{name:14s} mean {mean:.3f}  largest {largest}  differ {share:.1%}")
sys.exit(not (default == image and default[0] > 0.5 and default[2] > 0.5 and accurate == (0, 0, 0)))
PY
