"""Row 29: JPEGs read and decoded by worker processes, as training reads them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.measure import Measured
from benchmarks.gpu.setting import Setting, at_least, entry
from labcore.data.folder import ImageFolderData
from labcore.data.throughput import images_per_second

PIXELS, DIFFERENT = 256, 50
"""Side of the pictures, and how many of them are not copies; our choice."""
WANTED = 1500


def reading(s: Setting) -> list[dict[str, Any]]:
    """Images/s of a folder of pictures of 256 pixels, brought to the flow's size, in batches of a training step."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), s.sizes.pictures)
        dataset = ImageFolderData(folder, "train", s.flow.config.image_size, 3)
        seconds = min(max(s.budget / 2, 0.01), 5.0)
        rate = images_per_second(dataset, s.sizes.batch, s.sizes.workers, seconds)
    ours = Measured(s.sizes.batch / rate, 0.0, 1)
    checks = (at_least("images/s", rate, WANTED),)
    return [entry("JPEG", ours, checks=checks, images_per_s=rate, workers=s.sizes.workers)]


def write_pictures(folder: Path, count: int) -> None:
    """So many JPEGs of smooth noise in train/class/ and one in test/class/."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        (folder / split / "class").mkdir(parents=True)
    files = []
    for number in range(min(count, DIFFERENT)):
        small = torch.randint(256, (16, 16, 3), dtype=torch.uint8, generator=generator).numpy()
        file = folder / "train" / "class" / f"{number:05d}.jpg"
        Image.fromarray(small).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(file, quality=90)
        files.append(file.read_bytes())
    for number in range(len(files), count):
        (folder / "train" / "class" / f"{number:05d}.jpg").write_bytes(files[number % len(files)])
    (folder / "test" / "class" / "0.jpg").write_bytes(files[0])
