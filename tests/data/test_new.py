"""Records that a run has not seen are read as its own were."""

import numpy as np
import pytest

from hcl_jax import data
from hcl_jax.data import new
from hcl_jax.data.series import moments
from hcl_jax.errors import InputError
from hcl_jax.views.lazy import tf


def picture(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    return str(path)


def like(config, folder, *sizes, **fields):
    """A run whose pictures are of these sizes, one class each."""
    for i, size in enumerate(sizes):
        write(folder / "train" / "abc"[i] / "0.png", picture(*size))
    asked = config(name="folder", dir=str(folder), **fields)
    return new.Run(data.open_source(asked, "train"), asked)


def batch(source, view):
    size = source.num_examples
    made = data.evaluation_batches(source, {"a": view}, batch_size=size, rows=np.arange(size))
    return next(made)["views"]["a"]["image"]


@pytest.mark.parametrize("sizes", [((6, 5), (6, 5)), ((6, 5), (9, 9))])
def test_one_picture_is_read_as_the_run_reads_its_own(config, view, tmp_path, sizes):
    """Of a run with pictures of one size pixels and a bilinear resize, else bytes and a bicubic one."""
    run = like(config, tmp_path / "run", *sizes)
    spec = view("image", {"op": "resize", "size": 4})
    (made,) = new.records(run.source.describe(0), spec, run)
    np.testing.assert_array_equal(batch(made.source, spec)[0], batch(run.source, spec)[0])
    assert bool(made.source.sides) == (len(set(sizes)) == 1)


@pytest.mark.parametrize("most", [4, 0])
def test_large_pictures_are_made_small_as_the_runs(config, view, tmp_path, monkeypatch, most):
    run = like(config, tmp_path / "run", (40, 30), (9, 9), shrink=8)
    spec = view("image", {"op": "resize", "size": 4})
    monkeypatch.setattr(new, "MOST_IN_MEMORY", most)
    (made,) = new.records(run.source.describe(0), spec, run)
    assert run.source.fetch(np.arange(1))["image"].numpy()[0][:2] == b"\xff\xd8"  # no PNG any more
    np.testing.assert_array_equal(batch(made.source, spec)[0], batch(run.source, spec)[0])
    (made,) = new.records(picture(40, 30)[None], spec, run)
    np.testing.assert_array_equal(batch(made.source, spec)[0], batch(run.source, spec)[0])


def test_other_sizes_go_through_the_decoder_and_rows_say_where_they_belong(config, view, tmp_path):
    run = like(config, tmp_path / "run", (6, 5), (6, 5))
    paths = [write(tmp_path / "new" / f"{i}.png", picture(*s, seed=i)) for i, s in enumerate([(6, 5), (8, 7), (6, 5)])]
    made = new.records(paths, view(), run)
    assert [m.rows.tolist() for m in made] == [[0, 2], [1]]
    assert [m.source.sides for m in made] == [{"image": (6, 5)}, {}]
    assert [m.source.describe(0) for m in made] == paths[:2] and all(not m.source.labels for m in made)


def test_arrays_are_what_files_of_them_are(config, view, tmp_path):
    run = like(config, tmp_path / "run", (6, 5), (9, 9))
    spec, pixels = view("image", {"op": "resize", "size": 4}), picture(8, 7)
    (a,) = new.records(pixels[None], spec, run)
    (b,) = new.records([write(tmp_path / "x.png", pixels)], spec, run)
    np.testing.assert_array_equal(batch(a.source, spec), batch(b.source, spec))


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (("2.png", "a/0.png", "deep/b/1.png"), [-1, 0, 1], ("a", "b")),  # those of the run, in its order
        (("w/1.png", "x/0.png"), [0, 1], ("w", "x")),
        (("1.png", "x/0.png"), None, None),
    ],
)
def test_classes_of_a_new_folder(config, view, tmp_path, names, labels, classes):
    run = like(config, tmp_path / "run", (6, 5), (9, 9))
    for name in names:
        write(tmp_path / "new" / name, picture(3, 3))
    (made,) = new.records(tmp_path / "new", view(), run)
    assert made.source.paths == list(names)
    if labels is None:
        assert made.source.labels == {} and made.source.class_names == {}
    else:
        assert made.source.labels == {"label": 2} and made.source.class_names == {"label": classes}
        assert made.source.fetch(np.arange(len(names)))["label"].numpy().tolist() == labels


def series_run(config, folder, **fields):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    values = 3 + 2 * rng.normal(size=(5, 6, 2))
    values[1, 4:] = np.nan
    np.savez(folder / "train.npz", series=values, label=np.arange(5) % 2)
    asked = config(name="npz", dir=str(folder), **fields)
    by = (lambda: moments(np.moveaxis(values, 1, 2))) if fields else None
    return new.Run(data.open_source(asked, "train"), asked, by), values


def test_series_are_padded_and_standardised_as_the_runs(config, view, tmp_path):
    run, values = series_run(config, tmp_path, standardise=True)
    (made,) = new.records([values[0], values[1][:4]], view("series", kind="series"), run)
    own, mine = (s.fetch(np.arange(2))["series"].numpy() for s in (run.source, made.source))
    np.testing.assert_allclose(mine, own, rtol=1e-6)
    assert abs(np.nanmean(own)) < 1  # the raw mean is 3


def test_an_npz_brings_its_names(config, view, tmp_path):
    run, values = series_run(config, tmp_path)
    names = {"path": np.array(["x", "y"]), "class_names": np.array(["p", "q"])}
    np.savez(tmp_path / "n.npz", series=values[:2], label=np.array([1, 0]), **names)
    (made,) = new.records(str(tmp_path / "n.npz"), view("series", kind="series"), run)
    assert made.source.paths == ("x", "y") and made.source.class_names == {"label": ("p", "q")}
    assert made.source.fetch(np.arange(2))["label"].numpy().tolist() == [1, 0]


def test_texts(config, view, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\n")
    asked = config(name="csv", dir=str(tmp_path))
    run = new.Run(data.open_source(asked, "train"), asked)
    for given in ("one", ["one"], np.array(["one"])):
        (made,) = new.records(given, view("text", kind="text"), run)
        assert made.source.fetch(np.arange(1))["text"].numpy().tolist() == [b"one"]


GRAPH = {"kind": "graph", "field": "graph", "ops": (), "draws": "a", "missing": 0.0}


def graph(folder, nodes, edges="source,target\na,b\n"):
    folder.mkdir(exist_ok=True)
    (folder / "nodes.csv").write_text(nodes)
    (folder / "edges.csv").write_text(edges)
    return str(folder)


def test_a_new_graph_is_read_by_the_names_of_the_runs_columns(config, tmp_path):
    """Columns in another order, classes as the run numbers them, whatever split the nodes are in; labels may lack."""
    asked = config(
        name="graph_csv", dir=graph(tmp_path / "run", "id,x,y,label,split\na,1,2,red,train\nb,3,4,blue,test\n")
    )
    run = new.Run(data.open_source(asked, "train"), asked)
    assert run.source.class_names == {"label": ("blue", "red")}
    made = {}
    for name, nodes in (
        ("same", "id,split,label,y,x\nb,,red,4,3\na,test,green,2,1\nc,,,0,0\n"),
        ("none", "id,y,x\na,2,1\nb,4,3\n"),
        ("other", "id,y,x,label\na,2,1,p\nb,4,3,q\n"),
    ):
        made[name] = new.records(graph(tmp_path / name, nodes), GRAPH, run)[0].source
    rows = made["same"].fetch(np.arange(3))
    assert rows["graph"]["nodes"].numpy().tolist() == [[3, 4], [1, 2], [0, 0]] and made["same"].whole
    assert rows["label"].numpy().tolist() == [1, -1, -1] and made["same"].class_names == run.source.class_names
    assert made["none"].labels == {} and made["other"].class_names == {"label": ("p", "q")}
    for nodes, said in (
        ("id,x\na,1\nb,2\n", "nodes.csv: found the features x; allowed: x, y, as the run's nodes have"),
        ("id,x,y,z\na,1,2,3\nb,2,3,4\n", "found the features x, y, z"),
    ):
        with pytest.raises(InputError, match=said):
            new.records(graph(tmp_path / "bad", nodes), GRAPH, run)
    for given, said in (
        (tmp_path / "no", "--data: found no folder"),
        (np.ones((2, 2)), "--data: found ndarray; allowed: a"),
    ):
        with pytest.raises(InputError, match=said):
            new.records(given, GRAPH, run, "--data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="^--data: found no nodes.csv in"):
        new.records(tmp_path / "empty", GRAPH, run, "--data")


def test_new_graphs_of_a_tu_set_have_the_runs_one_hot(config, tmp_path):
    """A kind of node that the new ones lack keeps its column; one that the run lacks is refused."""

    def tu(name, kinds):
        (tmp_path / name).mkdir()
        for part, text in (("A", "1, 2\n2, 1\n"), ("graph_indicator", "1\n1\n"), ("graph_labels", "7\n"),
                           ("node_labels", kinds), ("node_attributes", "1\n2\n")):  # fmt: skip
            (tmp_path / name / f"DS_{part}.txt").write_text(text)
        return config(name="tu", dir=str(tmp_path / name))

    asked = tu("run", "3\n5\n")
    run = new.Run(data.open_source(asked, "train"), asked)
    source = new.records(tu("new", "5\n5\n").dir, GRAPH, run)[0].source
    assert (
        source.fetch(np.arange(1))["graph"]["nodes"].numpy().tolist() == [[[0, 1, 1], [0, 1, 2]]] and not source.whole
    )
    bare = tu("bare", "5\n5\n").dir
    (tmp_path / "bare" / "DS_node_labels.txt").unlink()
    for folder, found in ((tu("bad", "4\n5\n").dir, "with label 0 is 4"), (bare, "without label 0")):
        with pytest.raises(InputError, match=f"found nodes {found}; allowed: the features of the run's nodes"):
            new.records(folder, GRAPH, run)


def test_what_does_not_fit_is_one_line(config, view, tmp_path):
    (tmp_path / "empty").mkdir()
    pictures, spec = like(config, tmp_path / "run", (6, 5), (9, 9)), view()
    run, values = series_run(config, tmp_path)
    np.savez(tmp_path / "o.npz", image=picture(3, 3)[None])
    other = view("series", kind="series")
    for given, asked, of, said in (
        ([], spec, pictures, "inputs: found nothing; allowed: at least one record"),
        (str(tmp_path / "no.jpg"), spec, pictures, "inputs: found no file"),
        (tmp_path / "empty", spec, pictures, "empty: found no picture; allowed: files that end in .jpg"),
        (np.zeros((2, 3, 3, 3)), spec, pictures, "inputs: found float64 of shape (2, 3, 3, 3); allowed: uint8"),
        (np.zeros((2, 5), np.uint8), spec, pictures, "allowed: pictures [n, H, W, C]"),
        # One picture is none of H grey ones whose width is its channels.
        (picture(3, 9), spec, pictures, "uint8 of shape (3, 9, 3); allowed: pictures [n, H, W, C]; one is pic"),
        (None, spec, pictures, "inputs: found NoneType; allowed: records of the view's field image"),
        (7, spec, pictures, "inputs: found int; allowed: records of"),
        (np.float32(1), other, run, "inputs: found ndarray; allowed: records of"),
        ([[1], [2, 3]], spec, pictures, "inputs: found list; allowed: records of the view's field image"),
        (["a"], other, run, "inputs: found str; allowed: an array, a list of series, or the path of an .npz, for the"),
        (np.zeros((2, 7, 2)), other, run, "a series of shape (7, 2); allowed: numbers [n, T] or [n, T, C] with T up"),
        (values[..., :1], other, run, "a series of shape (6, 1)"),
        (str(tmp_path / "o.npz"), other, run, "o.npz: found no 'series'; allowed: the run's field; there: image"),
    ):
        with pytest.raises(InputError) as error:
            new.records(given, asked, of)
        assert said in str(error.value) and "\n" not in str(error.value)
