"""The small trained models that ship with labcore. Each folder holds weights, configuration, a card with its record, and for a
flow, or a learned inverse, samples and the spec of the run that made it."""

from __future__ import annotations

from pathlib import Path

from labcore.biflow.model import BackwardModel
from labcore.flows.tarflow import TarFlow
from labcore.nn.classifier import Classifier

FOLDER = Path(__file__).parent
FLOWS = ("fashion-tarflow", "fashion-r-repa", "fashion-itarflow")
INVERSES = {"fashion-biflow": "fashion-itarflow"}
"""Learned inverses, and the flow that each inverts."""
NAMES = (*FLOWS, *INVERSES)
CLASSIFIER = "fashion-classifier"
"""The judge of samples and edited images: no flow."""


def load(name: str) -> TarFlow | BackwardModel:
    """A shipped flow or learned inverse by name, in eval mode on the CPU; its card is README.md in `path(name)`."""
    return (BackwardModel if name in INVERSES else TarFlow).from_pretrained(path(name))


def load_classifier() -> Classifier:
    """The shipped classifier of clothes, in eval mode on the CPU."""
    return Classifier.from_pretrained(path(CLASSIFIER))


def path(name: str) -> Path:
    """The folder of a shipped model; ValueError lists the names there are."""
    if name not in (*NAMES, CLASSIFIER):
        raise ValueError(f"no shipped model {name!r}; there are {', '.join(NAMES)}")
    return FOLDER / name
