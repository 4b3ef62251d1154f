"""The small trained models that ship with labcore. Each folder has weights, configuration, and a card with its record; for a
flow or a student also samples and the spec of its run."""

from __future__ import annotations

from pathlib import Path

from labcore.biflow.model import BackwardModel
from labcore.flows.tarflow import TarFlow
from labcore.nn.classifier import Classifier

FOLDER = Path(__file__).parent
PLANNED_FLOWS = ("fashion-tarflow", "fashion-r-repa", "fashion-itarflow", "emoji-tarflow", "emoji-r-repa")
PLANNED_INVERSES = {"fashion-biflow": "fashion-itarflow", "emoji-biflow": "emoji-tarflow"}
"""All names of flows and students that `labcore.experiments.ship` writes, whether a model of that name is here or not."""


def _is_here(name: str) -> bool:
    """Whether a model ships: its card, which is written last, is there."""
    return (FOLDER / name / "README.md").is_file()


FLOWS = tuple(name for name in PLANNED_FLOWS if _is_here(name))
INVERSES = {name: flow for name, flow in PLANNED_INVERSES.items() if _is_here(name)}
"""Students, and the flow that each inverts."""
NAMES = (*FLOWS, *INVERSES)
CLASSIFIER = "fashion-classifier"
"""Name of the classifier that judges samples and edited images; it is not a flow."""


def load(name: str) -> TarFlow | BackwardModel:
    """Load a shipped flow, or a shipped student (a learned inverse), by name, in eval mode on the CPU.

    Its card is README.md in `path(name)`.
    """
    return (BackwardModel if name in INVERSES else TarFlow).from_pretrained(path(name))


def load_classifier() -> Classifier:
    """Load the shipped classifier of clothes, in eval mode on the CPU."""
    return Classifier.from_pretrained(path(CLASSIFIER))


def path(name: str) -> Path:
    """Return the folder of a shipped model. Raises ValueError with all names for an unknown one."""
    if name not in (*NAMES, CLASSIFIER):
        raise ValueError(f"no shipped model {name!r}; there are {', '.join(NAMES)}")
    return FOLDER / name
