#!/usr/bin/env bash
# tf.io.decode_image gives a BMP with a palette as its indices: other colours, and no error.
#
# Seen with tensorflow 2.21.0 and pillow 12.0.0, Python 3.11: a picture of 4 x 2 pixels in three colours, saved by Pillow in mode
# P, decoded with channels=3:
#
#   PNG, GIF  [[200 30 10] [0 0 255] [10 250 90]]   as saved
#   BMP       [[0 0 0] [1 1 1] [2 2 2]]             the numbers of the colours, up to 254 of 255 off
#
# BMP is among the formats that decode_image names, and a BMP in RGB or grey decodes well; so a folder in which a few
# pictures of 256 colours or fewer are BMPs trains on nearly black ones. hcl_jax/data/folder.py passes .bmp over, in a line.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check tensorflow==2.21.0 numpy==2.3.5 pillow==12.0.0
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - <<'PY'
import io
import sys

import numpy as np
import tensorflow as tf
from PIL import Image

picture = Image.new("P", (4, 2))
picture.putpalette([200, 30, 10, 0, 0, 255, 10, 250, 90] + [0] * (253 * 3))
picture.putdata([0, 1, 2, 0, 1, 2, 0, 1])
apart = {}
for kind in ("PNG", "GIF", "BMP"):
    file = io.BytesIO()
    picture.save(file, kind)
    shown = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB")).astype(int)
    decoded = tf.io.decode_image(file.getvalue(), channels=3, expand_animations=False).numpy().astype(int)
    apart[kind] = abs(decoded - shown).max()
    print(kind, decoded[0, :3].tolist(), "at most", apart[kind], "of 255 off")
sys.exit(not (apart["PNG"] == apart["GIF"] == 0 and apart["BMP"] == 254))
PY
