#!/usr/bin/env bash
# `import tensorflow` imports all of Keras, though tf.keras is loaded lazily; where Keras cannot be imported it does without, silently.
#
# Seen with tensorflow 2.21.0 and keras 3.15.1, Python 3.11, on two busy cores:
#
#   import tensorflow                              keras is in sys.modules        4.5 CPU seconds
#   the same with sys.modules["keras"] = None      keras is not                   3.9 CPU seconds
#   then without that entry, tf.keras.layers.Dense works: Keras is imported at that moment
#
# In an environment that has jax, scipy and scikit-learn too, 8.5 and 5.1 to 6.0 CPU seconds (the seconds are printed, not checked).
# The last lines of TensorFlow's __init__ import keras.src.optimizers so that editors complete its names, and pass over an ImportError.
# A program that only reads data by tf.data pays for it at each start, and in each worker process.
# hcl_jax/views/lazy.py hides Keras from that import alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check tensorflow-cpu==2.21.0 keras==3.15.1 numpy==2.3.5
cat > look.py <<'PY'
import sys
import time

hidden = sys.argv[1] == "hidden"
if hidden:
    sys.modules["keras"] = None
began = time.process_time()
import tensorflow as tf

seconds = time.process_time() - began
loaded = sys.modules.pop("keras", None) is not None
if hidden:
    tf.keras.layers.Dense(2)
print(f"{sys.argv[1]}: keras loaded {loaded}, {seconds:.1f} CPU seconds", file=sys.stderr)
print(loaded, seconds)
PY
export TF_CPP_MIN_LOG_LEVEL=3
unset PYTHONDONTWRITEBYTECODE
venv/bin/python look.py plain > compiled.txt  # the bytecode is kept from here on
plain=$(venv/bin/python look.py plain)
hidden=$(venv/bin/python look.py hidden)
venv/bin/python - "$plain" "$hidden" <<'PY'
import sys

sys.exit(not ([text.split()[0] for text in sys.argv[1:]] == ["True", "False"]))
PY
