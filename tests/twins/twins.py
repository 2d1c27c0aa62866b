"""The twins by name: the function that says each run in a recipe's words, and what its line in docs/twins.md says."""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from tests.twins import alone, encoders, multi_crop, pairs, siamese, two_towers
from tests.twins.harness import Alone, Run, Twin

DATA = pathlib.Path(os.environ.get("TWINS", pathlib.Path(__file__).parent / "data"))


class Entry(NamedTuple):
    """How a twin is said.

    Attributes:
      say: Twin -> Run, or Alone where only the loss is ours.
      words: the recipe that it starts from, and what is said otherwise.
      slip: what in the authors' code is not as they write, or differs from what a reader expects.
      within: the largest difference that is allowed.
    """

    say: Callable[[Twin], Run | Alone]
    words: str
    slip: str = ""
    within: float = 1e-9


TWINS = {
    "barlow_twins": Entry(
        siamese.barlow_twins,
        "`barlow_twins`, LARS with the rate outside, a rule for biases and norms, `end_share`",
        "two rates; the cosine ends at a thousandth of the peak",
    ),
    "byol": Entry(
        siamese.byol_deepmind,
        "`byol`, LARS with the rate outside",
        "the target starts from weights of its own; behind the warm-up the rate is in float32",
        1e-7,
    ),
    "dcl": Entry(pairs.dcl, "`debiased`, Adam with the decay in the gradient"),
    "dino": Entry(
        multi_crop.dino,
        "`dino`, clip by parameter, `weight_decay_end`, `freeze_steps`, a closed warm-up",
        "each parameter is clipped by itself; teacher temperature and warm-up reach their ends one step early",
    ),
    "grace": Entry(encoders.grace, "`grace`"),
    "hcl": Entry(pairs.hcl, "`hard_negative`, Adam with the decay in the gradient"),
    "moco_v2": Entry(siamese.moco_v2, "`moco`, SGD, the rate by epoch"),
    "moco_v3_resnet": Entry(
        siamese.moco_v3_resnet,
        "`moco`, its `method_v3`, LARS with the rate outside",
        "the momentum of a step moves the target before its keys are made",
    ),
    "open_clip": Entry(two_towers.open_clip, "`clip`, AdamW, a warm-up ahead"),
    "open_clip_2_ranks": Entry(two_towers.open_clip_2_ranks, "the same, on two devices"),
    "open_clip_coca": Entry(
        two_towers.open_clip_coca, "`clip` and 2 `cross_entropy` of captions, whose head is a user's own"
    ),
    "open_clip_siglip": Entry(two_towers.open_clip_siglip, "`clip` with `siglip`"),
    "open_clip_towers": Entry(
        two_towers.open_clip_towers,
        "`clip`, its `vit` with `pre_norm` and `class_position`, epsilon 1e-5",
        "the decay spares what has one axis: not the positions, the tokens' table and the projections",
    ),
    "open_clip_2_ranks_no_gradient": Entry(
        two_towers.open_clip_2_ranks_no_gradient,
        "the same, twice the epsilon",
        "with its default flags the towers get 1 / ranks of the batch's gradient, and the scale the whole",
        1e-7,
    ),
    "supcon": Entry(
        pairs.supcon,
        "`sup_con`, SGD, the rate by the epoch's end",
        "epochs are counted from 1, and the cosine begins under the warm-up",
    ),
    "simsiam": Entry(siamese.simsiam_facebook, "`simsiam`, SGD, the rate by epoch"),
    "swav": Entry(
        multi_crop.swav,
        "`swav`, LARC, `freeze_steps`, a closed warm-up, `end_rate`",
        "the warm-up reaches its peak one step early; LARC for biases and norms too",
    ),
    "ts_tcc_contextual": Entry(
        pairs.ts_tcc_contextual, "`nt_xent`, Adam with the decay in the gradient", "float32", 1e-5
    ),
    "w_mse": Entry(pairs.w_mse, "`w_mse`, Adam with the decay in the gradient", "nothing is added to the covariance"),
    "big_vision_siglip": Entry(
        two_towers.big_vision_siglip,
        "`clip` with `siglip`, a learned bias, `optimizer.clip`",
        "the decay is not multiplied by the rate: `weight_decay` is wd / lr here; its schedule is in float32",
        1e-7,
    ),
    "cmc_memory_moco": Entry(
        two_towers.cmc_memory_moco, "two towers, one frozen by `optimizer.rules`; `info_nce` with its queue"
    ),
    "decoupled": Entry(
        pairs.decoupled, "`decoupled`, weight 2", "adds both directions, each a mean: twice the mean over all rows"
    ),
    "dino_vit": Entry(
        encoders.dino_vit,
        "`vit` with `class_position` and `mean_squared_error`, large pictures",
        "the class token has a row of the position table, a second parameter with the same gradient",
    ),
    "dinov2_centering": Entry(
        alone.dinov2_centering, "`dino` and `mean_ema` alone: the class token's loss and centre, not iBOT's"
    ),
    "dpo": Entry(alone.preferences, "`dpo` alone, on the official logits: RMSprop is not here"),
    "genview_simsiam": Entry(
        siamese.genview_simsiam,
        "`simsiam`, rows weighted by a label made with `quality_weights`",
        "its loss takes the weight under the name of a mask",
    ),
    "graphcl": Entry(
        encoders.graphcl,
        "`graphcl`",
        "one direction, and the positive not in the denominator; the paper has NT-Xent",
    ),
    "ipo": Entry(
        alone.preferences, "`ipo` alone, on the official logits", "log-probabilities are summed, TRL averages them"
    ),
    "nmtune": Entry(
        encoders.nmtune,
        "`nmtune:code`, its covariance for 16 rows",
        "both views go through the net together and are equal; AdamW decays biases, norms and the scale too",
    ),
    "simclr": Entry(
        siamese.simclr_google,
        '`simclr` with three layers, LARS, `convention="sum_of_halves"`',
        "twice the loss of the paper; masks of -1e9; float32, of which 20 steps at this rate make 1e-4",
        1e-4,
    ),
    "simcse": Entry(encoders.simcse, "`info_nce` on a user's own encoder"),
    "spectral": Entry(pairs.spectral, "`spectral`, SGD"),
    "stablerep": Entry(
        pairs.stablerep,
        "`sup_con`, AdamW without `exclude`",
        "the label mask is kept from the first batch while the batch size stays; 1/3 is rounded to float32",
        1e-6,
    ),
    "trl_dpo": Entry(alone.trl_dpo, "`dpo` alone, value and gradient of the kind sigmoid; 13 other kinds are not here"),
    "ts2vec": Entry(
        encoders.ts2vec,
        "`ts2vec` without dropout",
        "a step where one channel is missing is dropped as a whole; float32",
        1e-5,
    ),
}

# Files of the same collection that no recipe can say yet.
ABSENT = {
    "cmc_softmax": "a memory of every example, and negatives drawn from it",
    "i_jepa": "I-JEPA: a predictor of hidden patches, its masks",
    "joao_distribution": "JOAO's projected step of the distribution; `joao` ascends a softmax in each step",
    "lejepa_sigreg": "LeJEPA's statistic of slices",
    "mae": "a masked autoencoder: its decoder and masks",
    "mmcr": "MMCR: nuclear norms",
    "msn": "MSN",
    "tf_c_poly": "TF-C's poly-1 term",
    "trl_kto": "KTO",
    "ts_tcc": "TS-TCC's temporal contrast; its contextual part is NT-Xent",
}


def opened(name: str, folder: pathlib.Path = DATA) -> Twin:
    """The file of a twin."""
    return Twin(folder / f"{name}.npz")
