"""Features of a model from elsewhere, for second stages: scikit-learn's MLP, trained with wrong labels on digits.

python benchmarks/foreign_features.py --output=runs/foreign [--noise=0.2] [--seed=0]

DIR/train.npz and DIR/test.npz hold features float32 [N, 128] (its hidden layer), label and domain: 0 for test images as
they are, 1 to 4 rotated, inverted, noisy and faint. The claim nmtune-foreign reads them with --dir npz=DIR.
"""

import argparse
import pathlib

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def shifted(images: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """[N, 8, 8] in 0..1 -> the domains."""
    turned = [ndimage.rotate(x, rng.uniform(-60, 60), reshape=False, order=1) for x in images]
    noisy = np.clip(images + 0.3 * rng.standard_normal(images.shape), 0, 1)
    return [images, np.stack(turned), 1 - images, noisy, images**3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--noise", type=float, default=0.2, help="share of training labels that are wrong")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    rng = np.random.default_rng(flags.seed)
    digits = load_digits()
    x, z, y, t = train_test_split(
        digits.images / 16, digits.target, test_size=360, stratify=digits.target, random_state=0
    )
    wrong = rng.permutation(len(y))[: round(flags.noise * len(y))]
    noisy = y.copy()
    noisy[wrong] = (y[wrong] + rng.integers(1, 10, len(wrong))) % 10
    model = MLPClassifier((128,), max_iter=1000, random_state=flags.seed).fit(x.reshape(len(x), -1), noisy)

    def hidden(images: np.ndarray) -> np.ndarray:
        return np.maximum(images.reshape(len(images), -1) @ model.coefs_[0] + model.intercepts_[0], 0).astype(
            np.float32
        )

    domains = shifted(z, rng)
    sets = {
        "train": (hidden(x), y, np.zeros(len(y), int)),
        "test": (
            np.concatenate([hidden(d) for d in domains]),
            np.tile(t, len(domains)),
            np.repeat(np.arange(len(domains)), len(t)),
        ),
    }
    flags.output.mkdir(parents=True, exist_ok=True)
    for split, (features, label, domain) in sets.items():
        np.savez(flags.output / f"{split}.npz", features=features, label=label, domain=domain)
        print(f"{flags.output / split}.npz: features {features.shape}, {domain.max() + 1} domains")


if __name__ == "__main__":
    main()
