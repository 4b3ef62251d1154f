"""The embedded data set: 12,000 images of Fashion-MNIST in one lossless PNG file. See README.md and LICENSE.

The PNG is grey and 28 pixels wide. It has all images below one another, 10,000 training and then 2,000 test images, each
transposed (which makes the file 3% smaller). Below them are the 12,000 labels as pixels; zeros fill the last row.
"""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

FILE = Path(__file__).with_name("fashion-mnist-12k.png")
SIDE = 28
COUNTS = {"train": 10_000, "test": 2_000}
SHA256 = {
    "train": "73194a0c06a93deab58b95e00e618cc5c80fb5c9a84df26bbc429eeb3507846a",
    "test": "8e8b02fc2db0ff9ed2d481ff30f8bd7cc5c88205cb131d7f4a0c19448f6957c9",
}

Arrays = tuple[UInt8[np.ndarray, "n 28 28"], UInt8[np.ndarray, " n"]]


def read_split(split: str) -> Arrays:
    """Read uint8 images (n, 28, 28) and labels (n,) of "train" or "test", in the order of the full set's files.

    Raises ValueError for another split, and if the contents do not have the expected sha256.
    """
    if split not in COUNTS:
        raise ValueError(f"split={split!r}: the embedded data set has 'train' and 'test'")
    images, labels = unpack()[split]
    if sha256(images, labels) != SHA256[split]:
        raise ValueError(
            f"{FILE} is not the data set of this version of labcore (its {split} arrays have another sha256). Install labcore "
            "again, or rebuild the file with `python -m labcore.data.embedded.make`"
        )
    return images, labels


def unpack() -> dict[str, Arrays]:
    """Read images and labels of both splits from the file, without comparing hashes."""
    from PIL import Image

    with Image.open(FILE) as sheet:
        values = np.asarray(sheet).reshape(-1)
    total = sum(COUNTS.values())
    images = values[: total * SIDE * SIDE].reshape(total, SIDE, SIDE).swapaxes(1, 2)
    labels = values[total * SIDE * SIDE :][:total]
    cut = COUNTS["train"]
    return {
        "train": (images[:cut].copy(order="C"), labels[:cut].copy()),
        "test": (images[cut:].copy(order="C"), labels[cut:].copy()),
    }


def sha256(images: UInt8[np.ndarray, "n 28 28"], labels: UInt8[np.ndarray, " n"]) -> str:
    """Return the hex sha256 over the images' bytes in C order, followed by the labels' bytes."""
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
