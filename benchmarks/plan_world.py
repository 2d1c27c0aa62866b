"""What was published of runs on TPUs beside what plan estimates: step times with their ratio, and what fits.

python benchmarks/plan_world.py [NAME ...]       a line each; compiles are kept in runs/plan, so that it goes on
Needs pip install -e '.[tpu]' and no TPU. An hour of compiles on 2 cores.

A published step time is hours x 3600 / steps, and holds all that a run does: input, logging, evaluation. In how far a
setting is that of the publication stands in docs/plan.md.
"""

import argparse
import contextlib
import io
import json
import pathlib
import sys
from typing import NamedTuple

from hcl_jax.plan import __main__ as plan


class Published(NamedTuple):
    """One published run: our flags, the topology in chips, the batch, and its seconds a step or whether it fits."""

    flags: tuple[str, ...]
    topology: str
    batch: int
    said: float | bool
    source: str


FLOAT32 = "--config.train.compute_dtype=float32"
CROP = "{'op': 'random_resized_crop', 'size': 224, 'scale': (0.08, 1.0)}, {'op': 'flip'}"
PROJECTOR = "'name': 'projector', 'hidden': 4096, 'features': 256, 'last_affine': False"
MOCO_V3 = (
    "--config=byol:imagenet",
    "--config.towers.image={'views': ('a', 'b'), 'batching': 'per_view', 'encoder': {'name': 'vit', 'variant': 'b/16', "
    "'position': 'sincos2d', 'freeze_patch': True}, 'heads': {'z': {" + PROJECTOR + ", 'layers': 3}, "
    "'p': {" + PROJECTOR + ", 'reads': 'z', 'layers': 2}}, "
    "'target': {'momentum': 0.99, 'schedule': 'cosine', 'heads': ('z',)}}",
    "--config.objectives={'contrast': {'loss': 'moco_v3', 'inputs': ('a.p', 'b.target.z', 'b.p', 'a.target.z'), "
    "'temperature': 0.2}}",
    *("--config.optimizer.name=adamw", "--config.optimizer.learning_rate=1.5e-4"),
    *("--config.optimizer.weight_decay=0.1", "--config.optimizer.warmup_epochs=40.0", "--config.train.epochs=300.0"),
    FLOAT32,
)  # fmt: skip
VIT_S = (
    *("--config=supervised:digits", "--config.data.name=imagenet2012", "--config.data.in_memory=False"),
    *("--config.data.shape=(224, 224, 3)", "--config.data.num_classes=1000", "--config.data.test_split=validation"),
    "--config.views={'a': {'kind': 'image', 'field': 'image', 'ops': (" + CROP + ",)}}",
    "--config.towers={'image': {'views': ('a',), 'encoder': {'name': 'vit', 'variant': 's/16', 'pool': 'gap', "
    "'position': 'sincos2d'}, 'heads': {'y': {'name': 'linear', 'features': 1000}}}}",
    *("--config.optimizer.clip=1.0", "--config.optimizer.learning_rate=1e-3", "--config.optimizer.warmup_epochs=0.0"),
    *("--config.optimizer.warmup_steps=10000", "--config.train.epochs=90.0", "--config.evaluate.views={}", FLOAT32),
)
PAIRS = (
    *("--config=clip:vit_b", "--config.views.image.ops=({'op': 'resize', 'size': 224},)"),
    "--config.views.text.ops=({'op': 'tokens', 'tokenizer': 'bytes', 'length': 16},)",
    "--config.towers.image.encoder={'name': 'vit', 'variant': 'b/16', 'pool': 'map'}",
    "--config.towers.text.encoder={'name': 'text_transformer', 'vocab_size': 32000, 'width': 768, 'depth': 12, "
    "'heads': 12, 'pool': 'last'}",
    "--config.towers.image.heads={'z': {'name': 'identity'}}",
    *("--config.towers.text.heads={'z': {'name': 'linear', 'features': 768}}", "--config.optimizer.b2=0.95"),
)
SCALE = "'inputs': ('image.z', 'text.z'), 'scale': {'learn': 'exp', 'init': 10.0, 'max': 100.0}"
SIGMOID = (
    "--config.objectives={'contrast': {'loss': 'siglip', " + SCALE + ", 'bias': {'learn': 'linear', 'init': -10.0}}}"
)
SOFTMAX = "--config.objectives={'contrast': {'loss': 'clip', " + SCALE + "}}"
REMAT = "--config.train.remat=True"
SIGLIP = "arXiv 2303.15343, section 4.2"
PUBLISHED = {
    "simclr_128": Published(("--config=simclr:imagenet", FLOAT32), "v3:8x8", 4096, 0.173,
                            "arXiv 2002.05709, footnote 2: 100 epochs in about 1.5 h on 128 cores"),
    "simclr_128_bf16": Published(("--config=simclr:imagenet",), "v3:8x8", 4096, 0.173, "the same, in bfloat16"),
    "simclr_32": Published(("--config=simclr:imagenet", FLOAT32), "v3:4x4", 4096, 0.691,
                           "README of google-research/simclr: around 6 h on 32 cores"),
    "byol_512": Published(("--config=byol:imagenet", FLOAT32), "v3:16x16", 4096, 0.0921,
                          "arXiv 2006.07733, section 3.3: 1,000 epochs in about 8 h on 512 cores"),
    "moco_v3_256": Published(MOCO_V3, "v3:8x16", 4096, 0.242,
                             "arXiv 2104.02057, table 3: 100 epochs in 2.1 h on 256 TPUs"),
    "vit_s_8": Published(VIT_S, "v3:2x2", 1024, 0.210, "arXiv 2205.01580: 90 epochs in 6 to 7 h on 8 cores"),
    "siglip_4096": Published((*PAIRS, SIGMOID, REMAT), "v4:2x2x1", 4096, True, SIGLIP),
    "softmax_2048": Published((*PAIRS, SOFTMAX, REMAT), "v4:2x2x1", 2048, True, SIGLIP),
    "softmax_4096": Published((*PAIRS, SOFTMAX, REMAT), "v4:2x2x1", 4096, False, SIGLIP),
    "siglip_4096_kept": Published((*PAIRS, SIGMOID), "v4:2x2x1", 4096, True, SIGLIP + "; nothing recomputed"),
    "softmax_2048_kept": Published((*PAIRS, SOFTMAX), "v4:2x2x1", 2048, True, SIGLIP + "; nothing recomputed"),
    "softmax_4096_kept": Published((*PAIRS, SOFTMAX), "v4:2x2x1", 4096, False, SIGLIP + "; nothing recomputed"),
}  # fmt: skip


def main() -> int:
    """Plans the named settings, prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PUBLISHED)}; all when left out")
    parser.add_argument("--cache", type=pathlib.Path, default=plan.CACHE, metavar="DIR")
    known = parser.parse_args()
    if unknown := [name for name in known.names if name not in PUBLISHED]:
        parser.error(f"unknown {', '.join(unknown)}; known are {', '.join(PUBLISHED)}")
    for name in known.names or PUBLISHED:
        each = PUBLISHED[name]
        flags = [*each.flags, f"--topology={each.topology}", f"--batch-size={each.batch}", "--no-advice", "--json"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            status = plan.main([*flags, f"--cache={known.cache}"])
        if status:
            return status
        (row,) = json.loads(printed.getvalue())
        print(f"{name}: {each.topology}, batch {each.batch}: {compared(row, each.said)} ({each.source})", flush=True)
    return 0


def compared(row: dict, said: float | bool) -> str:
    """The estimate, what was published, and their ratio."""
    gib = (sum(row["memory"].values()) if row["fits"] else row["needs"]["used"]) / 2**30
    fits = f"{'fits' if row['fits'] else 'does not fit'}, {gib:.2f} GiB"
    if isinstance(said, bool):
        return f"{fits}; published: {'fits' if said else 'does not fit'}"
    if not row["fits"]:
        return fits
    e = row["estimate"]
    share = f"{e['limits']['products'] / e['step']:.0%} of the products' peak"
    return f"{e['step'] * 1e3:.1f} ms, published {said * 1e3:.1f}, {said / e['step']:.2f} times that; {share}; {fits}"


if __name__ == "__main__":
    sys.exit(main())
