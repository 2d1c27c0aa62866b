"""Features of a run's records, or of new ones, as files for other tools: .npz or .parquet."""

import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hcl_jax import config as configs
from hcl_jax import workdir
from hcl_jax.config.check_towers import rows_of
from hcl_jax.data.arrays import CLASS_NAMES, class_names_key
from hcl_jax.disk import whole
from hcl_jax.errors import InputError, nearest
from hcl_jax.evaluators.groups import Features
from hcl_jax.run import Parts
from hcl_jax.trained import open as open_run
from hcl_jax.trained import opened, seed_of
from hcl_jax.workdir import card

SPLITS = ("train", "test")
KEYS = ("features", "index", "path", CLASS_NAMES)  # of the files; a label may not have these names
CLASS_NAME, SPLIT = "class_name", "split"  # of a .parquet alone; the class of a label X is class_name_X
ENDINGS = (".npz", ".parquet")
WRITABLE = "a folder that this user may write, with room"


def embed(
    folder: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    view: str | None = None,
    output_name: str = "h",
    step: int | None = None,
    seed: int | None = None,
    splits: Sequence[str] = SPLITS,
    parts: Parts | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, tuple[int, int]]:
    """Writes the features of a run's examples; reads config.json and runs no recipe.

    Args:
      folder: the run's workdir.
      output: a new or empty folder, or a new .parquet with a column `split`; it is there whole at the end, or not at
        all.
      view: one of the run's evaluation views; None: its only one.
      output_name: what of the view's tower is written, h or a head.
      step: which checkpoint; None: the newest.
      seed: whose model, where the run trained several; None: its only one.
      splits: some of train and test.
      parts: the tables of parts, where the run had some of its own.
      say: where a line of progress goes.

    Returns:
      {split: (N, D)}. Examples that lack the view are left out; `index` tells which are there.

    Raises:
      InputError: no such run, view, output, checkpoint or split; a folder that holds something; features that are no
        vectors or not finite.
    """
    for split in splits:
        if split not in SPLITS:
            raise InputError("--split", repr(split), "train, test or train,test")
    if not splits:
        raise InputError("--split", "nothing", "train, test or train,test")
    if step is not None and step < 0:
        raise InputError("--step", step, "the step of a checkpoint")
    one_file = str(output).lower().endswith(".parquet")
    if one_file:
        check_new(output)
    else:
        check_empty(output)
    frozen = workdir.config_of(folder)
    name, config = _only(frozen, view, output_name, (parts or Parts()).encoders)
    seed_of(frozen, seed)
    check_labels(config.data.labels, one_file)
    run, sources, evaluation, state, seed = opened(
        folder, config, step=step, seed=seed, parts=parts, splits=tuple(splits), say=say
    )
    train, made = sources["train"], {}
    for split in splits:
        say(f"embed: {name}.{output_name} of {sources[split].num_examples} examples, {split}")
        features = evaluation.features(split, *evaluation.weights(state), seed=seed)
        made[split] = _columns(features, name, output_name, f"{folder} {split}")
        source, index = sources[split], made[split]["index"]
        paths = None if source.paths is None else [source.paths[i] for i in index]
        made[split] |= words_of(paths, {k: v for k, v in source.class_names.items() if k in source.labels})
        lost = sources[split].num_examples - len(made[split]["index"])
        if lost:
            say(f"embed: {lost} examples have no {name} and are left out, {split}")
    settings = {
        "workdir": str(folder),
        "config_sha256": hashlib.sha256(configs.to_json(frozen).encode()).hexdigest(),
        "step": int(state.step),
        "seed": seed,
        "view": name,
        "output": output_name,
        "source": train.name,
        "classes": dict(train.labels),
        "splits": {
            s: {"examples": len(c["index"]), "width": c["features"].shape[1], "fingerprint": sources[s].fingerprint}
            for s, c in made.items()
        },
        "versions": card.versions(),
    }
    if jax.process_index() == 0 and one_file:
        with _writable(output):
            write(output, made, settings)
    elif jax.process_index() == 0:
        with new_folder(output) as part:
            for split, columns in made.items():
                write(part / f"{split}.npz", {"": columns})
            whole.write(part / "settings.json", json.dumps(settings, indent=1, sort_keys=True) + "\n")
    return {s: c["features"].shape for s, c in made.items()}


def embed_new(
    folder: str | pathlib.Path,
    given: str,
    output: str | pathlib.Path,
    *,
    view: str | None = None,
    output_name: str = "h",
    step: int | None = None,
    seed: int | None = None,
    parts: Parts | None = None,
    say: Callable[[str], None] = print,
) -> tuple[int, int]:
    """Writes the features of records that the run has not seen.

    Args:
      folder: the run's workdir.
      given: what `encode` takes as a path: a picture, a folder of pictures, an .npz, a folder with a graph.
      output: a new .npz or .parquet.
      view, output_name, step, seed, parts, say: as for `embed`.

    Returns:
      (N, D). Up to `data.max_bad_records` that cannot be read are left out; `index` tells which are there.

    Raises:
      InputError: as `embed`, and for data of another kind or shape than the run's.
    """
    check_new(output)
    if not os.path.exists(given):
        raise InputError("--data", f"no file or folder {given}", "a picture, a folder with pictures, or an .npz")
    frozen = workdir.config_of(folder)
    name, _ = _only(frozen, view, output_name, (parts or Parts()).encoders)
    seed_of(frozen, seed)
    model = open_run(folder, step=step, seed=seed, parts=parts, say=say)
    made = model.encoded(given, output_name, input=name, most_bad=frozen.data.max_bad_records, where="--data")
    if made.features.ndim != 2:
        raise InputError("--output-name", f"{output_name!r} of shape {made.features.shape}", "one vector [N, D]")
    columns = {"features": made.features, **made.labels, "index": made.rows.astype(np.int32)}
    columns |= words_of(made.paths, made.class_names)
    if jax.process_index() == 0:
        with _writable(output):
            write(output, {"": columns})
    return made.features.shape


def write(output: str | pathlib.Path, parts: Mapping[str, Mapping[str, np.ndarray]], settings: Any = None) -> None:
    """Writes a file by its ending, whole or not at all: an .npz of the only part, or a .parquet of all.

    Args:
      output: its name.
      parts: split -> the arrays of its records; the name "" is of records without one.
      settings: what the metadata of a .parquet has as `hcl_jax`.
    """
    with whole.replacing(output) as file:
        if str(output).lower().endswith(".npz"):
            (columns,) = parts.values()
            np.savez(file, **columns)  # type: ignore[arg-type]
            return
        import pyarrow
        from pyarrow import parquet

        tables = [table(columns, split) for split, columns in parts.items()]
        made = pyarrow.concat_tables(tables, promote_options="permissive")
        made = made if settings is None else made.replace_schema_metadata({"hcl_jax": json.dumps(settings)})
        parquet.write_table(made, file)


def table(columns: Mapping[str, np.ndarray], split: str = "") -> Any:
    """The arrays of an .npz as a table of Arrow: a row a record, its class by name beside its number.

    Args:
      columns: features [N, D], labels [N, ...], index [N], path [N] and class_names [C], as an .npz has them.
      split: of the records; "" leaves that column out.
    """
    import pyarrow

    rows, made = len(columns["features"]), {}
    for key, value in columns.items():
        if key.startswith(CLASS_NAMES):
            continue
        made[key] = _cells(pyarrow, value)
        names = columns.get(class_names_key(key))
        if names is not None and value.ndim == 1:
            word = CLASS_NAME if key == "label" else f"{CLASS_NAME}_{key}"
            made[word] = pyarrow.array(
                [_utf8(names[n]) if 0 <= n < len(names) else None for n in value], pyarrow.string()
            )
    if split:
        made[SPLIT] = pyarrow.array([split] * rows, pyarrow.string())
    return pyarrow.table(made)


def _cells(pyarrow: Any, value: np.ndarray) -> Any:
    """A column of Arrow: numbers or text, or lists of a fixed size of them."""
    made = pyarrow.array([_utf8(x) for x in value.ravel().tolist()] if value.dtype.kind == "U" else value.ravel())
    for size in reversed(value.shape[1:]):
        made = pyarrow.FixedSizeListArray.from_arrays(made, size)
    return made


def _utf8(text: str) -> str:
    """A text as Arrow takes it; the name of a file may be no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _only(frozen: Any, view: str | None, output_name: str, encoders: Mapping) -> tuple[str, Any]:
    """The view's name, and the config with this view and output as its only evaluation."""
    known = frozen.evaluate.views
    if view is None and len(known) == 1:
        view = next(iter(known))
    if view is None or view not in known:
        allowed = f"an evaluation view of the run: {nearest(view or '', known)}"
        raise InputError("--view", "nothing" if view is None else repr(view), allowed)
    tower = known[view]["tower"]
    outputs = (*rows_of(frozen.towers[tower], encoders), *frozen.towers[tower]["heads"])
    if output_name not in outputs:
        raise InputError(
            "--output-name", repr(output_name), f"outputs of tower {tower}: {nearest(output_name, outputs)}"
        )
    plain = frozen.to_dict()
    plain["evaluate"]["evaluators"] = {}
    plain["evaluate"]["views"] = {view: {**plain["evaluate"]["views"][view], "output": output_name}}
    return view, configs.complete(configs.ConfigDict(plain))


def _columns(made: Features, view: str, output: str, where: str) -> dict[str, np.ndarray]:
    """The arrays of one file: rows that have the view."""
    there = made.present[view]
    features = np.asarray(made.outputs[view][output], np.float32)[there]
    if features.ndim != 2:
        raise InputError("--output-name", f"{output!r} of shape {features.shape}", "one vector [N, D] for each example")
    if not np.isfinite(features).all():
        raise InputError(where, f"features {view}.{output} that are not finite", "a checkpoint of a run that learnt")
    labels = {k: v[there] for k, v in made.labels.items()}
    return {"features": features, **labels, "index": made.rows[there].astype(np.int32)}


def words_of(paths: Sequence[str] | None, class_names: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """What is known by name, as arrays of text: `path` of the records, and the class names of their labels."""
    words = {class_names_key(k): v for k, v in class_names.items()} | ({} if paths is None else {"path": paths})
    return {k: np.array(v, np.str_) for k, v in words.items()}


def check_new(output: str | pathlib.Path) -> None:
    """Raises InputError unless `output` is a name for a new .npz or .parquet; writes nothing."""
    path, allowed = pathlib.Path(output), f"a new {' or '.join(ENDINGS)} in a folder that exists"
    ending = path.suffix.lower()
    if path.exists():
        raise InputError("--output", "a file or folder that is there", allowed)
    if ending not in ENDINGS or not path.absolute().parent.is_dir():
        raise InputError("--output", str(output), allowed)
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError("--output", f"{output}, but pyarrow is not installed", "an .npz, or pip install pyarrow")
    _check_parent(output)


def check_empty(output: str | pathlib.Path) -> None:
    """Raises InputError unless `output` is an empty folder or a name for a new one; writes nothing."""
    path = pathlib.Path(output)
    if path.is_dir():
        if any(path.iterdir()):
            raise InputError(f"--output={output}", "a folder that is not empty", "a new or empty folder")
    elif path.exists():
        raise InputError(f"--output={output}", "a file", "a new or empty folder")
    elif not path.absolute().parent.is_dir():
        raise InputError(f"--output={output}", f"no folder {path.absolute().parent}", "a new folder in one that exists")
    _check_parent(output)


def _check_parent(output: str | pathlib.Path) -> None:
    """Raises InputError where nothing can be made beside `output`; some file systems tell only when asked to write."""
    parent = pathlib.Path(output).absolute().parent
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--output={output}", f"{parent}, which this user may not write", WRITABLE)


@contextlib.contextmanager
def _writable(output: str | pathlib.Path) -> Iterator[None]:
    """What the file system says of `output` as one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--output={output}", error.strerror or str(error), WRITABLE) from None


def check_labels(labels: Sequence[str], one_file: bool) -> None:
    """Raises InputError for a label that has the name of another column: a .parquet has more of them than an .npz."""
    keys, stem = ((*KEYS, SPLIT, CLASS_NAME), CLASS_NAME) if one_file else (KEYS, CLASS_NAMES)
    for label in labels:
        if label in keys or label.startswith(stem):
            raise InputError("config.data.labels", repr(label), f"other names than {', '.join(keys)}")


@contextlib.contextmanager
def new_folder(output: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside `output` that becomes it when the block ends well, and goes away when it does not."""
    path = pathlib.Path(output).absolute()
    part = path.with_name(f"{path.name}.part-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with _writable(output):
            part.mkdir()
            yield part
            os.replace(part, path)  # onto an empty folder, or nothing
    finally:
        shutil.rmtree(part, ignore_errors=True)
