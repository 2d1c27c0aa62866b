"""Sampled rows, flipped labels, swapped views: exact, nested, of the seed; and batches are what the arrays say."""

import json
import shutil
import zlib

import numpy as np
import pytest
from refusals import refused

from hcl_jax import config as configs
from hcl_jax import data, preview
from hcl_jax.data import noise
from hcl_jax.data.generated import with_generated
from hcl_jax.data.offline import generate
from hcl_jax.data.source import Arrays, from_arrays
from hcl_jax.errors import InputError
from hcl_jax.main import main
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, build, epoch_examples, global_batches, noise_of

N, C = 40, 5
RATIOS = (0.0, 0.1, 0.3, 0.5, 0.9, 1.0)


def chosen(array, plain):
    return set(np.flatnonzero(array != plain))


def test_samples_are_nested_and_of_the_seed():
    rows = {count: noise.sampled_rows(100, count, 7) for count in (0, 1, 30, 100)}
    for count, found in rows.items():
        assert found.dtype == np.int64 and len(set(found)) == count and set(found) <= set(range(100))
        np.testing.assert_array_equal(found, rows[100][:count])
    assert set(rows[30]) != set(noise.sampled_rows(100, 30, 8))


@pytest.mark.parametrize("keeps", [False, True])
def test_offsets_are_exact_and_nested(keeps):
    n = 1437
    made = [noise.label_offsets(n, 10, ratio, 3, keeps) for ratio in RATIOS]
    plain = [noise.label_offsets(n, 10, ratio, 3) for ratio in RATIOS]
    for ratio, offsets, never in zip(RATIOS, made, plain, strict=True):
        assert len(chosen(never, 0)) == round(ratio * n) and never.max() <= 9 and offsets.dtype == np.int64
        assert chosen(offsets, 0) <= chosen(never, 0), "keeps chooses the same rows"
    for smaller, larger in zip(made, made[1:], strict=False):
        rows = sorted(chosen(smaller, 0))
        np.testing.assert_array_equal(smaller[rows], larger[rows])
    # Of 1437 draws from 10 classes 144 are zero on average, with a deviation of 11; from the 9 others none is.
    counts = np.bincount(made[-1], minlength=10)
    assert (70 < counts[0] < 220) if keeps else counts[0] == 0
    assert (abs(counts[1:] - n / (10 if keeps else 9)) < 60).all()


def test_offsets_differ_by_seed_and_word():
    first = noise.label_offsets(1000, 10, 0.5, 0)
    for other in (noise.label_offsets(1000, 10, 0.5, 1), noise.label_offsets(1000, 10, 0.5, 0, word="flipped/other")):
        assert abs(len(chosen(first, 0) & chosen(other, 0)) - 250) < 60, "independent"
    assert set(noise.label_offsets(50, 2, 1.0, 0)) == {1}, "two classes: the other one"


def test_swaps_are_one_cycle_over_the_chosen():
    for n in (2, 3, 10, 101):
        for ratio in RATIOS:
            origin, count = noise.swapped_rows(n, ratio, 5, "b"), round(ratio * n)
            np.testing.assert_array_equal(np.sort(origin), np.arange(n))  # no record is lost or doubled
            moved = chosen(origin, np.arange(n))
            assert len(moved) == (2 if count == 1 else count)
            if moved:
                place, seen = min(moved), set()
                while place not in seen:
                    seen.add(place)
                    place = origin[place]
                assert seen == moved
    np.testing.assert_array_equal(noise.swapped_rows(1, 1.0, 0, "b"), [0])


def test_swaps_are_nested_and_of_seed_and_word():
    plain = np.arange(1000)
    rows = [chosen(noise.swapped_rows(1000, ratio, 0, "b"), plain) for ratio in RATIOS]
    assert all(a <= b for a, b in zip(rows, rows[1:], strict=False))
    for other in (noise.swapped_rows(1000, 0.5, 1, "b"), noise.swapped_rows(1000, 0.5, 0, "a")):
        assert abs(len(rows[3] & chosen(other, plain)) - 250) < 60


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: noise.sampled_rows(5, 6, 0), "count"),
        (lambda: noise.sampled_rows(5, -1, 0), "count"),
        (lambda: noise.label_offsets(5, 1, 0.5, 0), "classes"),
        (lambda: noise.label_offsets(5, 3, 1.1, 0), "ratio"),
        (lambda: noise.label_offsets(5, 3, float("nan"), 0), "ratio"),
        (lambda: noise.swapped_rows(5, -0.1, 0, "b"), "ratio"),
    ],
)
def test_bad_arguments(make, where):
    with pytest.raises(InputError, match=f"^{where}: found"):
        make()


def source_of(config, present=None, classes=C):
    """N records whose picture says their number; two labels of classes and one of values. Record 3 has no class."""
    number = np.arange(N)
    label = (number % classes).astype(np.int32)
    label[3] = -1
    arrays = Arrays(
        fields={"image": np.broadcast_to(number[:, None, None, None], (N, 2, 2, 1)).astype(np.uint8)},
        labels={"label": label, "side": (number % 2).astype(np.int32), "size": number.astype(np.float32)},
        classes={"label": classes, "side": 2, "size": 0},
        licence="",
        citation="",
        present={} if present is None else {"image": present},
    )
    return from_arrays("numbers", arrays, config(labels=("label", "side", "size")), "train")


def shown(batch, view):
    """The numbers of the records that a view's pictures were made from."""
    return np.round(np.asarray(batch["views"][view]["image"])[..., 0, 0, 0] * 255).astype(int)


def batches(source, views, start=0, stop=4, rows=None, size=16, seed=0, **more):
    rows = np.arange(size) if rows is None else rows
    return list(data.batches(source, views, seed=seed, batch_size=size, rows=rows, start=start, stop=stop, **more))


def pair(view, **of_b):
    return {"a": view(), "b": {**view(draws="b"), **of_b}}


def test_batches_are_what_the_arrays_say(config, view):
    source, asked = source_of(config), {"sample": 20, "flipped": 0.5}
    views = pair(view, swapped=0.4) | {"c": {**view(draws="b"), "swapped": 0.4}}
    for seed in (0, 1):
        # Written out: choices among the 20 sampled examples, then by number.
        rows = np.sort(np.random.default_rng((seed, zlib.crc32(b"sampled"))).permutation(N)[:20])
        np.testing.assert_array_equal(rows, np.sort(noise.sampled_rows(N, 20, seed)))
        wrong = dict(zip(rows, noise.label_offsets(20, C, 0.5, seed, word="flipped/label"), strict=True))
        side = dict(zip(rows, noise.label_offsets(20, 2, 0.5, seed, word="flipped/side"), strict=True))
        origin = dict(zip(rows, rows[noise.swapped_rows(20, 0.4, seed, "b")], strict=True))
        assert sum(v > 0 for v in wrong.values()) == sum(side.values()) == 10
        assert sum(k != v for k, v in origin.items()) == 8
        made = batches(source, views, stop=5, seed=seed, **asked)
        for epoch in np.concatenate([b["index"] for b in made]).reshape(4, 20):
            np.testing.assert_array_equal(np.sort(epoch), rows)
        for batch in made:
            index = batch["index"]
            np.testing.assert_array_equal(shown(batch, "a"), index)
            for name in "bc":
                np.testing.assert_array_equal(shown(batch, name), [origin[i] for i in index])
            label = [-1 if i == 3 else (i % C + wrong[i]) % C for i in index]
            np.testing.assert_array_equal(batch["labels"]["label"], label)
            np.testing.assert_array_equal(batch["labels"]["side"], [(i % 2 + side[i]) % 2 for i in index])
            np.testing.assert_array_equal(batch["labels"]["size"], index)  # no class, no noise
            assert batch["labels"]["label"].dtype == batch["index"].dtype == np.int32


def test_a_class_that_is_unknown_stays_so(config, view):
    (batch,) = batches(source_of(config), {"a": view()}, stop=1, size=N, flipped=1.0)
    plain = np.where(batch["index"] == 3, -1, batch["index"] % C)
    np.testing.assert_array_equal(batch["labels"]["label"] == plain, batch["index"] == 3)


def test_a_class_out_of_range_is_refused_flipped_or_not(config, view):
    source = source_of(config)._replace(labels={"label": 3})
    for flipped in (0.0, 1.0):
        with pytest.raises(InputError, match="label label: found [34]; allowed: 0 to 2"):
            batches(source, {"a": view()}, stop=1, size=N, flipped=flipped)


def test_hosts_and_resumes_make_the_same_rows(config, view):
    source, views = source_of(config), pair(view, swapped=0.5, missing=0.2)
    asked = {"sample": 30, "flipped": 0.3}
    whole = batches(source, views, stop=4, **asked)
    parts = [batches(source, views, stop=4, rows=np.arange(16)[k::3], **asked) for k in range(3)]
    rest = batches(source, views, start=2, stop=4, **asked)
    for step, batch in enumerate(whole):
        for name in ("index", "label", "b"):
            read = {
                "index": lambda x: x["index"],
                "label": lambda x: x["labels"]["label"],
                "b": lambda x: shown(x, "b"),
            }
            for k in range(3):
                np.testing.assert_array_equal(read[name](batch)[k::3], read[name](parts[k][step]))
            if step >= 2:
                np.testing.assert_array_equal(read[name](batch), read[name](rest[step - 2]))


def test_a_sample_of_all_is_no_sample(config, view):
    source, views = source_of(config), pair(view, swapped=0.5)
    for a, b in zip(batches(source, views, flipped=0.3), batches(source, views, flipped=0.3, sample=N), strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_array_equal(a["labels"]["label"], b["labels"]["label"])
        np.testing.assert_array_equal(shown(a, "b"), shown(b, "b"))


def test_a_swapped_view_is_there_where_the_borrowed_record_has_it(config, view):
    there = np.arange(N) % 4 > 0
    (batch,) = batches(source_of(config, there), pair(view, swapped=1.0), stop=1, size=N)
    origin = noise.swapped_rows(N, 1.0, 0, "b")[batch["index"]]
    np.testing.assert_array_equal(batch["present"]["a"], there[batch["index"]])
    np.testing.assert_array_equal(batch["present"]["b"], there[origin])
    np.testing.assert_array_equal(shown(batch, "b"), np.where(there[origin], origin, 0))
    # `missing` goes by the example, swapped or not.
    lacks = [batches(source_of(config), pair(view, swapped=s, missing=0.3), stop=1, size=N)[0] for s in (0.0, 1.0)]
    np.testing.assert_array_equal(*(b["present"]["b"] for b in lacks))


def test_an_unreadable_borrowed_picture_is_named(config, view):
    import tensorflow as tf

    good = tf.io.encode_png(np.zeros((2, 2, 1), np.uint8)).numpy()
    pictures = np.array([good] * 8, object)
    origin = noise.swapped_rows(8, 1.0, 0, "b")
    pictures[origin[0]] = b"no picture"
    arrays = Arrays({"x": np.zeros((8, 1), np.float32)}, {}, {}, "", "")
    source = from_arrays("some", arrays, config(labels=()), "train")
    source = source._replace(
        fields={"image": ((None, None, 1), "string")},
        fetch=lambda index: {"image": tf.gather(tf.constant(pictures), index)},
    )
    views = {"b": {**view("image", {"op": "resize", "size": 2}, draws="b"), "swapped": 1.0}}
    rows = np.flatnonzero(batches_index(8) == 0)  # the row of example 0 alone, whose own picture is good
    with pytest.raises(InputError, match=f"record {origin[0]}"):
        batches(source, views, stop=1, size=8, rows=rows)


def batches_index(n):
    """The records of the first batch of n records in n rows, seed 0."""
    from hcl_jax.data import order
    from hcl_jax.views.lazy import tf

    return order.records(tf.range(n, dtype=tf.int64), n, 0).numpy()


def test_whole_batches_take_flips_only(config, view):
    source = source_of(config)
    (batch,) = batches(source, {"a": view()}, stop=1, size=N + 2, order="whole", flipped=0.5)
    offsets = noise.label_offsets(N, C, 0.5, 0, word="flipped/label")
    plain = np.where(np.arange(N) == 3, -1, (np.arange(N) % C + offsets) % C)
    np.testing.assert_array_equal(batch["labels"]["label"], [*plain, -1, -1])
    for views, more, where in (
        ({"a": view()}, {"sample": 5}, "config.data.sample"),
        (pair(view, swapped=0.5), {}, r"config.views.b.swapped"),
    ):
        with pytest.raises(InputError, match=f"{where}: .*data.order is whole"):
            batches(source, views, stop=1, size=N, order="whole", **more)


def test_graphs_are_swapped_whole(config):
    source = data.open_source(config(name="motifs", num_examples=12), "train")
    views = {v: {"kind": "graph", "field": "graph", "ops": (), "draws": v} for v in "ab"}
    views["b"]["swapped"] = 1.0
    (batch,) = batches(source, views, stop=1, size=12)
    at = {i: row for row, i in enumerate(batch["index"])}
    origin = [at[i] for i in noise.swapped_rows(12, 1.0, 0, "b")[batch["index"]]]
    for part, values in batch["views"]["a"].items():
        np.testing.assert_array_equal(batch["views"]["b"][part], values[origin], err_msg=part)


def test_generated_views_and_their_command_read_plain_records(config, view, tmp_path):
    source, spec = source_of(config), {**view(), "swapped": 1.0}
    generate(source, spec, tmp_path / "g", say=lambda text: None)
    np.testing.assert_array_equal(np.load(tmp_path / "g" / "views.npy")[:, 0, 0, 0, 0], np.arange(N))
    views = {"a": view(), "g": {**view("generated", draws="g"), "swapped": 1.0}}
    (batch,) = batches(with_generated(source, tmp_path / "g"), views, stop=1, size=N)
    np.testing.assert_array_equal(shown(batch, "g"), noise.swapped_rows(N, 1.0, 0, "g")[batch["index"]])


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"sample": N + 1}, f"config.data.sample: found {N + 1}; allowed: 0 \\(all\\) to {N}, the training examples"),
        ({"flipped": 0.5}, "config.data.flipped: found 0.5 with size of 0 classes; allowed: 0, or labels of 2 classes"),
    ],
)
def test_what_a_source_cannot_give(config, view, asked, line):
    with pytest.raises(InputError, match=line):
        batches(source_of(config)._replace(labels={"size": 0}), {"a": view()}, **asked)


# Runs.

RUN = {
    "train.seeds": 2,
    "train.steps": 4,
    "data.num_examples": 48,
    "data.batch_size": 16,
    "data.sample": 32,
    "data.flipped": 0.25,
    "views.b.swapped": 0.5,
    "mesh.data": 2,
    "views.a.ops": (),
    "views.b.ops": (),
    "towers.image.encoder": {"name": "mlp", "widths": (8,)},
    "towers.image.heads.z": {"name": "linear", "features": 4},
    "optimizer.warmup_epochs": 0,
    "log.tensorboard": "false",
    "checkpoint.every": 2,
    "evaluate.objectives": "true",
    "evaluate.baselines": "false",
    "evaluate.linear": "false",
    "evaluate.per_class": (),
}


def flags(**changes):
    given = RUN | {k.replace("__", "."): v for k, v in changes.items()}
    return ["--config=simclr:digits", *(f"--config.{k}={v}" for k, v in given.items())]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of seeds 0 and 1 with all three kinds of noise."""
    folder = tmp_path_factory.mktemp("noise") / "run"
    assert main([*flags(), f"--workdir={folder}"]) == 0
    return folder


def built(folder):
    config = configs.from_json((folder / "config.json").read_text(), "config.json")
    source = data.open_source(config.data, "train")
    return build(config, Parts(), source, meshes.make_mesh(config.mesh)), source


@pytest.mark.slow
def test_the_file_says_what_both_seeds_trained_on(finished):
    run, source = built(finished)
    plain = source.fetch(np.arange(48))
    label, image = plain["label"].numpy(), plain["image"].numpy() / np.float32(255)
    with np.load(finished / "noise.npz", allow_pickle=False) as file:
        kept = dict(file)
    parts = {"sample": ("rows",), "label": ("rows", "offsets"), "view_b": ("rows", "from")}
    assert set(kept) == {f"seed{s}/{k}/{p}" for s in (0, 1) for k, names in parts.items() for p in names}
    assert (kept["seed0/sample/rows"] != kept["seed1/sample/rows"]).any()
    for made in global_batches(run, source, 0, 4):
        for i, seed in enumerate((0, 1)):
            index = np.asarray(made["index"])[i]
            assert set(index) <= set(kept[f"seed{seed}/sample/rows"]) and len(kept[f"seed{seed}/label/rows"]) == 8
            wrong = label.copy()
            wrong[kept[f"seed{seed}/label/rows"]] += kept[f"seed{seed}/label/offsets"].astype(np.int32)
            origin = np.arange(48)
            origin[kept[f"seed{seed}/view_b/rows"]] = kept[f"seed{seed}/view_b/from"]
            assert len(kept[f"seed{seed}/view_b/rows"]) == 16
            np.testing.assert_array_equal(np.asarray(made["labels"]["label"])[i], (wrong % 10)[index])
            np.testing.assert_allclose(np.asarray(made["views"]["a"]["image"])[i], image[index], rtol=1e-6)
            np.testing.assert_allclose(np.asarray(made["views"]["b"]["image"])[i], image[origin[index]], rtol=1e-6)


def test_a_seed_of_a_program_has_the_batches_that_it_has_alone(finished):
    together, source = built(finished)
    fields = together.config.to_dict()
    fields["seed"], fields["train"]["seeds"] = 1, 1
    alone = build(configs.complete(configs.ConfigDict(fields)), Parts(), source, together.mesh)
    for a, b in zip(global_batches(together, source, 0, 3), global_batches(alone, source, 0, 3), strict=True):
        np.testing.assert_array_equal(np.asarray(a["index"])[1], b["index"])
        np.testing.assert_array_equal(np.asarray(a["labels"]["label"])[1], b["labels"]["label"])
        np.testing.assert_array_equal(np.asarray(a["views"]["b"]["image"])[1], b["views"]["b"]["image"])


def test_epochs_follow_the_sample(finished):
    run, source = built(finished)
    assert epoch_examples(run.config, source) == 32 and source.num_examples == 48
    fields = run.config.to_dict()
    fields["train"] |= {"steps": 0, "epochs": 3.0}
    assert build(configs.complete(configs.ConfigDict(fields)), Parts(), source, run.mesh).steps == 6


def test_evaluation_reads_clean_data(finished):
    run, source = built(finished)
    views = {k: dict(v) for k, v in run.config.views.items()}
    made = list(data.evaluation_batches(source, views, batch_size=16, rows=np.arange(16)))
    index = np.concatenate([b["index"] for b in made])
    np.testing.assert_array_equal(index, np.arange(48))
    plain = source.fetch(np.arange(48))
    np.testing.assert_array_equal(np.concatenate([b["labels"]["label"] for b in made]), plain["label"])
    for name in "ab":
        found = np.concatenate([b["views"][name]["image"] for b in made])
        np.testing.assert_allclose(found, plain["image"].numpy() / np.float32(255), rtol=1e-6)


def test_other_noise_is_another_run(finished, capsys):
    before = (finished / "noise.npz").read_bytes()
    for change in (
        {"data__flipped": 0.5},
        {"data__sample": 31},
        {"views__b__swapped": 0.0},
        {"data__flipped_keeps": "true"},
    ):
        (field,) = change
        assert field.replace("__", ".") in refused(capsys, *flags(**change), f"--workdir={finished}")
    assert (finished / "noise.npz").read_bytes() == before and not list(finished.glob("*.part"))


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_noise(finished, tmp_path, capsys):
    folder = tmp_path / "stopped"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    assert main([f"--workdir={folder}"]) == 0
    said = capsys.readouterr().out
    for seed in (0, 1):
        line = "noise: 32 of 48 examples sampled, 8 of 32 labels flipped, 16 of 32 views b swapped"
        assert f"{line} (seed {seed})" in said
    last = [json.loads((f / "metrics.jsonl").read_text().splitlines()[-1]) for f in (finished, folder)]
    assert (
        last[0]["loss"] == last[1]["loss"]
        and last[0]["seed1/eval/loss/contrast"] == last[1]["seed1/eval/loss/contrast"]
    )
    assert (folder / "noise.npz").read_bytes() == (finished / "noise.npz").read_bytes()


def test_a_clean_run_says_nothing(finished):
    run, source = built(finished)
    fields = run.config.to_dict()
    fields["data"] |= {"sample": 0, "flipped": 0.0}
    fields["views"]["b"]["swapped"] = 0.0
    clean = noise_of(configs.complete(configs.ConfigDict(fields)), source, 0)
    assert (
        clean == noise.Noise(None, {}, {}) and not noise.noise_line(clean, 48, 0) and not noise.noise_arrays(clean, 0)
    )


def test_random_input_has_records_enough(config, view):
    views = {"a": view()}
    source = data.random_like(config(name="digits", sample=3000, flipped=0.5), views, sources=data.SOURCES)
    (batch,) = batches(source, views, stop=1, sample=3000, flipped=0.5)
    assert source.num_examples == 3000 and set(batch["labels"]["label"]) <= set(range(10))
    assert data.random_like(config(name="digits", sample=100), views, sources=data.SOURCES).num_examples == 1024


def test_preview_shows_the_swapped_views(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(preview, "draw", lambda views, present, rows, output: seen.update(views))
    changed = [f"--config.views.{v}.ops=()" for v in "ab"]
    asked = ["--config.data.sample=20", "--config.views.b.swapped=1.0", f"--output={tmp_path / 'v.png'}"]
    assert preview.main(["--config=simclr:digits", *changed, *asked]) == 0
    assert (seen["a"]["image"] != seen["b"]["image"]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data__flipped": 1.5}, "config.data.flipped: found 1.5; allowed: a number, 0 <= x <= 1"),
        ({"data__flipped": -0.1}, "config.data.flipped: found -0.1; allowed: a number, 0 <= x <= 1"),
        ({"views__b__swapped": 2}, "config.views.b.swapped: found 2"),
        ({"views__b__swapped": "much"}, "config.views.b.swapped: found"),
        ({"data__sample": -1}, "config.data.sample: found -1; allowed: a whole number >= 0; 0 takes all"),
        ({"data__sample": 49}, "config.data.sample: found 49; allowed: at most data.num_examples 48"),
        ({"data__sample": 1438, "data__num_examples": 0}, "allowed: 0 (all) to 1437"),
        ({"data__labels": ()}, "config.data.flipped: found 0.25; allowed: 0, for data.labels has none"),
        ({"data__order": "whole"}, "config.data.sample: found 32; allowed: 0, for data.order is whole"),
        ({"data__order": "whole", "data__sample": 0}, "config.views.b.swapped: found 0.5; allowed: 0, for data.order"),
        ({"evaluate__views__image__swapped": 0.5}, "config.evaluate.views.image.swapped: found an unknown field"),
    ],
)
def test_refused_in_one_line(capsys, tmp_path, change, said):
    assert said in refused(capsys, *flags(**change), f"--workdir={tmp_path / 'w'}")
    assert not (tmp_path / "w").exists()
