"""Where parameters and rows live: a (regex, spec) table for the state, and the rows that a process must make.

A parameter's path is its keys joined by "/", such as `image/encoder/stem/kernel`. The first rule whose regex is found
in the path (`re.search`) decides. A spec is one of

- `"replicate"`: a copy on every device;
- `"fsdp"`: the largest dimension that the fsdp axis divides is split over it (of equal ones the last), else a copy;
- `"columns"`: the last dimension over tensor, then another one over fsdp as above, each only where it divides;
- `"rows"`: the same with the last dimension but one over tensor (none of a vector);
- a tuple for the trailing dimensions: `(None, "tensor")` splits the last one over the tensor axis, `("fsdp", "tensor")`
  the last two, `(("fsdp", "tensor"),)` the last over both; dimensions in front are not split.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hcl_jax.errors import InputError
from hcl_jax.parallel.mesh import AXES, BATCH_AXES

Spec = str | tuple[Any, ...]
Rules = Sequence[tuple[str, Spec]]

# A transformer's pairs of products, columns then rows, talk once a pair (Shoeybi et al. 2019, arXiv:1909.08053).
DEFAULT_RULES: Rules = (
    ("(query|key|value|up)/(kernel|bias)$", "columns"),
    ("(attention/out|mlp/down)/kernel$", "rows"),
    (".*", "fsdp"),
)
TENSOR_DIMENSION = {"fsdp": None, "columns": -1, "rows": -2}
SPECS = '"fsdp", "columns", "rows", "replicate", or a tuple of axis names and None for the trailing dimensions'


def path_text(path: Iterable[Any]) -> str:
    """`image/encoder/stem/kernel` for a key path of jax.tree_util."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def flat_paths(tree: Any) -> dict[str, Any]:
    """Path -> leaf, in the order of jax.tree.leaves."""
    return {path_text(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def check_rules(rules: Rules, where: str = "config.mesh.rules") -> None:
    """Raises InputError for a rule that is no (regex, spec) pair or names an axis that does not exist."""
    for i, rule in enumerate(rules):
        if not isinstance(rule, list | tuple) or len(rule) != 2 or not isinstance(rule[0], str):
            raise InputError(f"{where}[{i}]", repr(rule), "a pair (regex, spec)")
        try:
            re.compile(rule[0])
        except re.error as error:
            raise InputError(f"{where}[{i}]", f"{rule[0]!r} ({error})", "a Python regular expression") from None
        if isinstance(rule[1], str):
            if rule[1] != "replicate" and rule[1] not in TENSOR_DIMENSION:
                raise InputError(f"{where}[{i}]", repr(rule[1]), SPECS)
            continue
        if not isinstance(rule[1], list | tuple):
            raise InputError(f"{where}[{i}]", repr(rule[1]), SPECS)
        names = [name for entry in rule[1] for name in _names(entry)]
        for name in names:
            if name not in AXES:
                raise InputError(f"{where}[{i}]", f"axis {name!r}", f"{', '.join(AXES)}, or None")
        if len(set(names)) < len(names):
            raise InputError(f"{where}[{i}]", f"an axis twice in {rule[1]!r}", "each axis at most once")


def _names(entry: Any) -> tuple[str, ...]:
    """The axis names in one entry of a spec: none, one, or several."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def resolve(path: str, shape: Sequence[int], mesh: Mesh, rules: Rules, strict: bool = True) -> PartitionSpec:
    """The PartitionSpec of one parameter by the first rule that its path matches.

    Args:
      path: "/"-joined.
      shape: of the parameter.
      mesh: from `make_mesh`.
      rules: `((regex, spec), ...)`.
      strict: a path that no rule matches is an error; else it is replicated.

    Raises:
      InputError: naming the parameter, when no rule matches it or the rule's spec does not fit its shape.
    """
    for i, (pattern, spec) in enumerate(rules):
        if re.search(pattern, path):
            return _fit(path, tuple(shape), mesh, f"config.mesh.rules[{i}]", spec)
    if strict:
        found = f"no rule for parameter {path} {tuple(shape)}"
        raise InputError("config.mesh.rules", found, "a last rule ('.*', 'fsdp') for the rest")
    return PartitionSpec()


def _fit(path: str, shape: tuple[int, ...], mesh: Mesh, where: str, spec: Spec) -> PartitionSpec:
    if spec == "replicate":
        return PartitionSpec()
    if isinstance(spec, str):
        return _named(shape, mesh, TENSOR_DIMENSION[spec])
    if len(spec) > len(shape):
        found = f"{spec!r} for {path}, which has {len(shape)} dimensions {shape}"
        raise InputError(where, found, "at most that many entries; a rule for it in front")
    entries: list[Any] = [None] * (len(shape) - len(spec))
    for size, entry in zip(shape[len(entries) :], spec, strict=True):
        names = _names(entry)
        ways = math.prod(mesh.shape[name] for name in names)
        if size % ways:
            found = f"a dimension of {size} of {path} {shape} split {ways} ways over {', '.join(names)}"
            raise InputError(where, found, "dimensions that divide; another rule for it in front")
        # An axis of size 1 splits nothing: leaving it out keeps the printed table honest.
        names = tuple(name for name in names if mesh.shape[name] > 1)
        entries.append(names[0] if len(names) == 1 else names or None)
    return _short(entries)


def _named(shape: tuple[int, ...], mesh: Mesh, tensor_dimension: int | None) -> PartitionSpec:
    """Tensor over the given dimension and fsdp over the largest of the others, each only where it divides."""
    entries: list[Any] = [None] * len(shape)
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    if tensor > 1 and tensor_dimension is not None and len(shape) >= -tensor_dimension:
        if shape[tensor_dimension] % tensor == 0:
            entries[tensor_dimension] = "tensor"
    fitting = [i for i, size in enumerate(shape) if entries[i] is None and size and size % fsdp == 0]
    if fsdp > 1 and fitting:
        entries[max(fitting, key=lambda i: (shape[i], i))] = "fsdp"
    return _short(entries)


def _short(entries: list[Any]) -> PartitionSpec:
    """Without the Nones at the end: P("fsdp") rather than P("fsdp", None), which is not equal to it."""
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def infer(tree_shapes: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES, strict: bool = True) -> Any:
    """A NamedSharding for every parameter, by the rules.

    Args:
      tree_shapes: pytree of arrays or ShapeDtypeStructs.
      mesh: from `make_mesh`.
      rules: `((regex, spec), ...)`, the first match decides.
      strict: see `resolve`.

    Returns:
      A pytree of NamedSharding of the same structure.

    Raises:
      InputError: naming the rule or the parameter.
    """
    check_rules(rules)

    def one(path: Any, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, resolve(path_text(path), leaf.shape, mesh, rules, strict))

    return jax.tree_util.tree_map_with_path(one, tree_shapes)


def state_shardings(abstract_state: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
    """A NamedSharding for every leaf of a training state.

    `params` follow the rules. Any other leaf whose path ends with a parameter's path and has its shape (the target's
    copy, momentum, Adam's moments, the weight average) follows that parameter; a "params" inside a path, as in
    `target/image/params/encoder/...`, does not count. All else is replicated: the step, keys, running statistics,
    memory slots and optimizer counters.

    Args:
      abstract_state: NamedTuple with a field `params`; leaves with `.shape`, as from `jax.eval_shape`.
      mesh: from `make_mesh`.
      rules: `((regex, spec), ...)`.

    Returns:
      A pytree of NamedSharding of the same structure, for `in_shardings`, `out_shardings` and restoring.

    Raises:
      InputError: naming the rule or the parameter.
    """
    followed = infer(abstract_state.params, mesh, rules)
    replicated = NamedSharding(mesh, PartitionSpec())

    def parts_of(path: str) -> tuple[str, ...]:
        return tuple(part for part in path.split("/") if part != "params")

    params = flat_paths(abstract_state.params).items()
    pairs = zip(params, jax.tree.leaves(followed), strict=True)
    known = {(parts_of(path), tuple(leaf.shape)): sharding for (path, leaf), sharding in pairs}

    def one(path: Any, leaf: Any) -> NamedSharding:
        parts = parts_of(path_text(path))
        tails = ((parts[start:], tuple(leaf.shape)) for start in range(1, len(parts)))  # the longest first
        return next((known[tail] for tail in tails if tail in known), replicated)

    rest = jax.tree_util.tree_map_with_path(one, abstract_state)
    return rest._replace(params=followed)


def table(params: Any, shardings: Any) -> str:
    """The parameter table that a run prints at start: path, shape, dtype, count, bytes, spec; totals below.

    Args:
      params: pytree of arrays or ShapeDtypeStructs.
      shardings: pytree of NamedSharding of the same structure.

    Returns:
      Text, one line a parameter. The last line gives the totals and the bytes on one device.
    """
    rows = [("parameter", "shape", "dtype", "count", "bytes", "spec")]
    total = total_bytes = on_one = 0
    for (path, leaf), sharding in zip(flat_paths(params).items(), jax.tree.leaves(shardings), strict=True):
        shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
        count = math.prod(shape)
        size = count * dtype.itemsize
        total, total_bytes = total + count, total_bytes + size
        on_one += math.prod(sharding.shard_shape(shape)) * dtype.itemsize
        shape_text = "x".join(map(str, shape)) or "()"
        rows.append((path, shape_text, dtype.name, f"{count:,}", f"{size:,}", _spec_text(sharding.spec)))
    a, b, c, d, e = (max(len(row[i]) for row in rows) for i in range(5))
    lines = [f"{p:<{a}}  {s:<{b}}  {t:<{c}}  {n:>{d}}  {m:>{e}}  {spec}" for p, s, t, n, m, spec in rows]
    lines.append(f"total {total:,} parameters, {total_bytes:,} bytes, {on_one:,} bytes a device")
    return "\n".join(lines)


def _spec_text(spec: PartitionSpec) -> str:
    return "(" + ", ".join("+".join(_names(entry)) or "-" for entry in spec) + ")" if len(spec) else "replicate"


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over data x fsdp; every tensor index has the same rows."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def local_rows(sharding: NamedSharding, batch_size: int, process_index: int | None = None) -> np.ndarray:
    """The global rows that a process must make, read from the sharding.

    On a pod the rows of a process are in general not contiguous, and with a tensor axis a row belongs to several
    processes, so nothing may be computed from the number of the process.

    Args:
      sharding: from `batch_sharding`.
      batch_size: global, in examples.
      process_index: default this process.

    Returns:
      Sorted unique rows, int64 [n].
    """
    if process_index is None:
        indices = list(sharding.addressable_devices_indices_map((batch_size,)).values())
    else:
        by_device: dict[Any, Any] = dict(sharding.devices_indices_map((batch_size,)))
        indices = [index for device, index in by_device.items() if device.process_index == process_index]
    parts = [np.arange(*index[0].indices(batch_size), dtype=np.int64) for index in indices if index is not None]
    return np.unique(np.concatenate(parts)) if parts else np.zeros((0,), np.int64)


def to_global(batch: Any, sharding: NamedSharding, rows: np.ndarray, batch_size: int) -> Any:
    """Global arrays from the rows that this process has.

    The arrays given must not be written to afterwards: on CPU a device may read them in place.

    Args:
      batch: pytree of NumPy arrays [n, ...], row i being global row rows[i].
      sharding: from `batch_sharding`.
      rows: sorted unique global rows, as from `local_rows`.
      batch_size: global, in examples.

    Returns:
      A pytree of global jax.Arrays [batch_size, ...].

    Raises:
      ValueError: when a leaf has not one row for each of `rows`, or `rows` lacks a row that a device here needs.
    """
    rows = np.asarray(rows)
    indices: dict[Any, Any] = dict(sharding.addressable_devices_indices_map((batch_size,)))
    places = [_place(index, rows, batch_size) for index in indices.values()]
    paths, structure = jax.tree_util.tree_flatten_with_path(batch)
    for path, leaf in paths:
        if not leaf.shape or leaf.shape[0] != rows.size:
            raise ValueError(f"batch leaf {path_text(path)} has shape {leaf.shape}; allowed: {rows.size} rows first")
    # One explicit transfer for the whole batch: jax.transfer_guard("disallow") lets device_put pass and stops
    # jax.make_array_from_callback.
    pieces = jax.device_put([[leaf[place] for place in places] for _, leaf in paths], [list(indices)] * len(paths))
    made = []
    for (_, leaf), arrays in zip(paths, pieces, strict=True):
        # The dtype is needed where a process has no row at all; int64 is int32 unless jax_enable_x64 is on.
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        shape = (batch_size, *leaf.shape[1:])
        made.append(jax.make_array_from_single_device_arrays(shape, sharding, arrays, dtype=dtype))
    return jax.tree.unflatten(structure, made)


def _place(index: Any, rows: np.ndarray, batch_size: int) -> slice:
    """Where the rows of a device's global index lie among `rows`."""
    start, stop, _ = index[0].indices(batch_size)
    first = int(np.searchsorted(rows, start))
    at = slice(first, first + stop - start)
    # Sorted and unique: consecutive rows that are all there lie side by side, so no copy is made.
    if not np.array_equal(rows[at], np.arange(start, stop)):
        raise ValueError(f"rows {start} to {stop - 1} are needed here and not all in `rows`: see local_rows")
    return at
