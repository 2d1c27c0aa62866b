"""Finds the records of a run that are nearest to a new one, by the cosine of their features: a table and a picture.

python -m hcl_jax.neighbours --workdir=DIR --query=IMG --output=hits.png
python -m hcl_jax.neighbours --workdir=DIR --query=IMG --data=NEW --k=12

IMG is a picture, a folder of them, or an .npz with the field of the run's data (series, features), one query a record;
--text=WORDS is the query of a run that reads text. NEW, as IMG, is searched in place of the run's own records.
"""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.cli import command_parser, plain_log
from hcl_jax.errors import InputError

MOST_DRAWN = 20  # queries of a contact sheet
ENDINGS = (".png", ".pdf", ".svg")


class Hit(NamedTuple):
    """A record that was found.

    Fields:
      row: its row in the features that were searched.
      similarity: cosine with the query.
      name: its path, or its number.
      class_name: "" where it is not known.
    """

    row: int
    similarity: float
    name: str
    class_name: str


def nearest(query: Any, bank: Any, k: int) -> list[list[Hit]]:
    """The k rows of `bank` nearest to each row of `query`, best first.

    Args:
      query, bank: what `Model.encoded` or `Model.records` gives.
      k: how many.

    Raises:
      InputError: fewer than k records.
    """
    from hcl_jax.evaluators.neighbours import nearest_rows, unit_rows

    if not 1 <= k <= len(bank.features):
        raise InputError("--k", k, f"1 to {len(bank.features)}, the records that are searched")
    similarities, rows = nearest_rows(unit_rows(query.features), unit_rows(bank.features), k)
    return [
        [Hit(int(r), float(s), bank.name(r), bank.class_of(r)) for s, r in zip(*pair, strict=True)]
        for pair in zip(similarities, rows, strict=True)
    ]


def table(name: str, hits: Sequence[Hit]) -> str:
    """The hits of one query as lines of text."""
    rows = [("rank", "similarity", "record", "class")]
    rows += [(str(i), f"{h.similarity:.4f}", h.name, h.class_name) for i, h in enumerate(hits, 1)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"nearest to {name}", *lines])


def draw(sheet: Sequence[Sequence[tuple[str, dict[str, np.ndarray]]]], output: str) -> None:
    """A contact sheet: a row a query, a column a record, each with its title."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from hcl_jax.preview import draw_one, save

    width = len(sheet[0])
    figure, axes = pyplot.subplots(len(sheet), width, squeeze=False, figsize=(1.6 * width, 1.9 * len(sheet)))
    for cells, records in zip(axes, sheet, strict=True):
        for cell, (title, view) in zip(cells, records, strict=True):
            draw_one(cell, view)
            cell.set_title(title, fontsize=7, parse_math=False)  # a name with two $ is no formula
    save(figure, output)


def neighbours(
    folder: str | os.PathLike,
    query: Any,
    *,
    given: Any = None,
    k: int = 8,
    split: str = "train",
    input: str | None = None,
    output_name: str = "h",
    step: int | None = None,
    seed: int | None = None,
    output: str = "",
    where: str = "--query",
    say: Callable[[str], None] = lambda text: None,
) -> list[list[Hit]]:
    """The records nearest to each query.

    Args:
      folder: the run's workdir.
      query: as `Model.encode` takes it.
      given: records to search, as `query`; None: those of the run.
      k: how many.
      split: of the run's records, train or test.
      input, output_name, step, seed: as of `hcl_jax.open` and `encode`.
      output: a picture to be written, or "".
      where: the argument that the query came by, for messages; --text is for runs that read text.
      say: where tables and lines of progress go.

    Raises:
      InputError: as `Model.encode`, and fewer than k records.
    """
    from hcl_jax import workdir
    from hcl_jax.trained import open as open_run
    from hcl_jax.trained import seed_of

    if where == "--text" and not all(text.strip() for text in query):
        raise InputError(where, "nothing", "words")

    seed_of(workdir.config_of(folder), seed)
    model = open_run(folder, step=step, seed=seed)
    kind = model.config.evaluate.views[model.view_of(output_name, input)]["kind"]
    if where == "--text" and kind != "text":
        raise InputError(where, "text", f"--query: the run reads records of kind {kind}")
    asked = model.encoded(query, output_name, input=input, where=where)
    if given is None:
        bank = model.records(split, output_name, input=input)
    else:
        most = model.config.data.max_bad_records
        bank = model.encoded(given, output_name, input=input, most_bad=most, where="--data")
    found = nearest(asked, bank, k)
    for row, hits in enumerate(found):
        say(table(asked.name(row), hits))
    if output:
        drawn = found[:MOST_DRAWN]
        rows = sorted({h.row for hits in drawn for h in hits})
        seen = dict(zip(rows, model.views(bank, rows, input=input), strict=True))
        queries = model.views(asked, range(len(drawn)), input=input)
        sheet = [
            [
                (f"query {asked.class_of(i)}\n{pathlib.PurePath(asked.name(i)).name}", queries[i]),
                *((f"{h.similarity:.3f} {h.class_name}\n{pathlib.PurePath(h.name).name}", seen[h.row]) for h in hits),
            ]
            for i, hits in enumerate(drawn)
        ]
        draw(sheet, output)
    return found


@plain_log()
def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = command_parser("neighbours", __doc__)
    parser.add_argument("--workdir", required=True, metavar="DIR", type=os.path.expanduser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--query", metavar="IMG", type=os.path.expanduser, help="a picture, a folder or an .npz")
    asked.add_argument("--text", metavar="WORDS", help="a text")
    parser.add_argument("--data", metavar="NEW", type=os.path.expanduser, help="searched in place of the run's records")
    parser.add_argument("--split", default="train", choices=("train", "test"), help="of the run's records")
    parser.add_argument("--k", type=int, default=8, metavar="N", help="how many; 8 when left out")
    parser.add_argument("--output", default="", metavar="FILE", help="a contact sheet: a .png, .pdf or .svg")
    parser.add_argument("--view", metavar="NAME", help="an input of the run; its only one when left out")
    parser.add_argument("--output-name", default="h", metavar="NAME", help="h, or a head of the view's tower")
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint; the newest when left out")
    parser.add_argument("--seed", type=int, metavar="S", help="whose model, where the run trained several")
    known = parser.parse_args(arguments)
    ending = known.output.lower().endswith(ENDINGS)
    if known.output and not (ending and pathlib.Path(known.output).absolute().parent.is_dir()):
        parser.error(f"--output={known.output} is no .png, .pdf or .svg in a folder that exists")
    from hcl_jax.runtime import distributed, programs

    distributed.prepare()
    programs.keep()
    try:
        neighbours(
            known.workdir, known.query if known.text is None else [known.text], given=known.data, k=known.k,
            split=known.split, input=known.view, output_name=known.output_name, step=known.step, seed=known.seed,
            output=known.output, where="--query" if known.text is None else "--text", say=print,
        )  # fmt: skip
    except InputError as error:
        print(f"hcl_jax: {error}", file=sys.stderr)
        return 2
    if known.output:
        print(f"written to {known.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
