"""The blocks of README and docs: commands are read by their real parsers, those of the how-to pages are run.

Every `python -m hcl_jax.COMMAND` of a page is read as far as its config: module, flags, recipe, fields, types. The
commands and the Python of docs/use.md and docs/tutorial.md run; sources open what the Python of docs/data.md writes.
Not here: docs/loops.md (test_loops.py), README's recipe (test_docs.py), and commands of `launch` (tests/launch).
"""

import contextlib
import importlib
import importlib.util
import json
import pathlib
import re
import shlex
import types

import numpy as np
import pytest
import scipy.sparse

import hcl_jax
from hcl_jax import SOURCES, cli, load
from hcl_jax import config as configs
from hcl_jax.main import main
from hcl_jax.parallel import mesh as meshes
from hcl_jax.views.lazy import tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
HISTORY = ("docs/log.md",)  # what was run then, with the flags of then
ENDS = ("|", "&&", ";", "&", ">", "2>&1")  # of a command in a line of a shell
STANDS_FOR_MORE = ("...", "RECIPE", "[RUN")  # lines that name a form, not a command


class Read(BaseException):
    """A command has read all that it was given."""


def pages():
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {name: p.read_text() for p in found if (name := p.relative_to(ROOT).as_posix()) not in HISTORY}


def blocks(text, *languages):
    """(language, block) of each fenced block, in the order of the page; "" is a shell's."""
    return [b for b in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if b[0] in languages]


def commands(text):
    """(command, arguments) of every python -m hcl_jax.COMMAND in the blocks of a page, and of every `P.COMMAND ...`."""
    lines = [line for _, block in blocks(text, "", "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += [f"python -m hcl_jax.{line}" for line in re.findall(r"`P\.(\w+ [^`]*)`", text)]
    for line in lines:
        if "python -m hcl_jax." not in line or any(word in line for word in STANDS_FOR_MORE):
            continue
        words = shlex.split(line, comments=True)
        for i, word in enumerate(words):
            if word.startswith("hcl_jax.") and words[i - 1] == "-m":
                rest = words[i + 1 :]
                yield word.removeprefix("hcl_jax."), rest[: next((j for j, w in enumerate(rest) if w in ENDS), None)]


def module_of(command):
    package = f"hcl_jax.{command}"
    try:
        inside = importlib.util.find_spec(f"{package}.__main__")
    except ModuleNotFoundError:  # a file, or nothing
        inside = None
    return importlib.import_module(f"{package}.__main__" if inside else package)


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Runs a command up to the point where its flags and its config are known."""
    monkeypatch.chdir(tmp_path)
    recipe = next(b for _, b in blocks((ROOT / "README.md").read_text(), "python") if "get_config" in b)
    pathlib.Path("mine.py").write_text(recipe)
    frozen = configs.complete(load("simclr:digits"))
    monkeypatch.setattr(cli.folders, "resume_config", lambda folder: frozen)
    plain, config_of = cli.OneLineParser.parse_args, cli.read_config

    def parsed(parser, *arguments):
        plain(parser, *arguments)
        raise Read

    def configured(*arguments):
        configs.complete(config_of(*arguments))
        raise Read

    monkeypatch.setattr(cli.OneLineParser, "parse_args", parsed)

    def run(command, arguments):
        module = module_of(command)
        if hasattr(module, "read_config"):
            monkeypatch.setattr(module, "read_config", configured)
        with contextlib.suppress(Read):
            status = module.main(arguments)
            pytest.fail(f"{command} {arguments}: ended with {status}")

    return run


def test_every_command_is_one(read, capsys):
    seen, bad = 0, []
    for page, text in pages().items():
        for command, arguments in commands(text):
            seen += 1
            try:
                read(command, arguments)
            except (SystemExit, pytest.fail.Exception, ImportError) as error:
                bad.append((page, command, arguments, str(error), capsys.readouterr().err))
    assert not bad and seen > 60, (seen, bad)


@pytest.mark.parametrize(
    "line",
    [
        "python -m hcl_jax.embed --workdir=runs/x --outputs=y",  # a flag
        "python -m hcl_jax.neighbors --workdir=runs/x",  # a module
        "python -m hcl_jax.main --config=simclr:digits --config.data.sise=3 --workdir=x",  # a field
        "python -m hcl_jax.main --config=simclr:digit --workdir=x",  # a recipe
        "python -m hcl_jax.check --config=simclr:digits --config.data.batch_size=many",  # a type
        "`P.report runs/x --outputs=report.html`",
    ],
)
def test_a_slip_in_a_command_is_seen(read, line):
    ((command, arguments),) = commands(line if line.startswith("`") else f"```\n{line}\n```\n")
    with pytest.raises((SystemExit, pytest.fail.Exception, ImportError)):
        read(command, arguments)


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8)
    path.write_bytes(tf.io.encode_jpeg(pixels).numpy())


@pytest.mark.slow
def test_use_a_model(tmp_path, monkeypatch, capsys):
    """docs/use.md from top to bottom, on a run of 48 pictures, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    for i in range(48):
        picture(pathlib.Path("PHOTOS", ("hat", "cat")[i % 2], f"{i} 日本.jpg"), i)
    for i, path in enumerate(("a.jpg", "b.jpg", "NEW/hat/c.jpg", "NEW/cat/d.jpg", "NEW/cat/e.jpg")):
        picture(pathlib.Path(path), 100 + i)
    tiny = ("data.size=16", "data.batch_size=16", "evaluate.batch_size=16", "towers.image.encoder.widths=(8,16)",
            "towers.image.heads.z.hidden=16", "train.steps=2", "log.tensorboard=false",
            "evaluate.evaluators={'linear': {}}")  # fmt: skip
    made = ["--config=simclr:folder", "--config.data.dir=PHOTOS", "--workdir=runs/photos"]
    assert main([*made, *(f"--config.{field}" for field in tiny)]) == 0
    names, ran = {"np": np}, 0
    for language, block in blocks((ROOT / "docs" / "use.md").read_text(), "python", ""):
        if "runs/mine" in block:  # `test_own_parts_of_the_readme` opens that run
            continue
        if language:
            exec(compile(block, "docs/use.md", "exec"), names)
            ran += 1
        for command, arguments in commands(f"```\n{block}```\n") if not language else ():
            assert module_of(command).main(arguments) == 0, (command, arguments, capsys.readouterr().err)
            ran += 1
    assert ran >= 7 and names["features"].shape == (2, 16)
    assert names["file"]["path"].shape == (3,) and names["near"].names[0] in ("hat", "cat")
    pathlib.Path("PHOTOS").rename("elsewhere")
    model = importlib.import_module("hcl_jax").open("runs/photos")
    np.testing.assert_array_equal(model.encode(["a.jpg", "b.jpg"]), names["features"])
    assert model.classify("a.jpg", "nearest").names[0] in ("hat", "cat")


# What makes the runs of the tutorial short, and where it stands in its text.
SHORTER = {
    'write("photos", 100,': 'write("photos", 8,',
    "--config.train.epochs=20": "--config.train.epochs=2",
    "--config.train.epochs=10 --config.train.seeds=3": "--config.train.epochs=1 --config.train.seeds=2",
    "--config.train.epochs=40": "--config.train.epochs=3",
}
SMALLER = ["mesh.data=1", "data.batch_size=16", "evaluate.batch_size=32", "towers.image.encoder.widths=(8,16)",
           "evaluate.evaluators.few_labels.per_class=(1,)", "towers.image.heads.z.hidden=16"]  # fmt: skip


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch, capsys):
    """docs/tutorial.md from top to bottom, on few pictures and a small network: every block of Python and every command
    works after those before it, and what is stable is printed as the page says."""
    monkeypatch.chdir(tmp_path)
    text, names, ran = (ROOT / "docs" / "tutorial.md").read_text(), {}, []
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    for language, block in blocks(text, "python", ""):
        if language:
            exec(compile(block, "docs/tutorial.md", "exec"), names)
            ran.append("python")
        for command, arguments in commands(f"```\n{block}```\n") if not language else ():
            begins = command == "main" and any(a.startswith("--config=") for a in arguments)
            small = [f"--config.{field}" for field in SMALLER] if begins else []
            assert module_of(command).main([*arguments, *small]) == 0, (command, arguments, capsys.readouterr().err)
            ran.append(command)
    main_and = ["main", "main", "compare", "neighbours", "main", "main"]
    assert ran == ["python", "check", "preview", "main", "report", "neighbours", "python", *main_and], ran
    assert names["features"].shape == (20, 16) and set(names["found"].names) <= set(names["SYMBOLS"])
    said = capsys.readouterr().out
    for line in (
        "mean over 2 paired seeds",
        "runs/first: resumed at step",
        " JPEG; 96 x 96 pixels",
        "nearest to new/star/000.jpg",
    ):
        assert line in said, line
    board = tmp_path / "runs" / "first" / "tensorboard"
    assert (board / "projector/image/metadata.tsv").read_text().count("\n") > 10
    events = b"".join(path.read_bytes() for path in board.glob("events*"))
    assert events.count(b"views/a") == events.count(b"views/b") == 1 and events.count(b"results/text_summary") > 1


def test_python_of_the_losses_page():
    """Both blocks give one finite number, and the engines of the second the same one."""
    rows = np.random.default_rng(0).normal(size=(2, 1024, 4)).astype(np.float32)
    names = dict(query=rows[0], key=rows[1], labels=np.arange(1024) % 5, quality=np.ones(1024, np.float32),
                 za=rows[0], zb=rows[1], mesh=meshes.make_mesh(configs.defaults().mesh))  # fmt: skip
    found = [b for _, b in blocks((ROOT / "docs" / "losses.md").read_text(), "python")]
    assert len(found) == 2
    for block in found:
        values = []
        for line in block.splitlines():
            exec(compile(line, "docs/losses.md", "exec"), names)
            values += [float(names["value"])] if line.startswith("value") else []
        assert np.isfinite(values).all() and np.ptp(values) < 1e-2 * values[0]


@pytest.mark.slow
def test_own_parts_of_the_readme(tmp_path, monkeypatch, capsys):
    """README's own encoder, loss, view and evaluator, two steps long: all are used, and the run opens with them."""
    monkeypatch.chdir(tmp_path)
    (block,) = (b for _, b in blocks((ROOT / "README.md").read_text(), "python") if "class Mine" in b)
    asked, call = "config.train.steps = 2\nconfig.log.tensorboard = False\n", "train_and_evaluate(config"
    assert block.count(call) == 1
    names = {}
    exec(compile(block.replace(call, asked + call), "README.md", "exec"), names)
    own = {
        "losses": {**names["LOSSES"], "apart": lambda a, b, *, ids=None: a},
        "views": {**names["VIEWS"], "negative": lambda x, draws: -x},
    }
    model = hcl_jax.open("runs/mine", encoders={**names["ENCODERS"], "mine": names["Mine"]}, **own)
    assert model.encode(np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 64)
    with pytest.raises(hcl_jax.InputError, match="^encoder: found an argument that open does not have"):
        hcl_jax.open("runs/mine", encoder=names["Mine"])
    assert "hcl_jax.open('runs/mine', encoders=..., losses=..., views=...)" in capsys.readouterr().out
    card = json.loads((tmp_path / "runs" / "mine" / "card.json").read_text())
    assert card["config"]["train"]["steps"] == 2 and card["results"]["eval/image/length"] > 0


def data(**fields):
    found = configs.defaults().data
    found.update(fields)
    return found


DATA = [block for _, block in blocks((ROOT / "docs" / "data.md").read_text(), "python")]


@pytest.mark.parametrize("block", DATA, ids=lambda block: block.split("(")[0].split(" =")[0].split("\n")[0][:30])
def test_python_of_the_data_page(block, tmp_path, monkeypatch):
    """What a block writes opens as the source of its page, and what it reads is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").mkdir()
    (tmp_path / "train").mkdir()
    picture(tmp_path / "train" / "hat" / "a.jpg", 0)
    picture(tmp_path / "train" / "cat" / "b.jpg", 1)
    labels, nodes = np.array([0, 1]), np.arange(4)
    asked = data(name="folder", dir=str(tmp_path))
    names = dict(
        np=np, scipy=scipy, arrays=[np.ones((3, 2)), np.ones((5, 2))], channels=2, images=np.ones((2, 8, 8, 3)),
        labels=labels, model=lambda images: images.reshape(len(images), -1)[:, :6], features=np.eye(4),
        edges=np.array([[0, 1], [1, 0]]), train=nodes[:2], validation=nodes[2:3], test=nodes[3:],
    )  # fmt: skip
    names |= {"hcl_jax": importlib.import_module("hcl_jax"), "config": type("Config", (), {"data": asked})()}
    names |= {"pd": importlib.import_module("pandas")} if "pd." in block else {}
    names |= {"data": types.SimpleNamespace(edge_index=np.array([[0, 1], [1, 0]]), x=np.eye(4), y=nodes % 2)}
    if "feature_indptr" in block:
        names["labels"] = np.array([0, 1, 0, 1])
    exec(compile(block, "docs/data.md", "exec"), names)
    kind = "preferences" if "chosen" in block else "npz"
    for name, source in (("train.npz", kind), ("graph.npz", "planetoid"), ("nodes.csv", "graph_csv")):
        if (tmp_path / "DIR" / name).exists():
            of = data(name=source, dir=str(tmp_path / "DIR"), labels=() if source == "preferences" else ("label",))
            assert SOURCES[source](of, "train").num_examples
