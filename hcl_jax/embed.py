"""Writes what a trained run makes of its data, or of new data: features and labels as files, for other tools.

python -m hcl_jax.embed --workdir=DIR --output=DIR2
python -m hcl_jax.embed --workdir=DIR --output=DIR2 --view=image --output-name=z --step=1000 --split=test
python -m hcl_jax.embed --workdir=DIR --data=NEW --output=F.npz
python -m hcl_jax.embed --workdir=DIR --data=NEW --output=F.parquet

DIR2/train.npz and DIR2/test.npz hold features float32 [N, D], each label by its name, index int32 [N], the numbers of
the examples, and as text path [N], their files below the folder of the data, and class_names [C] (class_names_X of a
label X), where they are known; DIR2/settings.json says what they were made from. A recipe reads them with data.name=npz
data.dir=DIR2. F.npz holds the same of NEW: a picture, a folder with pictures at any depth, an .npz with the field of
the run's data, or the folder of a graph. A picture's class is the folder below NEW that has the name of one of the
run's classes, else the first. F.parquet is a table with a row a record, and class_name beside label; of the run's own
data (no --data) it has both splits, by the column split.
"""

import os
import sys
from typing import Any

from hcl_jax.cli import command_parser, plain_log
from hcl_jax.errors import InputError
from hcl_jax.runtime import distributed, programs


@plain_log()
def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command_parser("embed", __doc__)
    parser.add_argument("--workdir", required=True, metavar="DIR", type=os.path.expanduser)
    what = "a new or empty folder, F.npz or F.parquet"
    parser.add_argument("--output", required=True, metavar="DIR2", type=os.path.expanduser, help=what)
    parser.add_argument("--data", metavar="NEW", type=os.path.expanduser, help="new data in place of the run's own")
    parser.add_argument("--view", metavar="NAME", help="an evaluation view of the run; its only one when left out")
    parser.add_argument("--output-name", default="h", metavar="NAME", help="h, or a head of the view's tower")
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint; the newest when left out")
    parser.add_argument("--seed", type=int, metavar="S", help="whose model, where the run trained several")
    parser.add_argument("--split", help="of the run's own data: train, test or train,test, which is the default")
    known = parser.parse_args(arguments)
    if known.data is not None and known.split is not None:
        parser.error("--split is of the run's own data, and --data is given")
    distributed.prepare()
    programs.keep()
    from hcl_jax.trained.embedded import (  # late: they import JAX, for which --help need not wait
        SPLITS,
        embed,
        embed_new,
    )

    asked: dict[str, Any] = {"view": known.view, "output_name": known.output_name}
    asked |= {"step": known.step, "seed": known.seed}
    asked["say"] = lambda text: print(text, file=sys.stderr)
    split = ",".join(SPLITS) if known.split is None else known.split
    try:
        if known.data is not None:
            n, d = embed_new(known.workdir, known.data, known.output, **asked)
            print(f"{known.output}: {n} x {d}")
            return 0
        splits = tuple(dict.fromkeys(s.strip() for s in split.split(",") if s.strip()))
        made = embed(known.workdir, known.output, splits=splits, **asked)
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    ending = "" if known.output.lower().endswith(".parquet") else ".npz"
    print(f"{known.output}: " + ", ".join(f"{s}{ending} {n} x {d}" for s, (n, d) in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
