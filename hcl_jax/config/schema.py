"""The fields of a run's config: one line says a field's type, default, bounds, and what it is for.

A field that is added here has its default, its checks, its type on the command line and its row in docs/config.md
(`make golden` writes the tables). Rules between fields are in validate.py and the check_ modules
beside it.
"""

import dataclasses
import math
from typing import Any

from hcl_jax.config.fields import Name, Regex, setting
from hcl_jax.config.specs import EvaluationView, Evaluator, Objective, Tower, View

DTYPES = ("float32", "bfloat16", "float16", "float64")
# Tables of other rooms, repeated here (as in specs.py): those rooms import JAX, and --help must not wait for it.
ENGINES = ("auto", "dense", "streamed", "ring", "gathered")
DEFAULT_EXCLUDE = ("bias$", "scale$", "(^|/)objectives/", "position", "(cls|register)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Which records, and how they become batches."""

    name: str = setting("digits", "a source (`python -m hcl_jax.parts sources` lists them) or any TFDS name")
    dir: str = setting("", "its folder", open=True)
    train_split: str = setting("train", "name of the split that is trained on; probes are fitted on it")
    test_split: str = setting("test", "name of the split that probes are read on, or of what `data.held_out` holds out")
    held_out: float = setting(
        0.0,
        "share of the training split's records that is held out and stands for the test split, by a hash of "
        "`data.held_out_seed` and the record's number ([how](data.md#without-a-test-part-held_out))",
        least=0,
        below=1,
        zero="reads the split `data.test_split`",
    )
    held_out_seed: int = setting(0, "which ones are held out: the same for every `seed`", least=0, most=2**32 - 1)
    num_examples: int = setting(0, "the first n training examples", least=0, zero="takes all")
    batch_size: int = setting(
        256,
        "global, in examples; above the number of records some are in it more than once, as positives of each other",
        least=1,
        cap=2**24,
    )
    labels: tuple[str, ...] = setting(("label",), "labels to read; () for none")
    labelled: float = setting(
        1.0,
        "share of the training examples that keep their classes, the same ones for every seed; the others' are -1",
        above=0,
        most=1,
    )
    sample: int = setting(
        0,
        "that many training examples, drawn by the seed: other seeds of a program train on other rows; those of a "
        "smaller sample are among those of a larger one. An epoch is the sample",
        least=0,
        zero="takes all",
    )
    flipped: float = setting(
        0.0,
        "share of the training examples whose classes are replaced by others, exact to the example, drawn by the seed, "
        "each label of `data.labels` on its own; a class -1 stays -1",
        least=0,
        most=1,
    )
    flipped_keeps: bool = setting(
        False,
        "the new class is drawn from all, so that one in C is the true one again (as published for noise on downstream "
        "labels); False: from the others",
    )
    num_classes: int = setting(0, "of the labels", least=0, cap=2**24, zero="takes what the source says")
    order: str = setting(
        "shuffled",
        "`whole`: each step holds every record once, record r in row r; rows past the last one are absent (one graph)",
        choices=("shuffled", "whole"),
    )
    generated: str = setting(
        "",
        "folder that `python -m hcl_jax.generate` wrote: gives training records the field `generated`",
        open=True,
    )
    shape: tuple[int, ...] = setting(
        (), "of one example where no data can say it (random input, folders)", least=1, cap=2**20
    )
    size: int = setting(
        0,
        "side in pixels of the ops `random_resized_crop`, `centre_crop` and `resize` that name no `size`; a "
        "frozen config has it in each of them",
        least=0,
        cap=2**16,
        zero="each must name its own",
    )
    text: str = setting("text", "column or columns of a CSV, or the key of an npz, that hold the text")
    picture: str = setting("filepath", "pairs_csv: column with the paths of the pictures")
    record: str = setting("id", "series_csv, graph_csv: column with the name of the series, or of the node")
    time: str = setting("time", "series_csv: column with the time of a line")
    tokenizer: str = setting(
        "bytes",
        "of the ops `tokens` that name none: `bytes`, or a file ([which](data.md#captions-and-tokenizers)), which is "
        "known by its digest",
        open=True,
    )
    standardise: bool = setting(False, "series: by the training split's mean and deviation of each channel")
    in_memory: bool = setting(True, "decode once and keep; False reads each record when it is needed", open=True)
    shrink: int = setting(
        0,
        "folder, pairs_csv: a picture whose short side has more pixels is made that small, once where `data.in_memory` "
        "keeps it: a step then decodes no photograph of 12 megapixels",
        least=0,
        cap=2**16,
        zero="is off",
    )
    upright: bool = setting(
        True,
        "encoded pictures are turned as their EXIF orientation says "
        "([which](data.md#pictures-in-folders-folder)); False: as they are stored, as published numbers have them",
        before=False,
    )
    max_pixels: int = setting(
        100_000_000,
        "most pixels of a picture, by its header (of a GIF: of all frames); a larger one is a bad record",
        least=1,
        most=2**53,
        open=True,
    )
    max_array_bytes: int = setting(
        2**32,
        "most bytes of the arrays of one file (npz, idx) or of a file in a zip, by its header; more is refused",
        least=1,
        most=2**53,
        open=True,
    )
    prepare: bool = setting(False, "let TFDS download and prepare what is missing", open=True)
    max_bad_records: int = setting(
        16,
        "how many unusable records may be replaced by others ([how](data.md#bad-records)); one more, over "
        "all processes, ends the run",
        least=0,
        zero="ends it at the first",
        open=True,
    )
    parts: dict[str, Any] = setting(
        {},
        'of the source `mixture`: name -> `{"name": source, "weight": w, field of data: value}` '
        "([how](data.md#mixtures-mixture)); another mixture is known by its fingerprint",
        open=True,
    )


PART_FIELDS = (  # of data that a part of a mixture may have of its own
    *("name", "dir", "train_split", "test_split", "num_examples", "labels", "num_classes"),
    *(
        "held_out",
        "held_out_seed",
        "shape",
        "text",
        "picture",
        "record",
        "time",
        "standardise",
        "in_memory",
        "shrink",
        "prepare",
    ),
)
_OWN = [
    (f.name, f.type, dataclasses.field(default=f.default, metadata=f.metadata))
    for f in dataclasses.fields(Data)
    if f.name in PART_FIELDS
]
_WEIGHT = (
    "weight",
    float,
    setting(
        1.0,
        "its share of the records, beside the weights of the others; left out: its number of records",
        above=0,
        cap=1e12,
    ),
)
Part = dataclasses.make_dataclass("Part", [*_OWN, _WEIGHT], frozen=True, kw_only=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What a gradient does to the parameters."""

    name: str = setting("adamw", "which optimizer", choices=("sgd", "adamw", "lars", "larc", "lamb"))
    learning_rate: float = setting(1e-3, "before scaling", above=0, cap=1e4)
    scaling: str = setting("none", "linear: rate x B / 256; sqrt: rate x sqrt(B)", choices=("none", "linear", "sqrt"))
    weight_decay: float = setting(1e-4, "beside the gradient or in it, as `optimizer.decay` says", least=0, cap=1e4)
    weight_decay_end: float | None = setting(
        None, "where a cosine over the run takes the weight decay; None: it stays", least=0, cap=1e4
    )
    decay: str = setting(
        "own",
        "in the `gradient` (L2) or `decoupled` from it; `own` is decoupled for adamw and lamb, in the gradient for the "
        "others. Adam with L2 is adamw with `gradient`",
        choices=("own", "gradient", "decoupled"),
    )
    momentum: float = setting(0.9, "of sgd, lars and larc", least=0, below=1)
    momentum_form: str = setting(
        "own",
        "`rate_inside` is v = m v + lr g, w -= v; `rate_outside` is v = m v + g, w -= lr v; `own` is inside for lars, "
        "outside for sgd and larc",
        choices=("own", "rate_inside", "rate_outside"),
    )
    b1: float = setting(0.9, "of adamw and lamb", least=0, below=1)
    b2: float = setting(0.999, "of adamw and lamb", least=0, below=1)
    eps: float = setting(
        0.0, "of adamw, lamb and larc", least=0, cap=1.0, zero="takes 1e-8 (adamw, larc) and 1e-6 (lamb)"
    )
    nesterov: bool = setting(False, "of sgd, lars and larc")
    trust_coefficient: float = setting(1e-3, "of lars and larc", least=0, cap=1e4)
    schedule: str = setting("cosine", "after the warm-up", choices=("cosine", "constant", "multistep"))
    milestones: tuple[float, ...] = setting(
        (), "epochs at whose beginning a `multistep` schedule multiplies the rate by `gamma`", above=0, cap=1e6
    )
    gamma: float = setting(0.1, "what it is multiplied by", above=0, below=1)
    schedule_by: str = setting(
        "step",
        "`epoch`: after the warm-up the rate stays within an epoch as it is at its beginning, `epoch_end`: at its end",
        choices=("step", "epoch", "epoch_end"),
    )
    cosine_over: str = setting(
        "rest", "what is left after the warm-up, or the whole `run`, the warm-up in it", choices=("rest", "run")
    )
    schedule_stretch: float = setting(
        1.0, "the schedules of the rate and of the decay are cut for a run that many times as long", least=1, cap=1e6
    )
    schedule_ahead: int = setting(0, "they are read that many updates ahead", least=0, cap=1e6)
    end_rate: float = setting(0.0, "where the cosine ends, after scaling", least=0, cap=1e4)
    end_share: float = setting(0.0, "the same as a share of the peak", least=0, most=1)
    warmup_steps: int = setting(0, "steps win when both are set", least=0)
    warmup_epochs: float = setting(0.0, "the same in epochs", least=0, cap=1e6)
    warmup_start: float = setting(0.0, "where the warm-up begins, after scaling", least=0, cap=1e4)
    warmup_form: str = setting(
        "open",
        "its share in update t = 0, 1, ... of W: `open` t / W; `closed` t / (W - 1), as numpy.linspace; `ahead` "
        "(t + 1) / W",
        choices=("open", "closed", "ahead"),
    )
    clip: float = setting(0.0, "largest norm of the gradient", least=0, cap=1e9, zero="is off")
    clip_by: str = setting(
        "global", "the norm of all together, or of each `parameter` by itself", choices=("global", "parameter")
    )
    average: float = setting(
        0.0,
        "decay of a weight average that evaluation reads, with BatchNorm statistics of its own; 1 is the plain mean",
        least=0,
        most=1,
        zero="is off",
    )
    average_first: bool = setting(False, "the plain mean counts the weights before the first update too")
    unit_norm: tuple[Regex, ...] = setting(
        (), "regular expressions: kernels whose columns have unit length after each update (prototypes)"
    )
    exclude: tuple[Regex, ...] = setting(
        DEFAULT_EXCLUDE, "regular expressions: no weight decay, no trust ratio", shown="biases, norms, ..."
    )
    rules: tuple[tuple[Regex, float], ...] = setting(
        (),
        "(regular expression, multiplier of the learning rate): 0 freezes, negative ascends",
        least=-math.inf,
        cap=1e6,
    )
    freeze_steps: tuple[tuple[Regex, int], ...] = setting(
        (), "(regular expression, n): no update before update n, and no moments from before it", least=1
    )
    freeze_epochs: tuple[tuple[Regex, float], ...] = setting((), "the same in epochs", above=0, cap=1e6)
    fixed_rate: tuple[tuple[Regex, float], ...] = setting(
        (), "(regular expression, share of the peak): that rate from the first update to the last", above=0, cap=1e6
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """Sizes of the axes that devices are laid out in."""

    data: int = setting(-1, "replicas; -1 is what is left", least=1, cap=2**20, also=(-1,))
    fsdp: int = setting(1, "replicas that share parameters; -1 is what is left", least=1, cap=2**20, also=(-1,))
    tensor: int = setting(1, "parts of a layer; -1 is what is left", least=1, cap=2**20, also=(-1,))
    rules: tuple[tuple[Regex, str | tuple], ...] = setting(
        (), "(regular expression, spec) for parameters; () takes `parallel.sharding.DEFAULT_RULES`"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """How long, in which parts, and in which precision."""

    steps: int = setting(0, "of the whole run; may grow when it goes on", least=0, zero="takes train.epochs")
    epochs: float = setting(
        10.0, "of the training examples, where train.steps is 0; may grow when a run goes on", least=0, cap=1e6
    )
    accumulate: int = setting(
        1,
        "k sub-batches a step, each its own contrastive batch: it saves memory and adds no negatives",
        least=1,
        cap=2**16,
    )
    engine: str = setting(
        "auto",
        "how losses sum over the rows of a similarity matrix ([which way](losses.md#which-loss-which-way)), `auto` by "
        "bytes; `objectives.NAME.engine` for one",
        choices=ENGINES,
        open=True,
    )
    similarity_mib: int = setting(
        64,
        "engine auto leaves dense when the matrices of a loss would take more MiB on a device",
        least=0,
        cap=2**20,
        open=True,
    )
    cache: int = setting(
        1,
        "cached gradients: the encoders take 1/k of the rows at a time, the loss reads the whole batch; memory of a "
        "sub-batch, one more forward pass. A tower with BatchNorm needs `bn_groups`, a multiple of k "
        "([core.md](core.md#cached-gradients))",
        least=1,
        cap=2**16,
    )
    seeds: int = setting(
        1,
        "runs in one program, with seeds `seed`, `seed` + 1, ...; plain keys in metrics.jsonl and card.json "
        "are means over seeds, `..._se` their standard error over seeds, `seed3/...` those of one",
        least=1,
        cap=2**12,
    )
    compile_cache: str = setting(
        "auto",
        "where compiled programs are kept for the next start: `auto` is a folder of the user's cache for a run of one "
        "process (1 GiB at most), or a folder, which may be a gs:// address; `off`. A folder in "
        "`JAX_COMPILATION_CACHE_DIR` wins",
        open=True,
    )
    compute_dtype: str = setting("float32", "of activations; bfloat16 is for TPU and GPU", choices=DTYPES)
    param_dtype: str = setting("float32", "of parameters", choices=DTYPES)
    remat: bool = setting(False, "recompute activations in the backward pass")
    max_skipped: int = setting(
        10, "stop after that many non-finite steps in a row; each leaves the state as it was", least=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFrom:
    """Weights that a run begins with."""

    path: str = setting("", "a workdir or a .safetensors file")
    rename: tuple[tuple[Regex, str], ...] = setting(
        (),
        "(regular expression, replacement) on the saved paths, in order: "
        '`(("^image/", "judge/"),)` brings tower image in as judge',
    )
    include: tuple[Regex, ...] = setting((".*",), "regular expressions on this run's parameter paths")
    exclude: tuple[Regex, ...] = setting((), "the same, for parameters that are left as they are")
    frozen: bool = setting(False, "freeze what was brought in")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured on frozen features."""

    every: int | None = setting(
        None,
        "steps between evaluations; None: at the end, and a kNN on a sample at about ten points of a run with labels",
        least=0,
        zero="evaluates at the end only",
    )
    batch_size: int = setting(256, "of evaluation", least=1, cap=2**24)
    views: dict[Name, EvaluationView] = setting(
        {}, 'name -> `{"kind", "field", "ops", "tower", "output": "h"}`; none means no evaluation'
    )
    labels: str = setting("label", 'which label; "" for none')
    evaluators: dict[Name, Evaluator] = setting(
        {"spread": {}, "knn": {"k": 20, "temperature": 0.07}, "linear": {}},
        'name -> `{"evaluator": its own name, argument: value}` of `EVALUATORS`; None takes an entry away',
        shown="spread, knn (k 20, temperature 0.07), linear",
    )
    folds: int = setting(
        0,
        "cross-validation over the training split in that many parts, for sets without a test split; 0 is off",
        least=2,
        cap=1000,
        also=(0,),
    )
    weights: str = setting(
        "tower",
        "whose weights give the features: the tower's as trained, or those of its target where it has one (DINO's "
        "published numbers are the teacher's)",
        choices=("tower", "target"),
    )
    baselines: bool = setting(True, "the untrained encoder and the raw input beside the trained one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is saved and kept."""

    every: int = setting(1000, "steps between saves", least=1)
    keep: int = setting(2, "how many of the newest to keep", least=1)
    keep_best: int = setting(0, "also keeps that many saved steps with the best `checkpoint.best_metric`", least=0)
    best_metric: str = setting(
        "",
        "a name in metrics.jsonl that the evaluation of the same step gave, such as `eval/image/knn_accuracy`",
    )
    best_mode: str = setting("max", "whether the largest or the smallest value is the best", choices=("max", "min"))
    keep_every: int = setting(
        0, "keeps besides every saved step that is a multiple of this, for good", least=0, zero="is off"
    )
    on_error: str = setting(
        "stop",
        "a save that fails (no room) ends the run with one line; `go_on` says so and tries again at the next save",
        choices=("stop", "go_on"),
    )
    check_replicas: bool = setting(
        True,
        "before a save the devices that should hold the same numbers are compared bit by bit; a difference names the "
        "device and stops the run, and nothing is saved. Reads the state once",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """What is written while a run trains."""

    every: int = setting(20, "steps between lines", least=1)
    tensorboard: bool = setting(True, "write TensorBoard events ([what they hold](report.md#tensorboard))")
    wandb: bool = setting(False, "write to Weights & Biases")
    wandb_project: str = setting("", "of Weights & Biases; where it is empty, as WANDB_PROJECT or its own default says")
    wandb_name: str = setting("", "shown there; where it is empty, the folder's name")
    wandb_group: str = setting("", "of runs that are shown together there")
    trackers: tuple[str, ...] = setting(
        (),
        "what else gets the numbers: tensorboard, wandb, mlflow, and what the caller of `train_and_evaluate` adds",
    )
    spike: float = setting(
        10.0,
        "warn of a loss this many robust deviations (1.4826 x the median absolute one, at least 1 % of the median) "
        "above the median of the last 50 lines, from the eleventh line on",
        least=0,
        cap=1e9,
        zero="is off",
    )
    collapse: float = setting(
        0.05,
        "warn of an output whose `spread/<view>.<output>` is below this at three lines in a row: 1 is even over the "
        "sphere, 0 is all rows in one direction",
        least=0,
        below=1,
        zero="is off",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """In seconds."""

    watchdog: float = setting(
        300.0,
        "without a step before a stuck process says where it stands and is ended, or ten usual steps where that is "
        "longer; above the length of a step",
        least=0,
        most=1e9,
        zero="is off",
    )
    heartbeat: int = setting(100, "without a sign of life before a process counts as dead", least=1, cap=10**6)
    phase: float = setting(
        7200.0, "that an evaluation or a save may take, before the watchdog calls it stuck", least=1, most=1e9
    )
    barrier: int = setting(
        600, "that a process waits for the others before the first step and when a run goes on", least=1, cap=10**6
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A run."""

    name: str = setting("", "shown on the card", shown="recipe's file")
    seed: int = setting(0, "of everything: initial weights, order of the data, views, dropout", least=0, most=2**32 - 1)
    data: Data = setting(Data)
    views: dict[Name, View] = setting({})
    towers: dict[Name, Tower] = setting({})
    objectives: dict[str, Objective] = setting({})
    optimizer: Optimizer = setting(Optimizer)
    mesh: Mesh = setting(Mesh, open=True)
    train: Train = setting(Train)
    init_from: InitFrom = setting(InitFrom)
    evaluate: Evaluate = setting(Evaluate, open=True)
    checkpoint: Checkpoint = setting(Checkpoint, open=True)
    log: Log = setting(Log, open=True)
    limits: Limits = setting(Limits, open=True, younger=True)
