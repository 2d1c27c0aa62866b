"""Shapes of a recipe's batch, found in a separate process.

TensorFlow's memory is then free before the compiler takes its own.

python -m hcl_jax.plan.shapes reads {"config": ...} and writes {"specs": ...} or {"error": [where, found, allowed]}.
"""

import json
import sys
from typing import Any

from hcl_jax.errors import InputError

# Examples of the split `train` of data sets whose size can not be asked without them.
EXAMPLES = {"imagenet2012": 1_281_167, "cifar10": 50_000, "fashion_mnist": 60_000, "digits": 1437}


def source_of(config: Any) -> tuple[Any, bool]:
    """A source with the shapes of the recipe's and no data, and whether an epoch is as long as the recipe's."""
    from hcl_jax import data
    from hcl_jax.data.synthetic import MADE

    asked = config.data
    examples = EXAMPLES.get(asked.name, 0) if asked.train_split == "train" else 0
    examples = min(asked.num_examples or examples, examples or asked.num_examples)
    shapes = type(asked)({**asked, "num_examples": examples})
    known = examples or asked.name in MADE or asked.sample or asked.order == "whole"
    return data.random_like(shapes, config.views, sources=data.SOURCES), bool(known)


def specs(config: Any) -> Any:
    """{...: [dtype, *shape]} of a completed config's batch."""
    from hcl_jax import data
    from hcl_jax.config import validate
    from hcl_jax.encoders import ENCODERS, HEADS
    from hcl_jax.losses import LOSSES
    from hcl_jax.views import VIEWS

    validate.check(config, encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
    source, _ = source_of(config)
    order = config.data.order
    made = data.batch_specs(source, config.views, seed=config.seed, batch_size=config.data.batch_size, order=order)
    return _plain(made)


def _plain(tree: Any) -> Any:
    return {k: _plain(v) for k, v in tree.items()} if isinstance(tree, dict) else [tree.dtype.name, *tree.shape]


def structs(plain: Any) -> Any:
    """The batch of jax.ShapeDtypeStruct that `specs` wrote."""
    import jax

    if isinstance(plain, dict):
        return {k: structs(v) for k, v in plain.items()}
    return jax.ShapeDtypeStruct(tuple(plain[1:]), plain[0])


def main() -> int:
    """Reads the request from standard input, writes the answer to standard output."""
    from hcl_jax import config as configs

    config = configs.complete(configs.with_younger(json.loads(sys.stdin.read())["config"]))
    try:
        found: dict[str, Any] = {"specs": specs(config)}
    except InputError as error:
        found = {"error": [error.where, str(error.found), error.allowed]}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
