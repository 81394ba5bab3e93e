"""Small synthetic pictures: smooth gradients with a disc and a little noise, each made from its own seed."""

from pathlib import Path

import numpy as np
from PIL import Image

# Width and height. The first six need a resize in most cases; the `sized` ones (multiples of 28) in none.
SHAPES = {
    "a_64x48": (64, 48),
    "b_100x60": (100, 60),
    "c_37x91": (37, 91),
    "d_28x28": (28, 28),
    "e_140x56": (140, 56),
    "f_160x130": (160, 130),
    "sized_56x56": (56, 56),
    "sized_84x56": (84, 56),
    "sized_56x112": (56, 112),
}


def gradient(width: int, height: int, seed: int, noise: int = 1) -> np.ndarray:
    """A uint8 [height, width, 3] picture: per-channel ramps and waves, one disc, noise of one level."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    channels = []
    for _ in range(3):
        a, b, c, phase = random.uniform(-1.0, 1.0, 4)
        channels.append(a * x + b * y + 0.4 * np.sin(6.0 * c * (x + y) + 3.0 * phase))
    picture = np.stack(channels, axis=-1)
    centre = random.uniform(0.2, 0.6, 2)
    disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.04
    picture[disc] += random.uniform(-1.0, 1.0, 3)
    picture = (picture - picture.min()) / (picture.max() - picture.min()) * 245.0 + 5.0
    picture += random.integers(-noise, noise + 1, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def write_shared(folder: Path) -> None:
    """Writes the pictures that all tiny checkpoints share."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, (width, height)) in enumerate(SHAPES.items()):
        Image.fromarray(gradient(width, height, seed)).save(folder / f"{name}.png", optimize=True)
