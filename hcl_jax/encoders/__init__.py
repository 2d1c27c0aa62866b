"""Encoders and heads: the only place that imports flax. Two literal dicts map a config's names to them."""

from functools import partial

from hcl_jax.encoders.convnet import ConvNet
from hcl_jax.encoders.graph import GCN, GIN
from hcl_jax.encoders.heads import Identity, Linear, Projector, Prototypes, Residual
from hcl_jax.encoders.inputs import Rows
from hcl_jax.encoders.mlp import MLP
from hcl_jax.encoders.passthrough import Passthrough
from hcl_jax.encoders.resnet import ResNet
from hcl_jax.encoders.series import TCN, SeriesTransformer
from hcl_jax.encoders.text import TextTransformer
from hcl_jax.encoders.vit import ViT

ENCODERS = {
    "resnet18": partial(ResNet, depth=18),
    "resnet34": partial(ResNet, depth=34),
    "resnet50": partial(ResNet, depth=50),
    "resnet101": partial(ResNet, depth=101),
    "resnet152": partial(ResNet, depth=152),
    "convnet": ConvNet,
    "vit": ViT,
    "text_transformer": TextTransformer,
    "tcn": TCN,
    "series_transformer": SeriesTransformer,
    "mlp": MLP,
    "gcn": GCN,
    "gin": GIN,
    "identity": Passthrough,
}

# BYOL's and SimSiam's predictor: a norm inside, a plain dense layer with a bias last, as wide as its input.
HEADS = {
    "projector": Projector,
    "predictor": partial(Projector, features=0, hidden=512, last_batch_norm=False, last_bias=True),
    "linear": Linear,
    "residual": Residual,
    "prototypes": Prototypes,
    "identity": Identity,
}

__all__ = ["ENCODERS", "HEADS", "Rows"]
