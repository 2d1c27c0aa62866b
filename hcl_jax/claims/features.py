"""What the encoders of a claim's runs make of its views: extracted once, a file for each seed."""

import io
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.claims import code
from hcl_jax.claims.claim import Arm
from hcl_jax.claims.measures.reading import Split
from hcl_jax.claims.programs import POINTER, Program, run_folder, sha, with_dir
from hcl_jax.data.npz import read_npz
from hcl_jax.errors import InputError, nearest
from hcl_jax.evaluation import Evaluation, restored
from hcl_jax.run import Parts, Run, evaluated_params
from hcl_jax.state import TrainState

# Beside the fields of an evaluation view: the splits that are read, config.data fields of another data set, another
# label.
OWN = ("splits", "data", "label")


def features_folder(cache: pathlib.Path, program: Program, views: Mapping[str, Any], parts: Parts) -> pathlib.Path:
    """Where the features of a program lie: by the run, the views and the code that reads them."""
    used = [parts.views[op["op"]] for view in views.values() for op in view.get("ops", ())]
    version = code.version([__name__, *sorted({code.module_of(u) for u in used})])
    return cache / "features" / sha(program.key, views, version)[:24]


def views_of(arm: Arm, views: Mapping[str, Any]) -> dict[str, Any]:
    """The views whose features are read: those of the claim that the arm names, or those of its recipe's evaluation."""
    if arm.views is not None:
        return {name: dict(views[name]) for name in arm.views}
    return dict(configs.load(arm.config).evaluate.views.to_dict())


def extract(
    program: Program,
    views: Mapping[str, Any],
    *,
    untrained: bool,
    cache: pathlib.Path,
    data_dir: str | None,
    dirs: Mapping[str, str],
    parts: Parts,
    where: str,
    say: Callable[[str], None],
) -> pathlib.Path:
    """Writes seed<K>.npz, and seed<K>_untrained.npz where asked for, of every seed that has none yet."""
    folder = features_folder(cache, program, views, parts)
    wanted = [(s, state) for s in program.seeds for state in ("", "_untrained") if untrained or not state]
    missing = [(s, state) for s, state in wanted if not (folder / f"seed{s}{state}.npz").is_file()]
    if not missing:
        return folder
    say(f"  features of {program.title}: {', '.join(views)}")
    config = with_dir(program.config, data_dir)
    try:
        run, sources, state = restored(run_folder(cache, program), config, parts=parts)
        groups = _groups(run, sources, views, dirs, parts)
    except InputError as error:
        raise InputError(f"{where}: {error.where}", error.found, error.allowed) from None
    states = dict(run.states(state))
    for seed, kind in missing:
        one = states[seed] if not kind else run.one.init(seed)
        _write(folder / f"seed{seed}{kind}.npz", _arrays(groups, one, seed))
    return folder


def _groups(
    run: Run, sources: Mapping[str, data.Source], views: Mapping[str, Any], dirs: Mapping[str, str], parts: Parts
) -> list[tuple[Evaluation, tuple[str, ...]]]:
    """Views that are read from the same data and splits, with what reads them."""
    by: dict[str, tuple[Any, tuple[str, ...], str, dict[str, Any]]] = {}
    for name, view in views.items():
        other, splits = view.get("data", {}), tuple(view.get("splits", ("train", "test")))
        label = view.get("label", run.config.evaluate.labels)
        *_, some = by.setdefault(sha(other, splits, label), (other, splits, label, {}))
        some[name] = {k: v for k, v in view.items() if k not in OWN}
    out = []
    for other, splits, label, some in by.values():
        plain = run.config.to_dict()
        plain["evaluate"] |= {"views": some, "labels": label}
        config = configs.complete(configs.ConfigDict(plain))
        single = run.single and run.single._replace(config=config)
        here = dict(sources)
        if other:
            fields = {**configs.defaults().data.to_dict(), **other}
            fields["dir"] = fields["dir"] or dirs.get(fields["name"], "")
            spec = configs.ConfigDict(fields)
            here = {s: data.open_source(spec, spec[f"{s}_split"], parts.sources) for s in ("train", "test")}
        evaluation = Evaluation(run._replace(config=config, single=single), here["train"], here["test"], say=_silent)
        out.append((evaluation, splits))
    return out


def _silent(text: str) -> None:
    del text


def _arrays(groups: list[tuple[Evaluation, tuple[str, ...]]], state: TrainState, seed: int) -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {}
    for evaluation, splits in groups:
        label = evaluation.spec.labels
        for split in splits:
            found = evaluation.features(split, evaluated_params(state), state.model_state, seed=seed)
            for view, outputs in found.outputs.items():
                features = outputs[evaluation.spec.views[view]["output"]]
                if not np.isfinite(features[found.present[view]]).all():
                    raise InputError(f"features of seed {seed}, view {view}", "nan or inf", "a run that has converged")
                made[f"{view}/{split}/features"] = features.reshape(len(features), -1).astype(np.float32)
                made[f"{view}/{split}/labels"] = _labels(found.labels, label)
                made[f"{view}/{split}/present"] = found.present[view]
    return made


def _labels(labels: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in labels:
        raise InputError("views: label", repr(name), f"a label that the run reads: {nearest(name, labels)}")
    return labels[name].astype(np.int64)


def read(folder: pathlib.Path, seed: int, untrained: bool = False) -> dict[str, dict[str, Split]]:
    """{view: {split: Split}} of one seed."""
    arrays = read_npz(str(folder / f"seed{seed}{'_untrained' if untrained else ''}.npz"))
    made: dict[str, dict[str, Split]] = {}
    for name in arrays:
        view, split, part = name.split("/")
        if part == "features":
            values = (arrays[f"{view}/{split}/{p}"] for p in Split._fields)
            made.setdefault(view, {})[split] = Split(*values)
    return made


def as_data(folder: pathlib.Path, seed: int, view: str, where: str) -> pathlib.Path:
    """The features of a seed as a data set: train.npz of `view`, test.npz of all views, numbered by `domain`.

    Views with another width, or with a training split of another data set, are left out.
    """
    out = folder / f"seed{seed}_{view}"
    if (out / "test.npz").is_file():
        return out
    made = read(folder, seed)
    if view not in made or "train" not in made[view]:
        raise InputError(where, f"no training features of the view {view!r}", f"views {', '.join(made)}")
    train = made[view]["train"]
    domains = [n for n in (view, *sorted(set(made) - {view})) if n == view or set(made[n]) == {"test"}]
    tests = [made[n]["test"] for n in domains]
    columns = [_columns(train, 0)], [_columns(t, i) for i, t in enumerate(tests)]
    for split, some in zip(("train", "test"), columns, strict=True):
        _write(out / f"{split}.npz", {k: np.concatenate([c[k] for c in some]) for k in some[0]})
    return out


def _columns(split: Split, domain: int) -> dict[str, np.ndarray]:
    there = split.present
    count = int(there.sum())
    return {
        "features": split.features[there],
        "label": split.labels[there].astype(np.int32),
        "domain": np.full(count, domain, np.int32),
    }


def pointer_dir(program: Program, folders: Mapping[str, pathlib.Path], where: str) -> str | None:
    """The folder that a program's data.dir points at, made of the features of the run that it names."""
    target = POINTER.match(program.config.data.dir or "")
    if target is None or target[1] != "features":
        return None
    source = next(n for n in program.needs if n.arm == target[2])
    return str(as_data(folders[source.key], program.seeds[0], target[4] or "image", where))


def _write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(buffer.getvalue())
    os.replace(part, path)
