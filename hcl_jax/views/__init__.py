"""Views: what one example looks like from several sides. A view is a list of ops over the rows of a batch.

An op is `op(x, draws, **params) -> x`. Importing this package does not import TensorFlow.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hcl_jax.errors import InputError, nearest
from hcl_jax.views import colours, crops, frequency, graph, image, series, text
from hcl_jax.views.draws import Draws, Replay
from hcl_jax.views.lazy import tf
from hcl_jax.views.resample import unit

__all__ = ["KINDS", "VIEWS", "Draws", "Replay", "check_ops", "make_view"]

VIEWS: dict[str, Callable[..., Any]] = {
    "random_resized_crop": crops.random_resized_crop,
    "centre_crop": crops.centre_crop,
    "resize": crops.resize,
    "pad_crop": crops.pad_crop,
    "erase": crops.erase,
    "cutout": crops.cutout,
    "flip": image.flip,
    "rotate90": image.rotate90,
    "random_affine": image.random_affine,
    "blur": image.blur,
    "noise": image.noise,
    "shuffle_patches": image.shuffle_patches,
    "color_jitter": colours.color_jitter,
    "grey": colours.grey,
    "solarise": colours.solarise,
    "invert": colours.invert,
    "gamma": colours.gamma,
    "clip": colours.clip,
    "normalise": colours.normalise,
    "flatten_alpha": colours.flatten_alpha,
    "to_rgb": colours.to_rgb,
    "jitter": series.jitter,
    "scale": series.scale,
    "negate": series.negate,
    "flip_time": series.flip_time,
    "permute": series.permute,
    "warp": series.warp,
    "magnitude_warp": series.magnitude_warp,
    "crop": series.crop,
    "crop_resize": series.crop_resize,
    "overlapping_crops": series.overlapping_crops,
    "drop_channels": series.drop_channels,
    "shuffle_channels": series.shuffle_channels,
    "rotate_axes": series.rotate_axes,
    "mask_time": series.mask_time,
    "z_normalise": series.z_normalise,
    "fill_missing": series.fill_missing,
    "band_limit": frequency.band_limit,
    "shift_phase": frequency.shift_phase,
    "scale_spectrum": frequency.scale_spectrum,
    "spectrum": frequency.spectrum,
    "tokens": text.tokens,
    "drop_words": text.drop_words,
    "drop_tokens": text.drop_tokens,
    "crop_tokens": text.crop_tokens,
    "mask_tokens": text.mask_tokens,
    "after": text.after,
    "drop_edges": graph.drop_edges,
    "mask_features": graph.mask_features,
    "mask_nodes": graph.mask_nodes,
    "drop_nodes": graph.drop_nodes,
    "perturb_edges": graph.perturb_edges,
    "subgraph": graph.subgraph,
    "augment_graph": graph.augment_graph,
}


def _start_image(x: Any) -> Any:
    if x.dtype == tf.string:
        return x
    # Every op sees numbers from 0 to 1, also one that a user wrote.
    return unit(x[..., None] if x.shape.rank == 3 else x, "the picture")


def _start_series(x: Any) -> Any:
    return series.steps(x, "series")


def _finish_image(x: Any) -> Any:
    return unit(x, "the finished picture")


def _finish_text(x: Any) -> Any:
    if not x.dtype.is_integer or x.shape.rank != 2:
        raise InputError("the finished text", f"{x.dtype.name} of shape {x.shape}", "ids int [n, L]: add the op tokens")
    return tf.cast(x, tf.int32)


def _start_graph(x: Any) -> Any:
    if not isinstance(x, dict) or "nodes" not in x or "edges" not in x:
        raise InputError("the graph", f"{sorted(x) if isinstance(x, dict) else 'one array'}", "nodes, edges and masks")
    return {**x, "nodes": tf.cast(x["nodes"], tf.float32)}


def _features(x: Any) -> Any:
    if x.dtype in (tf.string, tf.bool) or x.shape.rank != 2 or None in x.shape[1:].as_list():
        raise InputError("the features", f"{x.dtype.name} of shape {x.shape}", "numbers [n, D] of one known width")
    return tf.cast(x, tf.float32)


# kind -> (the key in the view, what is done to the field before the ops, and after them). Without a key the field is
# several arrays, each under its own name.
KINDS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "image": ("image", _start_image, _finish_image),
    "series": ("series", _start_series, _start_series),
    "text": ("tokens", lambda x: x, _finish_text),
    "graph": ("", _start_graph, lambda x: x),
    "features": ("features", _features, _features),
}


def check_ops(ops: Any, views: Mapping[str, Callable[..., Any]] = VIEWS, where: str = "view") -> None:
    """Refuses unknown op names and parameters; needs no TensorFlow.

    Args:
      ops: sequence of {"op": name, parameter: value, ...}.
      views: op name -> function.
      where: the config field, for the error text.

    Raises:
      InputError: an unknown or missing name or parameter.
    """
    for k, op in enumerate(ops):
        name = dict(op).get("op")
        if not isinstance(name, str) or name not in views:
            raise InputError(f"{where}.ops[{k}].op", repr(name), nearest(str(name), views))
        rest = list(inspect.signature(views[name]).parameters.values())[2:]
        if any(p.kind is p.VAR_KEYWORD for p in rest):
            continue
        known = [p.name for p in rest]
        given = [key for key in dict(op) if key != "op"]
        for key in given:
            if key not in known:
                raise InputError(f"{where}.ops[{k}].{key}", f"a parameter that {name} lacks", nearest(key, known))
        for p in rest:
            if p.default is p.empty and p.name not in given:
                raise InputError(f"{where}.ops[{k}]", f"{name} without {p.name}", f"{p.name} must be given")


def make_view(
    spec: Mapping[str, Any],
    record_field: Any,
    draws: Draws | Replay,
    views: Mapping[str, Callable[..., Any]] = VIEWS,
    where: str = "view",
    upright: bool = True,
    tokenizer: str = "bytes",
) -> dict[str, Any]:
    """Runs a view's ops over the local rows of one field.

    The numbers of an op go by its name (`flip`, the second one `flip#2`), not by its place: views that share a salt
    share the numbers of the ops that both have.

    Args:
      spec: {"kind": "image" | "series" | "text" | "graph" | "features", "ops": ({"op": name, ...}, ...)}.
      record_field: [n, ...], or encoded pictures or text as strings [n].
      draws: the numbers; their record and targets grow.
      views: op name -> function.
      where: the config field, for error texts.
      upright: of ops that decode pictures and whose `upright` the spec does not give.
      tokenizer: of ops that make ids of text and whose `tokenizer` the spec does not give.

    Returns:
      {"image": float32 [n, H, W, C]} | {"series": float32 [n, T, C]} | {"tokens": int32 [n, L]}
      | {"features": float32 [n, D]} | the arrays of a graph, and the ops' targets.

    Raises:
      InputError: an unknown kind, op or parameter, or one out of range.
    """
    spec = dict(spec)
    kind = spec.get("kind")
    if kind not in KINDS:
        raise InputError(f"{where}.kind", repr(kind), ", ".join(KINDS))
    ops = tuple(spec.get("ops", ()))
    check_ops(ops, views, where)
    # Plain graph building: AutoGraph would rewrite every op, seconds for nothing.
    of_data = {"upright": upright, "tokenizer": tokenizer}
    return tf.autograph.experimental.do_not_convert(_run)(kind, ops, record_field, draws, views, where, of_data)


def _run(kind: str, ops: Any, field: Any, draws: Any, views: Any, where: str, of_data: Any) -> dict[str, Any]:
    key, start, finish = KINDS[kind]
    seen: dict[str, int] = {}
    at = where
    try:
        x = start(tf.nest.map_structure(tf.convert_to_tensor, field))
        for k, op in enumerate(ops):
            params = dict(op)
            name = params.pop("op")
            seen[name] = seen.get(name, 0) + 1
            at = f"{where}.ops[{k}]"
            params = {k: v for k, v in of_data.items() if k in inspect.signature(views[name]).parameters} | params
            x = views[name](x, draws.scope(name if seen[name] == 1 else f"{name}#{seen[name]}"), **params)
        at = where
        view = {key: finish(x)} if key else finish(x)
        overlap = sorted(set(view) & set(draws.targets))
        if overlap:
            raise InputError(f"target {overlap[0]!r}", "made by an op", "another name")
        return {**view, **draws.targets}
    except InputError as error:
        raise error.below(at) from None
