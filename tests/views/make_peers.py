"""Writes tests/views/peers.npz: what torchvision draws and makes of two pictures, for tests that run without it.

python -m venv DIR; DIR/bin/pip install torch==2.14.1 torchvision==0.29.1; DIR/bin/python tests/views/make_peers.py
"""

import pathlib

import numpy as np
import torch
import torchvision
from torchvision import transforms
from torchvision.transforms import functional as F

PEERS = pathlib.Path(__file__).parent / "peers.npz"
DRAWS = 20_000
BOX = (3, 7, 27, 40)  # top, left, height, width
FACTORS = {"brightness": 1.5, "contrast": 0.3, "saturation": 1.8, "hue": 0.2}
ORDER = ("hue", "contrast", "saturation", "brightness")


def pictures():
    """uint8 [2, 37, 52, 3] with edges and slopes, as photographs have them."""
    rng = np.random.default_rng(0)
    coarse = torch.tensor(rng.integers(0, 256, (2, 3, 10, 13))).float()
    return torch.nn.functional.interpolate(coarse, (37, 52), mode="bilinear").byte().permute(0, 2, 3, 1).numpy()


def draws():
    """Boxes in whole pixels, factors and sigmas in 256 steps of their range."""
    torch.manual_seed(0)
    picture = torch.zeros(3, 375, 500)
    box = [transforms.RandomResizedCrop.get_params(picture, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(DRAWS)]
    jitter = transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)
    widths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    factors = np.array([transforms.ColorJitter.get_params(*widths)[1:] for _ in range(DRAWS)])
    sigma = np.array([transforms.GaussianBlur.get_params(0.1, 2.0) for _ in range(DRAWS)])
    low, high = (np.array([w[k] for w in widths]) for k in (0, 1))
    return {
        "boxes": np.array(box, np.uint16),
        "factors": np.floor(256 * (factors - low) / (high - low)).astype(np.uint8),
        "sigma": np.floor(256 * (sigma - 0.1) / 1.9).astype(np.uint8),
    }


def pixels(x):
    """Outputs by name, of float tensors in 0..1; of large ones every second pixel."""
    x = torch.tensor(x).permute(0, 3, 1, 2).float() / 255.0
    kind = transforms.InterpolationMode
    made = {
        "grey": F.rgb_to_grayscale(x, 3),
        "blur": F.gaussian_blur(x, [9, 9], [1.3, 1.3]),
    }
    for name, method in (("bilinear", kind.BILINEAR), ("bicubic", kind.BICUBIC)):
        for antialias in (True, False):
            made[f"crop/{name}/{antialias}"] = F.resized_crop(x, *BOX, [16, 20], method, antialias=antialias)
        made[f"grow/{name}"] = F.resized_crop(x, *BOX, [40, 50], method, antialias=True)
        made[f"middle/{name}"] = F.center_crop(F.resize(x, [18], method, antialias=True), [16, 16])
    for name, factor in FACTORS.items():
        made[name] = getattr(F, f"adjust_{name}")(x, factor)
    chain = x
    for name in ORDER:
        chain = getattr(F, f"adjust_{name}")(chain, FACTORS[name])
    made["chain"] = chain
    made = {k: v if max(v.shape[2:]) < 30 else v[:, :, ::2, ::2] for k, v in made.items()}
    return {k: np.round(v.clamp(0, 1).permute(0, 2, 3, 1).numpy() * 65535).astype(np.uint16) for k, v in made.items()}


def main():
    """One compressed file of less than 300 KB."""
    x = pictures()
    np.savez_compressed(PEERS, pictures=x, version=torchvision.__version__, **draws(), **pixels(x))
    print(PEERS.name, PEERS.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
