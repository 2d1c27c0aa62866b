"""Learns a tokenizer from the texts that a recipe trains on, and writes it where the recipe reads it.

python -m hcl_jax.tokenizer --config=clip:icons --config.data.dir=DIR
python -m hcl_jax.tokenizer --config=clip:pairs --config.data.dir=DIR --vocabulary=4096 --output=mine.json

A byte pair encoding of bytes: any text has ids. The same texts give the same file. The file is a Hugging Face
tokenizer.json; a run reads it as --config.data.tokenizer=FILE.
"""

import argparse
import os
import sys

from hcl_jax import config as configs
from hcl_jax.cli import read_config, recipe_parser, with_overrides
from hcl_jax.errors import InputError
from hcl_jax.runtime import distributed


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The flags and the overrides; exits with 0 on --help and 2 on a fault."""
    parser = recipe_parser("tokenizer", __doc__)
    parser.add_argument("--view", metavar="NAME", default="", help="of the recipe; its only one with the op tokens")
    parser.add_argument("--vocabulary", type=int, metavar="N", help="most tokens; the encoder's vocab_size")
    parser.add_argument("--output", metavar="FILE", type=os.path.expanduser, help="a new file; config.data.tokenizer")
    known, overrides = with_overrides(parser, arguments)
    return known, overrides


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    known, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        config = configs.complete(read_config(known, overrides))
        distributed.prepare()
        from hcl_jax.config import validate
        from hcl_jax.run import Parts
        from hcl_jax.tokenizer import learning

        validate.check(config, **Parts().checked())
        view = learning.text_view(config, known.view)
        output = known.output or os.path.expanduser(config.data.tokenizer)
        if output == "bytes":
            raise InputError("--output", "nothing", "a new file, for config.data.tokenizer names none")
        size = learning.table_of(config, view) if known.vocabulary is None else known.vocabulary
        found = learning.learn(config, view, size, output)
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    print(
        f"{output}: {found.tokens:,} tokens from {found.texts:,} texts of view {view}, {found.mean:.1f} a text; "
        f"{found.cut:.1%} of them are cut"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
