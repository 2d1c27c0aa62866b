"""Bad records: what stands for them, on any number of hosts and after any restart; the cap; what they are."""

import logging
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax import data
from hcl_jax.data import bad_records
from hcl_jax.data.source import Source
from hcl_jax.errors import InputError
from hcl_jax.parallel import mesh as meshes
from hcl_jax.run import Parts, build, global_batches
from hcl_jax.views.lazy import tf

N, SIZE = 12, 5
CROP = {"op": "random_resized_crop", "size": 4}


def png(pixels):
    return tf.io.encode_png(pixels).numpy()


def jpeg(seed, side=96):
    smooth = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.float32)
    return tf.io.encode_jpeg(np.clip(tf.image.resize(smooth, (side, side)), 0, 255).astype(np.uint8)).numpy()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Twelve pictures in three classes, every third a JPEG; paths in record order."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(N):
        path = folder / "train" / "abc"[i % 3] / f"{i:02}.{'jpg' if i % 3 == 0 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((9, 9, 3), 20 * i, np.uint8)
        path.write_bytes(jpeg(i) if i % 3 == 0 else png(pixels))
    return folder


@pytest.fixture
def pictures(plain, tmp_path, config):
    """make({record: bytes or None}): the source with these files changed (None: deleted after it was opened)."""

    def make(changed, **fields):
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(plain, folder)
        files = sorted(folder.glob("train/*/*"), key=lambda p: p.name)
        for number, content in changed.items():
            if content is not None:
                files[number].write_bytes(content)
        source = data.open_source(config(name="folder", dir=str(folder), in_memory=False, **fields), "train")
        for number, content in changed.items():
            if content is None:
                files[number].unlink()
        return source

    return make


@pytest.fixture
def views(view):
    return {"a": view("image", CROP), "b": view("image", CROP, draws="b")}


def made(source, views, *, hosts=1, start=0, stop=7, most=16, seed=0, size=SIZE, **more):
    """The global batches, put together from those of each host; and each host's bad records."""
    parts, found = [], []
    for host in range(hosts):
        rows, bad = np.arange(size)[host::hosts], data.BadRecords(most)
        local = data.batches(
            source, views, seed=seed, batch_size=size, rows=rows, start=start, stop=stop, bad=bad, **more
        )
        parts.append((rows, list(local)))
        found.append(bad)
    whole = []
    for step in range(stop - start):
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        joined = jax.tree.map(lambda *x, o=order: np.concatenate(x)[o], *(b[step] for _, b in parts))
        whole.append(joined)
    return whole, found


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def order_with(plain, stands):
    return [np.array([stands.get(i, i) for i in b["index"].tolist()]) for b in plain]


@pytest.mark.slow
def test_substitutes_are_the_next_good_records_on_any_number_of_hosts_and_after_any_stop(pictures, views, caplog):
    """R26, R27: a truncated JPEG, an empty file, garbage, a file that has gone, two in a row, and the last record."""
    clean, _ = made(pictures({}), views)
    whole = jpeg(3)
    broken = pictures({3: whole[: len(whole) * 2 // 3], 4: b"", 7: b"no picture", 9: None, 11: b"\xff\xd8\xff"})
    stands = {3: 5, 4: 5, 7: 8, 9: 10, 11: 0}
    with caplog.at_level(logging.WARNING, "hcl_jax"):
        one, (bad,) = made(broken, views)
    assert sorted(bad.faults) == [3, 4, 7, 9, 11] and bad.count() == 5
    said = [r.getMessage() for r in caplog.records]
    (line,) = [t for t in said if t.startswith("bad record 7: ")]
    assert (
        len(said) == 5 and "07.png: found a picture that does not decode; " in line and "08.png stands for it" in line
    )
    for batch, expected, plain in zip(one, order_with(clean, stands), clean, strict=True):
        np.testing.assert_array_equal(batch["index"], expected)
        np.testing.assert_array_equal(batch["labels"]["label"], expected % 3)
        untouched = expected == plain["index"]
        for name in views:
            np.testing.assert_array_equal(
                batch["views"][name]["image"][untouched], plain["views"][name]["image"][untouched]
            )
    several, found = made(broken, views, hosts=2)
    for a, b in zip(one, several, strict=True):
        same(a, b)
    assert set().union(*(b.faults for b in found)) == set(bad.faults)
    for start in (5,):
        rest, _ = made(broken, views, start=start)
        for a, b in zip(one[start:], rest, strict=True):
            same(a, b)


def test_a_jpeg_that_fails_in_some_crops_only_is_bad_in_all(pictures, view):
    """R26: else the step at which it is found, and with it the batches after a restart, would depend on the crops."""
    whole = jpeg(3)
    cut = whole[:-8]  # what few crops reach
    upper = tf.image.decode_and_crop_jpeg(cut, (0, 0, 16, 16), channels=3)
    assert upper.shape == (16, 16, 3), "the crop alone does not see it"
    small = {"a": view("image", {"op": "random_resized_crop", "size": 4, "scale": (0.01, 0.02)})}
    # With this seed all five crops of the record are above the damage.
    batches, (bad,) = made(pictures({3: cut}), small, stop=12, seed=4)
    assert list(bad.faults) == [3] and not any((b["index"] == 3).any() for b in batches)


@pytest.mark.slow(one=True)
def test_the_cap_and_no_cap(pictures, views):
    """R26: one more than data.max_bad_records ends the run in a line with ids; 0 is the line of the record alone."""
    broken = pictures({1: b"", 5: b"", 6: b""})
    assert made(broken, views, most=3)[1][0].count() == 3
    named = r"0\d\.\w+: found a picture that does not decode, and 2 more bad records: .*0\d\.\w+, .*0\d\.\w+; "
    with pytest.raises(InputError, match=named) as error:
        made(broken, views, most=2)
    assert str(error.value).endswith("at most 2 bad ones, config.data.max_bad_records") and "\n" not in str(error.value)
    for cap in (data.BadRecords(0), None):
        with pytest.raises(InputError, match=r"0\d\.\w+: found a picture that does not decode; allowed: a whole JPEG"):
            list(data.batches(broken, views, seed=0, batch_size=N, rows=np.arange(N), start=0, stop=1, bad=cap))


def test_nothing_good_is_left(pictures, views):
    broken = pictures({i: b"" for i in range(N)})
    with pytest.raises(InputError, match=r"\.\w+: found a picture that does not decode; allowed: a whole JPEG"):
        made(broken, views, most=N + 1)


@pytest.mark.slow
def test_evaluation_leaves_bad_records_out(pictures, view):
    """R26: an absent row, never a record twice; and a second pass knows them."""
    broken, bad = pictures({2: b"", 11: b"x"}), data.BadRecords(16, "test")
    views = {"a": view("image", {"op": "centre_crop", "size": 4})}
    for _ in range(2):
        got = list(data.evaluation_batches(broken, views, batch_size=5, rows=np.arange(5), bad=bad))
        index = np.concatenate([b["index"] for b in got])
        expected = np.where(np.isin(np.arange(15), [2, 11, 12, 13, 14]), -1, np.arange(15))
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_array_equal(np.concatenate([b["present"]["a"] for b in got]), expected >= 0)
        np.testing.assert_array_equal(
            np.concatenate([b["labels"]["label"] for b in got]), np.where(expected < 0, -1, expected % 3)
        )
        assert (np.concatenate([b["views"]["a"]["image"] for b in got])[expected < 0] == 0).all()
    assert sorted(bad.faults) == [2, 11]
    with pytest.raises(InputError, match="02.png: found a picture that does not decode"):
        list(data.evaluation_batches(broken, views, batch_size=5, rows=np.arange(5)))


def test_whole_batches_refuse(pictures, views):
    broken = pictures({2: b""})
    with pytest.raises(InputError, match="02.png: found a picture that does not decode"):
        made(broken, views, size=N, order="whole", stop=1)


def test_a_label_outside_its_classes(counting, view):
    """R26, R27: known from the finished batch, not from an error; 7, 8 and 9 of ten are no class of seven."""
    source, views = counting(10)._replace(labels={"label": 7}), {"a": view()}
    plain, _ = made(counting(10), views)
    for hosts in (1, 4):
        got, found = made(source, views, hosts=hosts)
        for batch, expected in zip(got, order_with(plain, {7: 0, 8: 0, 9: 0}), strict=True):
            np.testing.assert_array_equal(batch["index"], expected)
            np.testing.assert_array_equal(batch["labels"]["label"], expected)
            np.testing.assert_array_equal(np.round(batch["views"]["a"]["image"][:, 0, 0, 0] * 255), expected)
    assert set().union(*(b.faults for b in found)) == {7, 8, 9}
    assert str(found[0].faults[min(found[0].faults)]).endswith("allowed: 0 to 6, or -1 for unknown")


def streamed(broken, raised=()):
    """Ten records read one by one: those of `broken` have that value, those of `raised` fail."""

    def fetch(index):
        def read(numbers):
            rows = []
            for number in numbers.tolist():
                if number in raised:
                    raise OSError(f"disk says no to {number}")
                rows.append(np.asarray(broken.get(number, np.full((2, 2, 1), number, np.uint8))))
            if len({r.shape for r in rows}) > 1 or len({r.dtype for r in rows}) > 1:
                raise ValueError("rows of several shapes or dtypes")
            return np.stack(rows)

        image = tf.numpy_function(read, [index], tf.uint8, stateful=False)
        if not tf.executing_eagerly():
            image.set_shape([*index.shape, 2, 2, 1])  # a promise that nothing checks
        return {"image": image, "label": tf.cast(index, tf.int32)}

    fields = {"image": ((2, 2, 1), "uint8")}
    return Source("streamed", 10, fetch, fields, {"label": 10}, None, "", "", "")


def test_shape_dtype_and_failing_reads_in_a_stream(view):
    """R26: found by reading the records of the failed step on their own."""
    shape, dtype = np.zeros((3, 2, 1), np.uint8), np.zeros((2, 2, 1), np.float32)
    source = streamed({2: shape, 6: dtype}, raised=(5,))
    views = {"a": view("image", {"op": "centre_crop", "size": 2})}
    got, (bad,) = made(source, views, stop=4)
    assert sorted(bad.faults) == [2, 5, 6]
    assert str(bad.faults[2]) == "record 2: field image: found uint8[3, 2, 1]; allowed: uint8[2, 2, 1]"
    assert "unreadable" in str(bad.faults[5]) and "disk says no to 5" in str(bad.faults[5])
    plain, _ = made(streamed({}), views, stop=4)
    for batch, expected in zip(got, order_with(plain, {2: 3, 5: 7, 6: 7}), strict=True):
        np.testing.assert_array_equal(batch["index"], expected)


def test_a_read_that_fails_once_is_no_bad_record(view):
    """The step is made again; a step that fails with good records twice is an error of its own."""
    failing = {"left": 1}

    def fetch(index):
        def read(numbers):
            if len(numbers) > 1 and failing["left"]:
                failing["left"] -= 1
                raise OSError("not now")
            return np.broadcast_to(numbers[:, None, None, None], (len(numbers), 2, 2, 1)).astype(np.uint8)

        image = tf.ensure_shape(tf.numpy_function(read, [index], tf.uint8), [*index.shape, 2, 2, 1])
        return {"image": image, "label": tf.cast(index, tf.int32)}

    source = streamed({})._replace(fetch=fetch)
    got, (bad,) = made(source, {"a": view()}, stop=2)
    assert not bad.faults and len(got) == 2
    failing["left"] = 99
    with pytest.raises(tf.errors.OpError, match="not now"):
        made(source, {"a": view()}, stop=2)


@pytest.mark.slow
def test_samples_and_swaps(pictures, view):
    """R27: what stands for a record of a sample is of the sample, also where a view borrows it."""
    crop = {"op": "centre_crop", "size": 4}
    views = {"a": view("image", crop), "b": {**view("image", crop), "swapped": 1.0, "draws": "b"}}
    asked = {"sample": 8, "stop": 6}
    clean, _ = made(pictures({}), views, **asked)
    noise = data.training_noise(N, {"label": 3}, views, seed=0, sample=8)
    rows = noise.rows.tolist()
    stands = {rows[0]: rows[1], rows[-1]: rows[1]}
    outside = next(i for i in range(N) if i not in rows)
    broken = pictures({**dict.fromkeys(stands, b""), outside: b""})
    by_record = {i: v for b in clean for i, v in zip(b["index"].tolist(), b["views"]["a"]["image"], strict=True)}
    for hosts in (1, 4):
        got, found = made(broken, views, hosts=hosts, **asked)
        assert outside not in set().union(*(b.faults for b in found)), "nothing reads it"
        for batch, expected in zip(got, order_with(clean, stands), strict=True):
            np.testing.assert_array_equal(batch["index"], expected)
            for row, number in enumerate(expected.tolist()):
                lent = int(noise.borrowed["b"][number])
                lent = stands.get(lent, lent)
                np.testing.assert_array_equal(batch["views"]["a"]["image"][row], by_record[number])
                np.testing.assert_array_equal(batch["views"]["b"]["image"][row], by_record[lent])


@pytest.mark.slow
def test_array_record_with_a_flipped_byte(config, view, tmp_path):
    """R26, R27: the checksum of the record finds it; the others are read as before."""
    pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    from hcl_jax.data import builders, tfds

    builders.Digits(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    asked, views = config(name="digits", dir=str(tmp_path), in_memory=False), {"a": view()}
    clean, _ = made(tfds.open_tfds(asked, "test"), views, size=90, stop=4)
    (file,) = tmp_path.glob("digits/*/digits-test.array_record*")
    content = bytearray(file.read_bytes())
    for place in (20_000, 40_000):  # within the payload of two records
        content[place] ^= 255
    file.write_bytes(content)
    source = tfds.open_tfds(asked, "test")
    one, (bad,) = made(source, views, size=90, stop=4)
    four, _ = made(source, views, size=90, stop=4, hosts=4)
    assert len(bad.faults) == 2 and all("unreadable" in str(f) for f in bad.faults.values())
    stands = {number: number + 1 for number in bad.faults}
    for a, b, expected, plain in zip(one, four, order_with(clean, stands), clean, strict=True):
        same(a, b)
        np.testing.assert_array_equal(a["index"], expected)
        good = expected == plain["index"]
        np.testing.assert_array_equal(a["views"]["a"]["image"][good], plain["views"]["a"]["image"][good])


@pytest.mark.slow
def test_pictures_of_a_tfds_set(config, view, tmp_path):
    """R26: garbage and a truncated JPEG in the encoded bytes, and a picture of another size where one is stated."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")

    class Odd(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3))
            number = tfds.features.ClassLabel(num_classes=8)
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"image": image, "label": number})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(8):
                path = tmp_path / f"{i}.jpg"
                content = jpeg(i)
                path.write_bytes({2: b"garbage", 5: content[: len(content) // 2]}.get(i, content))
                yield i, {"image": str(path), "label": i}

    Odd(data_dir=tmp_path / "made").download_and_prepare(file_format="array_record")
    source = data.open_source(config(name="odd", dir=str(tmp_path / "made"), in_memory=False), "train")
    labels = source.fetch(tf.range(8, dtype=tf.int64))["label"].numpy().tolist()
    views = {"a": view("image", CROP)}
    one, (bad,) = made(source, views, size=3, stop=6)
    four, _ = made(source, views, size=3, stop=6, hosts=3)
    assert sorted(labels[i] for i in bad.faults) == [2, 5]
    for a, b in zip(one, four, strict=True):
        same(a, b)
        assert not set(a["labels"]["label"].tolist()) & {2, 5}


@pytest.mark.slow
@pytest.mark.parametrize("cap", [2, 1])
def test_a_run_counts_them_against_its_config(pictures, views, cap):
    """R26: the batches of a run take data.max_bad_records; two seeds in one program share their bad records."""
    config = configs.load("simclr:digits")
    config.views = {name: {k: v for k, v in spec.items() if k != "missing"} for name, spec in views.items()}
    config.data.update({"batch_size": 8, "max_bad_records": cap})
    config.train.update({"seeds": 2, "steps": 3})
    config = configs.complete(config)
    broken = pictures({2: b"", 8: b""})
    run, bad = build(config, Parts(), broken, meshes.make_mesh({"data": 1}, jax.devices()[:1])), data.BadRecords(cap)
    if cap == 1:
        with pytest.raises(InputError, match="1 more bad records"):
            list(global_batches(run, broken, 0, 3))
        return
    batches = list(global_batches(run, broken, 0, 3, bad))
    assert bad.count() == 2 and not any(np.isin(b["index"], [2, 8]).any() for b in batches)


def test_following_goes_round():
    step = bad_records.following(5)
    assert [step(i) for i in range(5)] == [1, 2, 3, 4, 0]
    step = bad_records.following(9, np.array([1, 4, 8]))
    assert [step(i) for i in (1, 4, 8, 0, 5)] == [4, 8, 1, None, None]
    step = bad_records.following(7, None, (0, 3))
    assert [step(i) for i in range(7)] == [1, 2, 0, 4, 5, 6, 3]


TWO = """
import sys, jax
from hcl_jax.errors import InputError
jax.distributed.initialize("127.0.0.1:{port}", 2, int(sys.argv[1]), coordinator_bind_address="127.0.0.1:{port}")
from hcl_jax.data.bad_records import BadRecords
client = jax._src.distributed.global_state.client
fault, me = (lambda i: InputError(f"record {{i}}", "unreadable", "a whole record")), int(sys.argv[1])
bad = BadRecords(3)
bad.add({{i: fault(i) for i in ((1, 2), (2, 7))[me]}})
client.wait_at_barrier("noted", 60000)
print("count", bad.count())
client.wait_at_barrier("counted", 60000)
if me == 1:
    try:
        bad.add({{8: fault(8)}})
    except InputError as error:
        print(error)
print("another run", BadRecords(3).count())
client.wait_at_barrier("done", 60000)
"""


@pytest.mark.slow
def test_the_cap_counts_over_processes(free_port):
    """R26: distinct records, whoever met them."""
    text = TWO.format(port=free_port)
    runs = [subprocess.Popen([sys.executable, "-c", text, str(i)], stdout=subprocess.PIPE, text=True) for i in range(2)]
    first, second = (run.communicate(timeout=120)[0] for run in runs)
    assert first == "count 3\nanother run 0\n"
    line = (
        "record 2: found unreadable, and 3 more bad records: record 7, record 8, record 1; allowed: a whole record; "
        "at most 3 bad ones, config.data.max_bad_records"
    )
    assert second == f"count 3\n{line}\nanother run 0\n"


@pytest.fixture
def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
