#!/usr/bin/env bash
# Colour changes of Pillow cut down to whole levels and do not round: each makes a picture half a level darker.
#
# Seen with pillow 12.0.0, Python 3.11: a ramp of all 256 greys changed by ImageEnhance.Brightness, against the exact product in
# levels of 255, over 99 factors from 0.5 to 0.99:
#
#   mean error  -0.49 levels, of each factor -0.54 to -0.25 (with rounding it would be 0)
#
# torchvision's ColorJitter on PIL images is made of these operations, several in a row, so its views are darker than those of the
# same factors on numbers. hcl_jax/views works in float32 without rounding; docs/parts.md and the recipes' headers say so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check numpy==2.3.5 pillow==12.0.0
venv/bin/python - <<'PY'
import sys

import numpy as np
from PIL import Image, ImageEnhance

ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
errors = []
for factor in np.linspace(0.5, 0.99, 99):
    made = np.asarray(ImageEnhance.Brightness(Image.fromarray(ramp)).enhance(factor)).astype(float)
    errors.append((made - ramp * factor).mean())
print(f"mean error {np.mean(errors):.2f} levels, of each factor {np.min(errors):.2f} to {np.max(errors):.2f}")
sys.exit(not (-0.55 < np.mean(errors) < -0.4))
PY
