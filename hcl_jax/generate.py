"""Makes views offline: one view of a recipe over every example of a split, kept as arrays for other runs to read.

python -m hcl_jax.generate --config=simclr:digits --view=a --output=DIR
python -m hcl_jax.generate --config=simclr:digits --view=a --output=DIR --seed=1 --count=4

A stage of its own, so that whatever makes the views (here a view's ops) may be slow: it runs once. DIR gets
views.npy [N, count, ...] (images uint8, series float32), rows.npy [N], the numbers of the examples, hashes.npy
[N, 32], the sha256 of what each view was made from, settings.json, and MANIFEST.json, by which a reader finds a changed
byte. Run again, a stopped command goes on. A recipe
reads DIR with data.generated=DIR as the fields generated, generated_1, ...
"""

import argparse
import os
import sys

from hcl_jax import config as configs
from hcl_jax.cli import read_config, recipe_parser, with_overrides
from hcl_jax.errors import InputError, nearest


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The flags and the overrides; exits with 0 on --help and 2 on a fault."""
    parser = recipe_parser("generate", __doc__)
    parser.add_argument("--view", metavar="NAME", required=True, help="the view of the recipe whose ops are run")
    parser.add_argument("--output", metavar="DIR", required=True, type=os.path.expanduser)
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--count", type=int, default=1, help="views of each example")
    known, overrides = with_overrides(parser, arguments)
    return known, overrides


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    known, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        config = configs.complete(read_config(known, overrides))
        from hcl_jax import data
        from hcl_jax.config import validate
        from hcl_jax.data.offline import generate
        from hcl_jax.encoders import ENCODERS, HEADS
        from hcl_jax.losses import LOSSES
        from hcl_jax.views import VIEWS

        validate.check(config, encoders=ENCODERS, heads=HEADS, losses=LOSSES, views=VIEWS)
        if known.view not in config.views:
            raise InputError("--view", repr(known.view), f"a view of the recipe: {nearest(known.view, config.views)}")
        view = config.views[known.view].to_dict()
        # The plain examples: what else a run lays over them is not what the views are made from.
        plain = configs.ConfigDict(config.data.to_dict() | {"generated": "", "labelled": 1.0, "tokenizer": "bytes"})
        source = data.open_source(plain, plain[f"{known.split}_split"])
        more = {"seed": known.seed, "count": known.count, "where": f"config.views.{known.view}"}
        done = generate(source, view, known.output, **more)
    except (InputError, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        print(f"hcl_jax: {'stopped; the same command goes on' if stopped else error}", file=sys.stderr)
        return 130 if stopped else 2
    print(f"{known.output}: {known.count} views of each of {done} examples of {source.name}, {known.split}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
