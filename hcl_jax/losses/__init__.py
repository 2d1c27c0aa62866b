"""Losses: pure functions of global arrays, one idea a file.

Every entry is called as `loss(*inputs, ids=, row_weights=, **parameters)`; those that compare rows with rows also take
`engine=`. All reduce to a scalar in float32 or wider, are the same number on any mesh, and give a finite value and
gradient for zero vectors, ignored rows, rows without positives and batches of one.
"""

from hcl_jax.losses.align_uniform import align_uniform
from hcl_jax.losses.barlow_twins import barlow_twins
from hcl_jax.losses.bpr import bpr, bpr_accuracy
from hcl_jax.losses.clip import clip, clip_top1
from hcl_jax.losses.consistency import consistency
from hcl_jax.losses.cosine import byol, negative_cosine
from hcl_jax.losses.covariance import covariance
from hcl_jax.losses.debiased import debiased, hard_negative
from hcl_jax.losses.decoupled import decoupled, decoupled_weighted
from hcl_jax.losses.dino import dino
from hcl_jax.losses.dominant_singular_value import dominant_singular_value
from hcl_jax.losses.info_nce import info_nce, info_nce_top1
from hcl_jax.losses.instance_graph import instance_graph
from hcl_jax.losses.koleo import koleo
from hcl_jax.losses.min_max import min_max
from hcl_jax.losses.moco_v3 import moco_v3, moco_v3_top1
from hcl_jax.losses.multi_positive import multi_positive
from hcl_jax.losses.multi_view import multi_view, multi_view_top1
from hcl_jax.losses.nnclr import nnclr
from hcl_jax.losses.nt_xent import nt_xent, nt_xent_top1
from hcl_jax.losses.preference import dpo, dpo_accuracy, dpo_count, dpo_margin, ipo, next_token, next_token_count
from hcl_jax.losses.quality_weights import pair_weights, quality_weights
from hcl_jax.losses.siglip import siglip
from hcl_jax.losses.sinkhorn import sinkhorn
from hcl_jax.losses.spectral import spectral
from hcl_jax.losses.sup_con import sup_con
from hcl_jax.losses.supervised import (
    cross_entropy,
    cross_entropy_count,
    cross_entropy_top1,
    mean_squared_error,
    mean_squared_error_count,
)
from hcl_jax.losses.swav import swav, swav_queue
from hcl_jax.losses.triplet import triplet, triplet_top1
from hcl_jax.losses.ts2vec import ts2vec
from hcl_jax.losses.vicreg import vicreg
from hcl_jax.losses.w_mse import w_mse

LOSSES = {
    "nt_xent": nt_xent,
    "info_nce": info_nce,
    "moco_v3": moco_v3,
    "nnclr": nnclr,
    "multi_positive": multi_positive,
    "decoupled": decoupled,
    "decoupled_weighted": decoupled_weighted,
    "debiased": debiased,
    "hard_negative": hard_negative,
    "triplet": triplet,
    "clip": clip,
    "siglip": siglip,
    "sup_con": sup_con,
    "multi_view": multi_view,
    "negative_cosine": negative_cosine,
    "byol": byol,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
    "w_mse": w_mse,
    "spectral": spectral,
    "align_uniform": align_uniform,
    "koleo": koleo,
    "consistency": consistency,
    "covariance": covariance,
    "dominant_singular_value": dominant_singular_value,
    "ts2vec": ts2vec,
    "cross_entropy": cross_entropy,
    "mean_squared_error": mean_squared_error,
    "swav": swav,
    "swav_queue": swav_queue,
    "dino": dino,
    "min_max": min_max,
    "dpo": dpo,
    "ipo": ipo,
    "bpr": bpr,
    "next_token": next_token,
}

# What makes an objective's row_weights in a step: called as `weights(*inputs, ids=, **parameters)`.
WEIGHTS = {"pair_quality": pair_weights}

# What is logged beside a loss: loss -> metric -> function of the same inputs, and of those keywords that it has.
MEASURES = {
    "nt_xent": {"contrastive_top1": nt_xent_top1},
    "info_nce": {"contrastive_top1": info_nce_top1},
    "moco_v3": {"contrastive_top1": moco_v3_top1},
    "decoupled": {"contrastive_top1": nt_xent_top1},
    "decoupled_weighted": {"contrastive_top1": nt_xent_top1},
    "debiased": {"contrastive_top1": nt_xent_top1},
    "hard_negative": {"contrastive_top1": nt_xent_top1},
    "triplet": {"contrastive_top1": triplet_top1},
    "clip": {"contrastive_top1": clip_top1},
    "siglip": {"contrastive_top1": clip_top1},
    "multi_view": {"contrastive_top1": multi_view_top1},
    "cross_entropy": {"top1": cross_entropy_top1},
    "bpr": {"accuracy": bpr_accuracy},
    "dpo": {"accuracy": dpo_accuracy, "margin": dpo_margin},
}

# What a loss and its measures are means over, where that is not the present rows: tokens, pixels, fewer rows. An
# evaluation weighs its batches by it. Called as a measure is.
COUNTS = {
    "cross_entropy": cross_entropy_count,
    "mean_squared_error": mean_squared_error_count,
    "next_token": next_token_count,
    "dpo": dpo_count,
    "ipo": dpo_count,
}

# Beside the losses: what makes targets or weights for one.
__all__ = [
    *LOSSES,
    "COUNTS",
    "LOSSES",
    "MEASURES",
    "WEIGHTS",
    "instance_graph",
    "pair_weights",
    "quality_weights",
    "sinkhorn",
]
