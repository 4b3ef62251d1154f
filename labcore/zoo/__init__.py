"""The small trained models that ship with labcore. Each folder holds weights, configuration, a card with its record, and for a
flow samples and the spec of the run that made it."""

from __future__ import annotations

from pathlib import Path

from labcore.evaluate.classifier import Classifier
from labcore.flows.tarflow import TarFlow

FOLDER = Path(__file__).parent
NAMES = ("fashion-tarflow", "fashion-itarflow")
"""Flows."""
CLASSIFIER = "fashion-classifier"
"""The judge of samples and edited images: no flow."""


def load(name: str) -> TarFlow:
    """A shipped flow by name, in eval mode on the CPU; its card is README.md in `path(name)`."""
    return TarFlow.from_pretrained(path(name))


def load_classifier() -> Classifier:
    """The shipped classifier of clothes, in eval mode on the CPU."""
    return Classifier.from_pretrained(path(CLASSIFIER))


def path(name: str) -> Path:
    """The folder of a shipped model; ValueError lists the names there are."""
    if name not in (*NAMES, CLASSIFIER):
        raise ValueError(f"no shipped model {name!r}; there are {', '.join(NAMES)}")
    return FOLDER / name
