"""The numbers of every recipe that names a paper's run, written once more from the papers and the authors' codes.

docs/recipes.md says where each comes from. A default, a schedule or an encoder that moves a published run is seen here.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from hcl_jax import config as configs
from hcl_jax.core import towers
from hcl_jax.core.patterns import path_mask
from hcl_jax.core.schedules import decay_schedule, make_schedule
from hcl_jax.parallel.sharding import flat_paths
from hcl_jax.run import steps_of
from tests.config.test_load import RECIPES

IMAGENET, LAION = 1281167, 407332084
TRUNK = 23_508_032  # ResNet-50 without its last layer: kernels 23,454,912, scales and biases 53,120
COLOUR = ("color_jitter", "grey")
NOTHING, ONE_D = frozenset(), frozenset({"bias", "scale"})


class Published(NamedTuple):
    """A run.

    Attributes:
      batch, steps: rows of a batch, updates of the run.
      rates: update -> rate before multipliers.
      decay: weight decay at the first update, and where it ends.
      undecayed: last names of the parameters without decay.
      parameters: all that is trained or frozen, of the online towers.
      ops: view -> names of its operations, in order.
      strengths: "view.op.argument" -> value.
      momentum: of the target at the first and the last step.
    """

    batch: int
    steps: int
    rates: dict[int, float]
    decay: tuple[float, float]
    undecayed: frozenset[str]
    parameters: int
    ops: dict[str, tuple[str, ...]]
    strengths: dict[str, Any]
    momentum: tuple[float, float] | None = None
    records: int = IMAGENET


def cosine(peak: float, t: float, steps: float, end: float = 0.0) -> float:
    return end + (peak - end) * (1 + math.cos(math.pi * t / steps)) / 2


def head(*widths: int, norms: int = 0, more: int = 0) -> int:
    """Kernels between widths; `norms` scales and biases, and what else there is."""
    return sum(a * b for a, b in itertools.pairwise(widths)) + norms + more


RESNET_VIEW = ("random_resized_crop", *COLOUR, "blur", "flip", "normalise")
MOCO_V3_B = (*RESNET_VIEW[:-2], "solarise", "flip", "normalise")
SIMCLR_VIEW = ("random_resized_crop", "flip", *COLOUR, "clip")
DINO_VIEW = ("random_resized_crop", "flip", *COLOUR, "blur", "normalise")
BYOL_HEADS = head(2048, 4096, 256, norms=2 * 4096) + head(256, 4096, 256, norms=2 * 4096)
VIT_S = 295_296 + 384 + 12 * 1_774_464 + 768  # patches, class token, blocks, last norm
MOCO_STRENGTHS = {"a.random_resized_crop.scale": (0.2, 1.0), "a.color_jitter.brightness": 0.4, "a.blur.p": 0.5,
                  "a.color_jitter.hue": 0.1, "a.color_jitter.p": 0.8, "a.grey.p": 0.2}  # fmt: skip
ASYMMETRIC = {"a.color_jitter.saturation": 0.2, "a.color_jitter.hue": 0.1, "a.blur.p": 1.0, "b.blur.p": 0.1,
              "b.solarise.p": 0.2, "a.random_resized_crop.scale": (0.08, 1.0)}  # fmt: skip

PUBLISHED = {
    # Appendix B.1 and B.9; google-research/simclr model_util.py for the schedule.
    "simclr:imagenet": Published(
        4096, 31278, {0: 0.0, 1: 4.8 / 3127, 3127: 4.8, 31277: cosine(4.8, 28150, 28151)}, (1e-6, 1e-6), ONE_D,
        TRUNK + head(2048, 2048, 128, norms=2 * 2048 + 128), {"a": (*SIMCLR_VIEW, "blur"), "b": (*SIMCLR_VIEW, "blur")},
        {"a.random_resized_crop.scale": (0.08, 1.0), "a.color_jitter.brightness": 0.8, "a.color_jitter.hue": 0.2,
         "a.color_jitter.convention": "add", "a.blur.p": 0.5},
    ),
    "simclr:imagenet_code": Published(
        4096, 31278, {3127: 4.8, 31277: cosine(4.8, 28150, 28151)}, (1e-4, 1e-4), ONE_D,
        TRUNK + head(2048, 2048, 2048, 128, norms=4 * 2048 + 128), {"a": (*SIMCLR_VIEW, "blur")},
        {"a.color_jitter.convention": "multiply"},
    ),
    "simclr:cifar10_paper": Published(
        1024, 48828, {0: 0.0, 488: 1.0}, (1e-6, 1e-6), ONE_D,
        TRUNK - 9408 + 1728 + head(2048, 2048, 128, norms=2 * 2048 + 128), {"a": SIMCLR_VIEW},
        {"a.color_jitter.strength": 0.5}, records=50000,
    ),
    # main_moco.py: adjust_learning_rate once an epoch of 5,004 batches, here of 5,004.6.
    "moco:imagenet_v2": Published(
        256, 1000911, {0: 0.03, 5004: 0.03, 1000910: cosine(0.03, 199 * IMAGENET / 256, 1000911)}, (1e-4, 1e-4),
        NOTHING, TRUNK + head(2048, 2048, 128, more=2048 + 128), {"a": RESNET_VIEW, "b": RESNET_VIEW}, MOCO_STRENGTHS,
        (0.999, 0.999),
    ),
    "moco:imagenet_v1": Published(
        256, 1000911, {0: 0.03, 600547: 0.03, 600548: 0.003, 800729: 0.003, 800730: 3e-4}, (1e-4, 1e-4), NOTHING,
        TRUNK + head(2048, 128, more=128),
        {"a": ("random_resized_crop", "grey", "color_jitter", "flip", "normalise")},
        {"a.random_resized_crop.scale": (0.2, 1.0), "a.color_jitter.hue": 0.4, "a.color_jitter.p": 1.0}, (0.999, 0.999),
    ),
    # CONFIG.md of moco-v3: 100 epochs of ResNet-50, 300 of ViT-S.
    "moco:imagenet_v3_r50": Published(
        4096, 31278, {0: 0.0, 3127: 9.6}, (1e-6, 1e-6), ONE_D, TRUNK + BYOL_HEADS,
        {"a": RESNET_VIEW, "b": MOCO_V3_B}, {**ASYMMETRIC, "a.random_resized_crop.scale": (0.2, 1.0)}, (0.99, 1.0),
    ),
    "moco:imagenet_v3_vit": Published(
        4096, 93835, {0: 0.0, 12511: 2.4e-3}, (0.1, 0.1), NOTHING,
        VIT_S + head(384, 4096, 4096, 256, norms=4 * 4096) + head(256, 4096, 256, norms=2 * 4096),
        {"a": RESNET_VIEW, "b": MOCO_V3_B}, ASYMMETRIC, (0.99, 1.0),
    ),
    # byol/configs/byol.py and utils/augmentations.py.
    "byol:imagenet": Published(
        4096, 312784, {0: 0.0, 3127: 3.2}, (1.5e-6, 1.5e-6), ONE_D, TRUNK + BYOL_HEADS,
        {"a": ("random_resized_crop", "flip", *COLOUR, "blur", "normalise"),
         "b": ("random_resized_crop", "flip", *COLOUR, "blur", "solarise", "normalise")}, ASYMMETRIC, (0.996, 1.0),
    ),
    "simsiam:imagenet": Published(
        256, 500455, {0: 0.05, 5004: 0.05, 500454: cosine(0.05, 99 * IMAGENET / 256, 500455)}, (1e-4, 1e-4), NOTHING,
        TRUNK + head(2048, 2048, 2048, 2048, norms=4 * 2048) + head(2048, 512, 2048, norms=2 * 512, more=2048),
        {"a": RESNET_VIEW}, MOCO_STRENGTHS,
    ),
    # scripts/swav_800ep_pretrain.sh and swav_200ep_bs256_pretrain.sh.
    "swav:imagenet": Published(
        4096, 250227, {0: 0.3, 3126: 4.8, 3127: 4.8, 250226: cosine(4.8, 247099, 247100, 0.0048)}, (1e-6, 1e-6),
        NOTHING, TRUNK + head(2048, 2048, 128, norms=2 * 2048, more=128) + 128 * 3000,
        {"a": DINO_VIEW, "small6": DINO_VIEW},
        {"a.random_resized_crop.scale": (0.14, 1.0), "small6.random_resized_crop.scale": (0.05, 0.14),
         "small6.random_resized_crop.size": 96, "a.color_jitter.brightness": 0.8, "a.color_jitter.hue": 0.2},
    ),
    "swav:imagenet_256": Published(
        256, 1000911, {0: 0.6, 1000910: cosine(0.6, 1000910, 1000911, 0.0006)}, (1e-6, 1e-6), NOTHING,
        TRUNK + head(2048, 2048, 128, norms=2 * 2048, more=128) + 128 * 3000, {}, {},
    ),
    # The README's command for ViT-S/16, 300 epochs, norm_last_layer false.
    "dino:imagenet": Published(
        1024, 375341, {0: 0.0, 12510: 2e-3, 12511: 2e-3, 375340: cosine(2e-3, 362829, 362830, 1e-6)}, (0.04, 0.4),
        ONE_D, VIT_S + 197 * 384 + head(384, 2048, 2048, 256, more=2 * 2048 + 256) + 256 * 65536 + 65536,
        {"a": DINO_VIEW, "b": (*DINO_VIEW[:-1], "solarise", "normalise"), "small8": DINO_VIEW},
        {**ASYMMETRIC, "a.random_resized_crop.scale": (0.4, 1.0), "small8.random_resized_crop.scale": (0.05, 0.4),
         "small8.blur.p": 0.5}, (0.996, 1.0),
    ),
    # open_clip's laion400m_e32 and the paper's table 19.
    "clip:vit_b": Published(
        32768, 397785, {0: 5e-4 / 2000, 1999: 5e-4, 397784: cosine(5e-4, 395784, 395785)}, (0.2, 0.2),
        frozenset({"bias", "scale", "cls"}), 151_277_313, {"image": ("random_resized_crop", "normalise")},
        {"image.random_resized_crop.scale": (0.9, 1.0)}, records=LAION,
    ),
    # big_vision's SigLIP at the size of google/siglip-base-patch16-224.
    "clip:siglip_b": Published(
        32768, 274658, {0: 0.0, 8239: 1e-3, 274657: cosine(1e-3, 266418, 266419)}, (0.1, 0.1),
        frozenset({"bias", "scale", "embedding", "probe", "position"}), 203_155_970, {"image": ("resize", "normalise")},
        {"image.resize.antialias": False}, records=LAION,
    ),
}  # fmt: skip


def completed(recipe: str) -> Any:
    return configs.complete(configs.load(recipe))


def check_parameters(recipe: str, params: Any) -> None:
    """Of a built run (tests/plan/test_lowering.py): the number of parameters, and which have no decay."""
    run = PUBLISHED[recipe]
    assert sum(x.size for x in jax.tree.leaves(params)) == run.parameters
    decays = flat_paths(path_mask(tuple(completed(recipe).optimizer.exclude))(params))
    none = {name.rpartition("/")[2] for name, yes in decays.items() if not yes and not name.startswith("objectives")}
    assert none == run.undecayed


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_schedules_and_views_are_the_published_ones(recipe):
    """What is read from the config alone."""
    c, run = completed(recipe), PUBLISHED[recipe]
    batch = c.data.batch_size
    assert batch == run.batch
    assert steps_of(c.train.steps, c.train.epochs, run.records, batch) == run.steps
    rate = make_schedule(c.optimizer, steps=run.steps, batch_size=batch, steps_per_epoch=run.records / batch)
    with jax.enable_x64(True):
        for update, value in run.rates.items():
            assert float(rate(update)) == pytest.approx(value, rel=1e-6, abs=1e-12), update
        decay = decay_schedule(c.optimizer, steps=run.steps)
        ends = [float(decay(t)) for t in (0, run.steps)] if callable(decay) else [float(decay)] * 2
    assert ends == pytest.approx(run.decay)
    for view, names in run.ops.items():
        assert tuple(op["op"] for op in c.views[view]["ops"]) == names, view
    for where, value in run.strengths.items():
        view, op, argument = where.split(".")
        assert next(o for o in c.views[view]["ops"] if o["op"] == op)[argument] == value, where
    if run.momentum:
        target = next(t["target"] for t in c.towers.values() if t["target"])
        ends = [float(towers.target_momentum(target, np.int32(t), run.steps)) for t in (0, run.steps)]
        assert ends == pytest.approx(run.momentum, abs=1e-6)


def test_every_imagenet_recipe_is_here():
    named = {r for r in RECIPES if r.endswith("_paper") or "imagenet" in r or r in ("clip:vit_b", "clip:siglip_b")}
    assert named <= set(PUBLISHED)
