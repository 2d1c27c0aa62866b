"""What the encoders of a claim's runs make of its views: extracted once, a file for each seed."""

import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.claims.claim import evaluation_view
from hcl_jax.claims.keys import Prints, sha, views_key
from hcl_jax.claims.measures.reading import Split
from hcl_jax.claims.programs import Program, run_folder
from hcl_jax.claims.training import with_dir
from hcl_jax.core.state import TrainState
from hcl_jax.data.npz import read_npz
from hcl_jax.errors import InputError, nearest
from hcl_jax.evaluation import Evaluation, restored
from hcl_jax.run import Run, as_read
from hcl_jax.workdir import write_arrays


def extract(
    program: Program,
    views: Mapping[str, Any],
    *,
    untrained: bool,
    cache: pathlib.Path,
    data_dir: str | None,
    prints: Prints,
    where: str,
    say: Callable[[str], None],
) -> pathlib.Path:
    """Writes seed<K>.npz, and seed<K>_untrained.npz where asked for, of every seed that has none yet.

    Returns:
      Their folder: by the run, the views, the data that these read and the code.
    """
    folder = cache / "features" / sha(program.key, views_key(views, prints, where))[:24]
    wanted = [(s, state) for s in program.seeds for state in ("", "_untrained") if untrained or not state]
    missing = [(s, state) for s, state in wanted if not _whole(folder / f"seed{s}{state}.npz")]
    if not missing:
        return folder
    say(f"  features of {program.title}: {', '.join(views)}")
    config = with_dir(program.config, data_dir)
    at = run_folder(cache, program)
    try:
        run, sources, state = restored(at, config, parts=prints.parts)
        groups = _groups(run, sources, views, prints)
    except InputError as error:
        raise error.below(where) from None
    except (ValueError, KeyError, OSError) as error:  # what Orbax says of damaged files
        found = f"a damaged checkpoint ({type(error).__name__})"
        raise InputError(str(at), found, "delete that folder: the same command trains it again") from None
    states, read = dict(run.states(state)), as_read(run.one, sources["train"], say=_silent)
    for seed, kind in missing:
        one = read(states[seed] if not kind else run.one.init(seed), seed)
        try:
            write_arrays(folder / f"seed{seed}{kind}.npz", _arrays(groups, one, seed))
        except InputError as error:
            raise error.below(where) from None
    return folder


def _whole(path: pathlib.Path) -> bool:
    """Whether a file can be read; a damaged one, and what was made of it, is removed."""
    if not path.is_file():
        return False
    try:
        arrays = read_npz(str(path))
    except InputError:
        arrays = {}
    if arrays and all(len(name.split("/")) == 3 for name in arrays):
        return True
    path.unlink()
    for made in path.parent.glob(f"{path.stem}_*"):
        if made.is_dir():
            shutil.rmtree(made)
    return False


def _groups(
    run: Run, sources: Mapping[str, data.Source], views: Mapping[str, Any], prints: Prints
) -> list[tuple[Evaluation, tuple[str, ...]]]:
    """Views that are read from the same data and splits, with what reads them."""
    by: dict[str, tuple[Any, tuple[str, ...], str, dict[str, Any]]] = {}
    for name, view in views.items():
        other, splits = view.get("data", {}), tuple(view.get("splits", ("train", "test")))
        label = view.get("label", run.config.evaluate.labels)
        *_, some = by.setdefault(sha(other, splits, label), (other, splits, label, {}))
        some[name] = evaluation_view(view)
    out = []
    for other, splits, label, some in by.values():
        plain = run.config.to_dict()
        plain["evaluate"] |= {"views": some, "labels": label, "evaluators": {}}
        config = configs.complete(configs.ConfigDict(plain))
        single = run.single and run.single._replace(config=config)
        here = dict(sources)
        if other:
            spec = prints.other(other)
            here = {s: data.open_source(spec, spec[f"{s}_split"], prints.parts.sources) for s in ("train", "test")}
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
            found = evaluation.features(split, *evaluation.weights(state), seed=seed)
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
    if _columns_whole(out / "train.npz") and _columns_whole(out / "test.npz"):
        return out
    made = read(folder, seed)
    if view not in made or "train" not in made[view]:
        raise InputError(where, f"no training features of the view {view!r}", f"views {', '.join(made)}")
    train = made[view]["train"]
    width = train.features.shape[1]
    beside = [n for n in sorted(set(made) - {view}) if set(made[n]) == {"test"}]
    domains = [view, *(n for n in beside if made[n]["test"].features.shape[1] == width)]
    tests = [made[n]["test"] for n in domains]
    columns = [_columns(train, 0)], [_columns(t, i) for i, t in enumerate(tests)]
    for split, some in zip(("train", "test"), columns, strict=True):
        write_arrays(out / f"{split}.npz", {k: np.concatenate([c[k] for c in some]) for k in some[0]})
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
    if program.points_at is None:
        return None
    arm, view = program.points_at
    source = next(n for n in program.needs if n.arm == arm)
    return str(as_data(folders[source.key], program.seeds[0], view, where))


def _columns_whole(path: pathlib.Path) -> bool:
    try:
        return path.is_file() and set(read_npz(str(path))) == {"features", "label", "domain"}
    except InputError:
        return False
