"""The fields of what a recipe gives by name: views, towers with their parts, objectives and their moving arguments."""

import dataclasses
import math
from typing import Any, ClassVar

from hcl_jax.config.fields import setting

KINDS = ("image", "series", "text", "graph", "features")
FEATURES = ("trained", "untrained", "raw")


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How a field of the records becomes the input of a tower."""

    kind: str = setting(..., "what it is made into", choices=KINDS)
    field: str = setting(..., "the source's field that the view is made from")
    ops: tuple[dict, ...] = setting(
        ..., 'operations in order, each `{"op": name, argument: value}` of `python -m hcl_jax.parts views`'
    )
    draws: str = setting("", "views with the same word share their random numbers", shown="the view's name")
    missing: float = setting(
        0.0, "share of the *examples* that lack this view, the same ones every epoch", least=0, below=1
    )
    swapped: float = setting(
        0.0,
        "share of the examples whose view is made from another example's record, the same ones every epoch; exact to "
        "the example, but never one alone: that makes two. Views with the same `draws` are swapped alike",
        least=0,
        most=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationView:
    """What evaluation reads: a view, the tower it goes through, and an output of that."""

    kind: str = setting(..., "as of a view", choices=KINDS)
    field: str = setting(..., "as of a view")
    ops: tuple[dict, ...] = setting(..., "as of a view")
    draws: str = setting("", "as of a view", shown="the view's name")
    missing: float = setting(0.0, "as of a view", least=0, below=1)
    tower: str = setting(..., "the tower that it goes through")
    output: str = setting("h", "`h` or a head")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A function of features and labels, what it reads, and its arguments."""

    ARGUMENTS: ClassVar[bool] = True
    evaluator: str = setting("", "of `python -m hcl_jax.parts evaluators`", shown="the entry's name")
    every: int | None = setting(
        None, "steps between its evaluations", least=0, zero="evaluates at the end only", shown="evaluate.every"
    )
    views: tuple[str | tuple[str, ...], ...] = setting(
        (), "views or outputs, one after the other, or in pairs where it compares two", shown="all evaluation views"
    )
    labels: str | None = setting(None, "which label", shown="evaluate.labels")
    features: tuple[str, ...] = setting(
        (), "some of trained, untrained, raw", choices=FEATURES, shown="as the evaluator reads"
    )
    data: dict[str, Any] = setting({}, "fields of `data` that are its own: another data set", shown="the run's data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
    """An encoder: its name and its arguments."""

    ARGUMENTS: ClassVar[bool] = True
    name: str = setting(..., "of `python -m hcl_jax.parts encoders`")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A head: its name, what it reads, and its arguments."""

    ARGUMENTS: ClassVar[bool] = True
    name: str = setting(..., "of `python -m hcl_jax.parts heads`")
    reads: str = setting("h", "`h`, `tokens`, or another head of the tower")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A moving-average copy of a tower."""

    momentum: float = setting(0.996, "m of m old + (1 - m) new, after each step", least=0, most=1)
    schedule: str = setting(
        "cosine", "of the momentum: `cosine` reaches 1 at the last step", choices=("constant", "cosine")
    )
    heads: tuple[str, ...] = setting((), "heads that are copied too, with those that they read")
    stats: str = setting(
        "own",
        "which running statistics it keeps: its `own`, an `ema` of the online ones, or the `online` ones",
        choices=("own", "ema", "online"),
    )
    drop: bool = setting(True, "dropout and stochastic depth in the target too; False: none (DINO's teacher)")
    moves: str = setting(
        "after",
        "after: the step's own momentum moves it at its end; before: that of the next step does, as in codes that move "
        "it ahead of the forward pass (MoCo v3)",
        choices=("after", "before"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """A slot: `kind` says which fields it has."""

    ARGUMENTS: ClassVar[bool] = True
    kind: str = setting("fifo", "a queue of rows, or their moving mean", choices=("fifo", "mean_ema"))
    reads: str | tuple[str, ...] = setting(..., "the output that is written, or a list of them")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fifo(Memory):
    """A queue of the newest rows."""

    ARGUMENTS: ClassVar[bool] = False
    size: int = setting(..., "its rows, a multiple of the rows that a step writes", least=1, cap=2**28)
    initial: str = setting(
        "random",
        "what is read of rows that are not written yet: random ones of unit length (MoCo), or `zeros`, which losses "
        "take for empty (SwAV)",
        choices=("random", "zeros"),
    )
    starts: int = setting(0, "the step from which on it is written", least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanEma(Memory):
    """A moving mean of rows."""

    ARGUMENTS: ClassVar[bool] = False
    momentum: float = setting(..., "m of m old + (1 - m) mean of the rows", least=0, below=1)


MEMORIES: dict[str, type] = {"fifo": Fifo, "mean_ema": MeanEma}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tower:
    """An encoder with its heads, and the views that go through it."""

    views: tuple[str, ...] = setting(..., "the views that go through it; each view belongs to one tower at most")
    encoder: Module = setting(
        ..., '`{"name": ..., argument: value}` of `ENCODERS`; its output is `h` (and `tokens` where it has them)'
    )
    heads: dict[str, Head] = setting({}, 'name -> `{"name": ..., "reads": "h", ...}` of `HEADS`')
    target: Target | None = setting(
        None,
        '`{"momentum": 0.996, "schedule": "cosine", "heads": (), "stats": "own"}`: a moving-average copy',
    )
    memory: dict[str, Memory] = setting(
        {},
        'slot -> `{"kind": "fifo", "reads": "b.target.z", "size": n}` or `{"kind": "mean_ema", "reads": ..., '
        '"momentum": m}`; `reads` is an output or a list of them',
    )
    batching: str = setting(
        "joint",
        "joint: views of one shape go through the encoder together (one BatchNorm batch); per_view: one by one",
        choices=("joint", "per_view"),
    )
    heads_batching: str = setting(
        "encoder",
        "encoder: heads run with each pass of the encoder; together: once over all views, of whatever size (SwAV), one "
        "BatchNorm batch",
        choices=("encoder", "together"),
    )
    bn_groups: int = setting(
        1,
        "contiguous groups of rows with BatchNorm statistics of their own; 1 is the whole global batch",
        least=1,
        cap=2**16,
    )
    frozen: bool = setting(
        False, "the encoder runs in evaluation mode and takes no gradient and no update: only heads train"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowWeights:
    """Row weights that a function makes of outputs."""

    ARGUMENTS: ClassVar[bool] = True
    weights: str = setting(..., "a name of `hcl_jax.losses.WEIGHTS`")
    inputs: tuple[str, ...] | dict[str, str] = setting(..., "what it reads, as of an objective")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss, what it reads, and its arguments."""

    ARGUMENTS: ClassVar[bool] = True
    loss: str = setting(..., "a name of `python -m hcl_jax.parts losses`")
    inputs: tuple[str, ...] | dict[str, str] = setting(
        ...,
        'a list in the order of the loss\'s arrays, or by their names `{"query": "a.p", "key": "b.target.z"}`; each '
        "`view.output`, `view.target.output`, `tower.memory.slot`, `tower.memory.slot.head`, `views.view.field`, "
        "`labels.name`",
    )
    weight: float | dict = setting(
        1.0,
        'a number, a schedule, or `{"learn": "linear", "init": 0.0}` for the uncertainty weight exp(-s) L + s',
        least=-math.inf,
        cap=1e6,
    )
    pairs: str = setting("index", "the ids that say who is positive with whom: same id = positive, -1 = ignored")
    row_weights: str | RowWeights | None = setting(
        None,
        "a name such as `views.a.quality`; or made in the step, "
        '`{"weights": "pair_quality", "inputs": ("qa.tokens", "qb.tokens"), argument: value}`',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """An argument that is trained."""

    learn: str = setting(
        ..., "exp of a parameter, the parameter, or probabilities", choices=("exp", "linear", "simplex")
    )
    init: float = setting(..., "where it starts; of a simplex how many probabilities", least=-math.inf, cap=1e9)
    min: float | None = setting(None, "it is put back to this after an update past it", least=-math.inf, cap=1e9)
    max: float | None = setting(None, "it is put back to this after an update past it", least=-math.inf, cap=1e9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheduled:
    """An argument that follows the step."""

    schedule: str = setting(..., "its course", choices=("linear", "cosine"))
    start: float = setting(..., "its value at step 0", least=-math.inf, cap=1e9)
    end: float = setting(..., "its value from step `steps` on", least=-math.inf, cap=1e9)
    steps: int = setting(..., "how long it takes", least=1)
    hold: int = setting(1, "for how many steps at a time it stays as it is: those of an epoch, for one", least=1)
