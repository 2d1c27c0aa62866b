"""Records that a run has not seen, as sources of the kind that it was trained on.

What a view does to a picture depends on whether the records are pixels or encoded bytes, which a folder decides by the
sizes of all its pictures. Here the run's own records decide, so that one new picture is read as they were.
"""

import collections
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hcl_jax.data import images
from hcl_jax.data.arrays import npz
from hcl_jax.data.casts import finite_floats, whole_numbers
from hcl_jax.data.folder import ENDINGS, fetch_of, pictures_below, shown
from hcl_jax.data.graph_csv import new_graph
from hcl_jax.data.graphs import new_planetoid, tu
from hcl_jax.data.shrunk import all_shrunk
from hcl_jax.data.source import Arrays, Source, from_arrays, gather
from hcl_jax.errors import InputError, nearest
from hcl_jax.views import headers
from hcl_jax.views.lazy import tf

WHERE = "inputs"
MOST_IN_MEMORY = 4096  # files that are read, and made small, at once
Moments = Callable[[], tuple[np.ndarray, np.ndarray]]


class New(NamedTuple):
    """Some of the new records.

    Fields:
      rows: int [n], their numbers among all that were given.
      source: of the n records.
    """

    rows: np.ndarray
    source: Source


class Run(NamedTuple):
    """What new records are made to be like.

    Fields:
      source: the training records of the run.
      data: its `config.data`.
      moments: -> (mean, deviation) [C], by which its series were standardised; None where they were not.
    """

    source: Source
    data: Any
    moments: Moments | None = None


def records(given: Any, view: Mapping[str, Any], run: Run, where: str = WHERE) -> list[New]:
    """Sources of what was given for a view of a run.

    Args:
      given: of a view of pictures a path, a folder (pictures at any depth), paths, or uint8 or float [n, H, W, C]; of
        series [n, T, C], [n, T], or a list of [T, C]; of text a str, a list of them, or ids int [n, L]; of features
        [n, D]. The path of an npz with the view's field does for all of them. Of graphs a folder as the run's: both
        tables of one graph, Planetoid's npz, or the files of a TU set.
      view: an evaluation view of the run, {"kind", "field", ...}.
      run: what they are to be like.
      where: the argument, for messages.

    Raises:
      InputError: records of another kind or shape than the run's, nothing, or a file that is not there.
    """
    kind, field = view["kind"], view["field"]
    given = os.fspath(given) if isinstance(given, os.PathLike) else given
    if kind == "graph":
        return of_graphs(given, field, run, where)
    if isinstance(given, str) and given.endswith(".npz") and (kind != "text" or os.path.isfile(given)):
        return of_npz(given, view, run)
    if not isinstance(given, np.ndarray) and hasattr(given, "__array__"):
        given = np.asarray(given)
    strings: Any = [given] if isinstance(given, str | bytes) else given
    if not hasattr(strings, "__len__") or (isinstance(strings, np.ndarray) and not strings.ndim):
        raise InputError(where, type(given).__name__, f"records of the view's field {field}, of kind {kind}")
    if not len(strings):
        raise InputError(where, "nothing", "at least one record")
    if isinstance(strings, np.ndarray) and strings.dtype.kind in "OUS":
        strings = strings.tolist()
    if not isinstance(strings, np.ndarray) and all(isinstance(x, str | os.PathLike) for x in strings):
        return _of_strings([os.fspath(x) for x in strings], kind, field, run, where)
    if kind == "series":
        return _of_columns({field: _series(strings, run, field, where)}, run, where)
    try:
        array = np.asarray(strings)
    except ValueError:
        array = np.zeros(0, object)
    if array.dtype.kind not in "uifb":
        raise InputError(where, type(given).__name__, f"records of the view's field {field}, of kind {kind}")
    return of_array(array, kind, field, run, where)


def _of_strings(strings: list[str], kind: str, field: str, run: Run, where: str) -> list[New]:
    if kind == "text":
        _check_field(where, run.source, field, "string", "text")
        return _of_columns({field: np.array(strings, object)}, run, where)
    if kind != "image":
        arrays = "an array, a list of series" if kind == "series" else "an array"
        allowed = f"{arrays}, or the path of an .npz, for the view's field {field} is of kind {kind}"
        raise InputError(where, "str", allowed)
    paths: list[str] = []
    for path in map(os.path.expanduser, strings):
        if os.path.isdir(path):
            others: collections.Counter[str] = collections.Counter()
            found = sorted(pictures_below(path, others))
            if not found:
                raise InputError(shown(path), "no picture", f"files that end in {', '.join(ENDINGS)}")
            paths += [os.path.join(path, name) for name in found]
        elif os.path.isfile(path):
            paths.append(path)
        else:
            raise InputError(where, f"no file {shown(path)}", "paths of pictures, or a folder of them")
    root = os.path.expanduser(strings[0]) if len(strings) == 1 and os.path.isdir(os.path.expanduser(strings[0])) else ""
    return of_pictures(paths, field, run, root)


def of_pictures(paths: Sequence[str], field: str, run: Run, root: str = "") -> list[New]:
    """Picture files. Those of the run's one size are pixels where its own are; all others are encoded.

    Args:
      paths: of the files.
      field: of the run's source.
      run: as for `records`.
      root: the folder that names are relative to; folders below it that are named as the run's classes, or the first
        ones, are the classes.
    """
    inside = [os.path.relpath(p, root) if root else p for p in paths]
    labels, names = _classes(inside, run.source) if root else ({}, {})
    sides = _sides(run.source, field)
    exact = np.array([sides is not None and _fits(p, sides[:2], run) for p in paths])
    made = []
    for rows in (np.flatnonzero(exact), np.flatnonzero(~exact)):
        if not len(rows):
            continue
        some, said = [paths[i] for i in rows], [shown(inside[i]) for i in rows]
        spec: tuple[tuple[int | None, ...], str] = ((), "string")
        column: np.ndarray | None = None
        dense = sides is not None and exact[rows[0]] and sides[2] != images.CHANNELS
        if dense and sides is not None:
            turns = [_turn(p) if run.data.upright else 1 for p in some]
            column = images.decoded(some, channels=sides[2], describe=list(map(shown, some)).__getitem__, turns=turns)
            if column is None:
                raise InputError(shown(root), "pictures of other sizes than their headers say", "whole files")
            spec = (column.shape[1:], column.dtype.name)
        kept = {k: v[rows] for k, v in labels.items()}
        fetch = _reader(some, field, kept, run.data) if column is None else gather({field: column, **kept})
        source = Source(
            name="new", num_examples=len(rows), fetch=fetch, fields={field: spec},
            labels={k: len(names[k]) for k in kept}, present=None, fingerprint="", licence="", citation="",
            describe=list(map(shown, some)).__getitem__, class_names=names, known_labels=kept, paths=said,
            sides={field: sides[:2]} if exact[rows[0]] and sides is not None and not dense else {},
        )  # fmt: skip
        made.append(New(rows, _as_read(source, run)))
    return made


def _reader(
    paths: list[str], field: str, columns: Mapping[str, np.ndarray], data: Any
) -> Callable[[Any], dict[str, Any]]:
    """`fetch` of files as the run's folder reads them. Where it makes large pictures small, a few are kept as such."""
    in_memory = bool(data.shrink) and len(paths) <= MOST_IN_MEMORY
    read = fetch_of(paths, columns, _fields(data, in_memory=in_memory))

    def fetch(index: Any) -> dict[str, Any]:
        record = read(index)
        return {field: record.pop("image"), **record}

    return fetch


def of_array(array: np.ndarray, kind: str, field: str, run: Run, where: str) -> list[New]:
    """Numbers for a view of pictures, text or features."""
    shape, dtype = run.source.fields[field]
    if kind == "image":
        sides = _sides(run.source, field)
        if array.ndim == 3 and sides is None and array.shape[2] in (1, 3, 4):
            raise InputError(
                where, f"{array.dtype} of shape {array.shape}", "pictures [n, H, W, C]; one is picture[None]"
            )
        if array.ndim == 3 and (sides is None or sides[2] == 1):
            array = array[..., None]
        if array.ndim != 4:
            raise InputError(where, f"{array.dtype} of shape {array.shape}", "pictures [n, H, W, C]")
        if sides is not None:
            return _of_columns({field: array}, run, where)
        if array.dtype != np.uint8 or array.shape[3] not in (1, 3, 4):
            found = f"{array.dtype} of shape {array.shape}"
            raise InputError(where, found, "uint8 [n, H, W, 1, 3 or 4], for the run's pictures are files")
        encoded = [tf.io.encode_png(picture).numpy() for picture in array]
        if run.data.shrink:
            encoded = all_shrunk(encoded, run.data.shrink, run.data.upright, run.data.max_pixels)
        return _of_columns({field: np.array(encoded, object)}, run, where)
    if kind == "text":
        if dtype == "string":
            raise InputError(where, f"{array.dtype} of shape {array.shape}", "a list of str")
        array = whole_numbers(where, array, least=0)
    else:
        array = finite_floats(where, array)
    if array.shape[1:] != shape:
        raise InputError(where, f"{field} of shape {array.shape}", f"[n, {', '.join(map(str, shape))}], as the run's")
    return _of_columns({field: array}, run, where)


def of_graphs(given: Any, field: str, run: Run, where: str) -> list[New]:
    """The graph or graphs in a folder, read as the run reads its own; features are told apart by name."""
    forms = {"planetoid": "the only .npz in it, as Planetoid's", "tu": "the files of a TU set"}
    allowed = f"a folder with {forms.get(run.data.name, 'nodes.csv and edges.csv')}, as the run's"
    if not isinstance(given, str) or not os.path.isdir(os.path.expanduser(given)):
        found = f"no folder {given}" if isinstance(given, str) else type(given).__name__
        raise InputError(where, found, allowed)
    if not run.source.whole and run.data.name != "tu":
        raise InputError(where, "a folder", f"no new records: the graphs of {run.data.name} are made, not read")
    data = _fields(run.data, dir=given, num_examples=0, held_out=0.0)
    known = run.source.columns.get(field)
    try:
        if run.data.name == "tu":
            read = tu(data, "all")
            if known is not None:
                graph = dict(read.fields["graph"])
                graph["nodes"] = _by_name(graph["nodes"], read.columns["graph"], known, given)
                read = read._replace(fields={"graph": graph})
        else:
            read = new_planetoid(data) if run.data.name == "planetoid" else new_graph(data, known)
    except InputError as error:  # the folder was given by another flag than the run's
        raise InputError(error.where.replace("config.data.dir", where), error.found, error.allowed) from None
    labels, names = dict(read.labels), dict(read.class_names)
    for label, own in run.source.class_names.items():
        place = {name: i for i, name in enumerate(own)}
        if label in labels and label in names and any(name in place for name in names[label]):
            number = np.array([*(place.get(name, -1) for name in names[label]), -1], np.int32)  # the last of -1
            labels[label], names[label] = number[labels[label]], own
    classes = {k: max(n, run.source.labels.get(k, 0) if names.get(k, ()) in ((), run.source.class_names.get(k)) else 0)
               for k, n in read.classes.items()}  # fmt: skip
    read = read._replace(fields={field: read.fields["graph"]}, labels=labels, class_names=names, classes=classes)
    source = from_arrays(where, read, _fields(run.data, labels=tuple(labels), num_examples=0, num_classes=0), "new")
    return [New(np.arange(source.num_examples), _as_read(source, run))]


def _by_name(nodes: np.ndarray, columns: Sequence[str], known: Sequence[str], where: str) -> np.ndarray:
    """Features [..., F] in the places that the run has for them; a label that no new node has is 0 in all, where
    nodes have labels of its kind."""
    strangers = sorted(set(columns) - set(known))
    there = set(map(_feature, columns))
    lost = [_feature(name) for name in known if _feature(name) not in there]
    if strangers or lost:
        found = f"nodes with {strangers[0]}" if strangers else f"nodes without {lost[0]}"
        raise InputError(where, found, f"the features of the run's nodes: {nearest('', known)}")
    made = np.zeros((*nodes.shape[:-1], len(known)), np.float32)
    made[..., [known.index(name) for name in columns]] = nodes
    return made


def _feature(column: str) -> str:
    """What a column tells of: "label 0 is 4" of label 0."""
    return column.partition(" is ")[0]


def of_npz(path: str, view: Mapping[str, Any], run: Run) -> list[New]:
    """The view's field of an npz, with its labels, and the names of its records and classes."""
    path, field = os.path.expanduser(path), view["field"]
    if not os.path.isfile(path):
        raise InputError(WHERE, f"no file {path}", "the path of an npz")
    folder, name = os.path.split(os.path.abspath(path))
    split = name.removesuffix(".npz")
    read = npz(_fields(run.data, dir=folder, train_split=split, test_split=split, standardise=False), split)
    if field not in read.fields:
        raise InputError(path, f"no {field!r}", f"the run's field; there: {nearest(field, read.fields)}")
    column, text = read.fields[field], view["kind"] == "text" and run.source.fields[field][1] == "string"
    if view["kind"] == "series":
        column = _series(column, run, field, path)
    elif not text:
        made = of_array(column, view["kind"], field, run, path)[0].source
        return _of_columns({field: made.fetch(np.arange(len(column)))[field].numpy()}, run, path, read)
    return _of_columns({field: column}, run, path, read)


def _of_columns(columns: Mapping[str, np.ndarray], run: Run, where: str, read: Arrays | None = None) -> list[New]:
    read = Arrays({}, {}, {}, "", "") if read is None else read
    labels = {k: v for k, v in read.labels.items() if read.classes[k]}
    arrays = read._replace(fields=columns, labels=labels, names=read.paths, present={})
    data = _fields(run.data, labels=tuple(labels), num_examples=0, num_classes=0)
    source = from_arrays(where, arrays, data, "new")
    return [New(np.arange(source.num_examples), _as_read(source, run))]


def _as_read(source: Source, run: Run) -> Source:
    """The same records, read as those of the run."""
    asked = {"upright": run.source.upright, "max_pixels": run.source.max_pixels, "tokenizer": run.source.tokenizer}
    return source._replace(**asked)  # type: ignore[arg-type]


def _fields(data: Any, **own: Any) -> Any:
    return type(data)({**data.to_dict(), **own})


def _sides(source: Source, field: str) -> tuple[int, int, int] | None:
    """(height, width, channels) of the run's pictures where they are pixels to a view; None where they are encoded."""
    shape, dtype = source.fields[field]
    if dtype == "string":
        return (*source.sides[field], images.CHANNELS) if field in source.sides else None
    return tuple((*shape, 1)[:3])  # type: ignore[return-value]


def _header(path: str) -> headers.Header | None:
    try:
        with open(path, "rb") as file:
            return headers.header(file)
    except OSError:
        return None


def _turn(path: str) -> int:
    found = _header(path)
    return 1 if found is None else found.turn


def _fits(path: str, sides: tuple[int, int], run: Run) -> bool:
    """Whether a picture may be read as pixels of this size; one that cannot be read is refused later, by its name."""
    found = _header(path)
    if found is None or images.fault_of_header(path, found, run.data.max_pixels) is not None:
        return True
    turned = run.data.upright and found.turn >= 5
    here = (found.width, found.height) if turned else (found.height, found.width)
    return here == sides and not found.see_through


def _classes(paths: Sequence[str], source: Source) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """(labels, class names) by the folders of files: those named as the run's classes, else the first ones, if all
    files are in one."""
    folders = [shown(p).split(os.sep)[:-1] for p in paths]
    for label, known in source.class_names.items():
        number = {name: i for i, name in enumerate(known)}
        found = [next((number[f] for f in reversed(here) if f in number), -1) for here in folders]
        if max(found) >= 0:
            return {label: np.array(found, np.int32)}, {label: tuple(known)}
    if not all(folders):
        return {}, {}
    names = sorted({here[0] for here in folders})
    return {"label": np.array([names.index(here[0]) for here in folders], np.int32)}, {"label": tuple(names)}


def _series(given: Any, run: Run, field: str, where: str) -> np.ndarray:
    """Series as the run's: float32 [n, T, C], shorter ones filled up with nan, standardised where the run's are."""
    length, channels = (int(n or 0) for n in run.source.fields[field][0])
    asked = f"numbers [n, T] or [n, T, C] with T up to {length} and C {channels}, as the run's"
    rows = []
    for one in given:
        value = np.asarray(one)
        if value.dtype.kind not in "uifb" or value.ndim not in (1, 2):
            raise InputError(where, f"a series {value.dtype} of shape {value.shape}", asked)
        value = value[:, None] if value.ndim == 1 else value
        if value.shape[0] > length or value.shape[1] != channels:
            raise InputError(where, f"a series of shape {value.shape}", asked)
        rows.append(value.astype(np.float64))
    if run.moments is not None:
        mean, deviation = run.moments()
        rows = [(v - mean) / deviation for v in rows]
    out = np.full((len(rows), length, channels), np.nan, np.float32)
    for row, value in zip(out, rows, strict=True):
        row[: len(value)] = value
    return out


def _check_field(where: str, source: Source, field: str, dtype: str, found: str) -> None:
    shape, kind = source.fields[field]
    if kind != dtype:
        raise InputError(where, found, f"{kind} of shape [n, {', '.join(map(str, shape))}], as the run's {field}")
