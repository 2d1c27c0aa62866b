"""Starts a run from weights of another: a workdir's newest checkpoint, or a safetensors file."""

import hashlib
import re
from typing import Any

import jax
import numpy as np

from hcl_jax import workdir
from hcl_jax.core.state import TrainState
from hcl_jax.core.weight_average import restart_average
from hcl_jax.disk.reading import readable
from hcl_jax.errors import InputError, nearest
from hcl_jax.parallel.sharding import flat_paths, path_text
from hcl_jax.workdir import files, manifest
from hcl_jax.workdir.checkpoint import Checkpoints
from hcl_jax.workdir.checkpoint_steps import Steps

WHERE = "config.init_from"
PLAIN = {  # dtypes of safetensors that NumPy has
    "BOOL": "?",
    **{
        f"{kind}{bits}": f"<{letter}{bits // 8}"
        for kind, letter in (("I", "i"), ("U", "u"))
        for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}


def init_from(spec: Any, state: TrainState, seeds: int = 1) -> TrainState:
    """Replaces the parameters and running statistics that `include` matches and `exclude` does not.

    Args:
      spec: {"path", "rename", "include", "exclude", "frozen"}; an empty path changes nothing. Names are "/"-joined
        paths such as "image/encoder/...". `rename` holds (regex, replacement), used one after the other on the saved
        names; `include` and `exclude` are of this run's. Frozen weights are left to the optimizer (rules with
        multiplier 0).
      state: a fresh state.
      seeds: with more than one the state has a leading axis of seeds, and each run starts from the same weights.

    Raises:
      InputError: nothing at the path, no match, a leaf of another shape, or two saved leaves with one name.
    """
    if not spec.path:
        return state
    saved = _renamed(_read(files.path(spec.path, f"{WHERE}.path")), spec.rename)
    chosen: set[str] = set()

    def replace(tree: Any, part: str) -> Any:
        def one(path: Any, old: Any) -> Any:
            name = path_text(path)
            wanted = any(re.search(p, name) for p in spec.include) and not any(re.search(p, name) for p in spec.exclude)
            key = f"{part}/{name}"
            if not wanted or key not in saved:
                return old
            new = saved[key]
            wanted_shape = old.shape if seeds == 1 else old.shape[1:]
            if new.shape != wanted_shape:
                found = f"{name} of shape {new.shape}"
                raise InputError(f"{WHERE}.path", found, f"{wanted_shape}, or {WHERE}.exclude")
            new = new if seeds == 1 else np.broadcast_to(new, old.shape)
            chosen.add(key)
            return jax.device_put(new.astype(old.dtype), old.sharding)

        return jax.tree_util.tree_map_with_path(one, tree)

    params, model_state = replace(state.params, "params"), replace(state.model_state, "model_state")
    if not chosen:
        raise InputError(f"{WHERE}.include", repr(tuple(spec.include)), f"a pattern that matches: {nearest('', saved)}")
    target = {
        name: {
            "params": _copied(params[name], t["params"]),
            "batch_stats": _copied(model_state[name], t["batch_stats"]),
        }
        for name, t in state.target.items()
    }
    opt_state = restart_average(state.opt_state, params)
    return state._replace(params=params, model_state=model_state, target=target, opt_state=opt_state)


def content_of(spec: Any) -> dict[str, str]:
    """{field: digest} of the weights that `init_from` reads, which every process must read alike: a second a GiB.

    Raises:
      InputError: nothing there, or no whole checkpoint.
    """
    if not spec.path:
        return {}
    path = files.path(spec.path, f"{WHERE}.path")
    digest = hashlib.sha256()
    if path.suffix == ".safetensors":
        with readable(f"{WHERE}.path", "a .safetensors file or a workdir"):
            digest.update(path.read_bytes())
        return {f"{WHERE}.path": f"{path} {digest.hexdigest()[:16]}"}
    steps = Steps(path / "checkpoints", read_only=True)
    step = steps.newest(lambda text: None)
    # A manifest holds the sha256 of each file, and `newest` has held them against it.
    if step is not None and manifest.exists(steps.folder / str(step)):
        digest.update((steps.folder / str(step) / manifest.MANIFEST).read_bytes())
    return {f"{WHERE}.path": f"{path} step {step} {digest.hexdigest()[:16]}"}


def _copied(tree: Any, like: Any) -> Any:
    """The part of `tree` that `like` has, as arrays of their own: donation must not free what both hold."""
    heads = {h: tree["heads"][h] for h in like["heads"]}
    return jax.tree.map(lambda x: x.copy(), {"encoder": tree["encoder"], "heads": heads})


def _renamed(saved: dict[str, np.ndarray], rules: Any) -> dict[str, np.ndarray]:
    """The saved leaves by the names that they have in this run; the first part (params, model_state) stays."""
    renamed: dict[str, np.ndarray] = {}
    for key, leaf in saved.items():
        part, _, name = key.partition("/")
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if f"{part}/{name}" in renamed:
            raise InputError(f"{WHERE}.rename", f"two saved leaves {name!r}", "names of their own")
        renamed[f"{part}/{name}"] = leaf
    return renamed


def read_safetensors(path: files.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; those in bfloat16 or in 8 bits, which NumPy has not, as float32."""
    import ml_dtypes
    from safetensors import SafetensorError, deserialize

    narrow = {
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
    }
    try:
        stored = deserialize(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{WHERE}.path", f"{path}, which is damaged ({error})", "a .safetensors file") from None
    out = {}
    for name, array in stored:
        dtype = array["dtype"]
        if dtype not in narrow and dtype not in PLAIN:
            raise InputError(f"{WHERE}.path", f"{path}: {name} of dtype {dtype}", ", ".join([*PLAIN, *narrow]))
        values = np.frombuffer(array["data"], np.dtype(narrow.get(dtype) or PLAIN[dtype])).reshape(array["shape"])
        out[name] = values.astype(np.float32) if dtype in narrow else values
    return out


def _read(path: files.Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise InputError(f"{WHERE}.path", f"no file {path}", "a .safetensors file or a workdir")
        loaded = read_safetensors(path)
        prefixed = any(k.startswith(("params/", "model_state/")) for k in loaded)
        return loaded if prefixed else {f"params/{k.replace('.', '/')}": v for k, v in loaded.items()}
    folder = path / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"{WHERE}.path", f"no checkpoints in {path}", "a .safetensors file or a workdir")
    several = workdir.resume_config(path).train.seeds if (path / "config.json").is_file() else 1
    if several > 1:
        raise InputError(f"{WHERE}.path", f"{path}, a run of {several} seeds", "a run of one seed")
    import orbax.checkpoint as ocp

    step = Checkpoints(path, keep=1, meta={}, read_only=True).newest()
    # A handler for each item on disk: Orbax warns of items that it cannot read.
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager(
        folder.absolute() if files.is_disk(folder) else folder, item_handlers=handlers
    ) as manager:
        if step is None:
            raise InputError(f"{WHERE}.path", f"no finished checkpoint in {folder}", "a workdir with one")
        metadata = manager.item_metadata(step)["state"]
        tree = getattr(metadata, "tree", metadata)
        parts = {part: tree[part] for part in ("params", "model_state")}
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        arguments = jax.tree.map(lambda m: ocp.ArrayRestoreArgs(sharding=here), parts)
        wanted = ocp.args.PyTreeRestore(item=parts, restore_args=arguments, partial_restore=True)
        restored = manager.restore(step, args=ocp.args.Composite(state=wanted))["state"]
    return {k: np.asarray(v) for k, v in flat_paths(restored).items()}
