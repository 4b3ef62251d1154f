"""A run's configuration from what a user types: a preset or a file, data, and single settings."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from labcore.config import DataConfig, RunConfig, TarFlowConfig
from labcore.data import load
from labcore.data.datasets import NAMES
from labcore.types import Site

SECTIONS = ("model", "data", "train", "align")

PRESETS: dict[str, dict[str, Any]] = {
    # our choice: the smallest flow whose samples look like garments after minutes on two CPU cores
    "fashion-small": {
        "model": dict(
            image_size=28,
            channels=1,
            patch_size=4,
            width=64,
            num_blocks=8,
            layers_per_block=2,
            head_dim=32,
            num_classes=10,
        ),
        "data": dict(name="fashion-mnist-12k"),
        "train": dict(
            steps=2000,
            batch_size=128,
            lr=2e-3,
            warmup_steps=100,
            weight_decay=1e-2,
            ema_decay=0.999,
            eval_every=500,
            save_every=500,
        ),
    },
    # our choice: FlowBack's 8 blocks, so that its positions mean something, in the size of minutes: 16 tokens
    "fashion-16": {
        "model": dict(
            image_size=16,
            channels=1,
            patch_size=4,
            width=64,
            num_blocks=8,
            layers_per_block=2,
            head_dim=32,
            num_classes=10,
        ),
        "data": dict(name="fashion-mnist-12k", image_size=16),
        "train": dict(
            steps=600,
            batch_size=128,
            lr=2e-3,
            warmup_steps=30,
            weight_decay=1e-2,
            ema_decay=0.99,
            eval_every=600,
            save_every=120,
            keep=20,
        ),
    },
    # the settings of ml-tarflow's MNIST notebook: 100 epochs of 60,000 images, one epoch of warm-up, no label dropout
    "ml-tarflow-28": {
        "model": dict(
            image_size=28, channels=1, patch_size=4, width=128, num_blocks=4, layers_per_block=4, num_classes=10
        ),
        "data": dict(name="fashion-mnist"),
        "train": dict(
            steps=23400,
            batch_size=256,
            lr=2e-3,
            warmup_steps=234,
            label_dropout=0.0,
            clip_norm=None,
            precision="fp32",
            seed=100,
        ),
    },
}


def configure(
    preset: str = "fashion-small",
    file: Path | None = None,
    data: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    settings: Sequence[str] = (),
    align: str | None = None,
) -> RunConfig:
    """A validated RunConfig.

    file: a YAML file with the keys model, data, train and align, instead of a preset. data: a data set's name, or a folder
    of class folders. align: a direction of alignment, or "off"; sites that nothing names are `default_sites`. settings:
    "train.steps=100" and the like, the last word. A model's image size, channels and classes
    follow the data where they are not set. Raises ValueError or FileNotFoundError for what does not exist or fit.
    """
    values = _read(file) if file else _preset(preset)
    for name, section in values.items():
        if section is not None and not isinstance(section, dict):
            raise ValueError(f"section {name} is {section!r}; it needs settings like key: value")
    sections = {name: dict(values.get(name) or {}) for name in SECTIONS}
    if unknown := values.keys() - sections.keys():
        raise ValueError(f"unknown sections {sorted(map(str, unknown))}; a run has {', '.join(SECTIONS)}")
    if data is not None:
        sections["data"] = dict(name=data) if data in NAMES else dict(name="folder", path=data)
    if image_size is not None:
        sections["data"]["image_size"] = image_size
    if channels is not None:
        sections["data"]["channels"] = channels
    chosen = set()
    for setting in settings:
        section, key, value = _setting(setting)
        sections[section][key] = value
        chosen.add((section, key))
    if data is not None or image_size is not None or channels is not None:
        d = DataConfig(**sections["data"])
        found = load(d.name, "train", d.path, d.image_size, d.channels)
        follow = dict(image_size=found.image_size, channels=found.channels, num_classes=found.num_classes)
        sections["model"].update({k: v for k, v in follow.items() if ("model", k) not in chosen})
    if align not in (None, "off"):
        sections["align"]["direction"] = align
    if align == "off" or not sections["align"]:
        return RunConfig(**{**sections, "align": None})
    if "sites" not in sections["align"]:
        model = TarFlowConfig(**sections["model"])
        sections["align"]["sites"] = default_sites(sections["align"].get("direction", "reverse"), model)
    return RunConfig(**sections)


def default_sites(direction: str, model: TarFlowConfig) -> tuple[Site, ...]:
    """The two blocks nearest z, or nearest the image for "forward", after three quarters of their layers.

    For 8 blocks of 8 layers that is (7, 6) and (8, 6), the best of FlowBack's Table 1; the rule for other sizes is ours.
    """
    last, layer = model.num_blocks, math.ceil(0.75 * model.layers_per_block)
    blocks = (1, 2) if direction == "forward" else (last - 1, last)
    return tuple((block, layer) for block in sorted({min(max(block, 1), last) for block in blocks}))


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"no file {str(file)!r}; give a YAML file with the sections model, data and train")
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {type(values).__name__}; it needs the sections model, data and train")
    return values


def _setting(text: str) -> tuple[str, str, Any]:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key and section in SECTIONS):
        raise ValueError(
            f"setting {text!r}; write SECTION.KEY=VALUE with section {', '.join(SECTIONS)}, as in train.steps=100"
        )
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(
            f"setting {text!r}: {value!r} is not a value; write a number, a word, null, or [a, b]"
        ) from None
    if isinstance(parsed, str):  # YAML reads 1e-4 as a string
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    return section, key, parsed
