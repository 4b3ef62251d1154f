"""Judges of drawn images, and the frozen networks that took part in training: a judge that took part is not independent.

Judges are extractors of `labcore.evaluate.extractors` (`efflite0`, `classifier`, `inception`) and `pixels`. Teachers are
encoders of `labcore.encoders`; two of them are also judges, under another name (`extractors.ENCODERS`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from labcore.config import AlignConfig, BaseRunConfig
from labcore.data.datasets import Data
from labcore.evaluate import fidelity, pixels
from labcore.evaluate.extractors import ENCODERS, NAMES, networks_of, suffix_of
from labcore.runs.models import run_settings

EMBEDDED = "efflite0"
CLASSIFIER = "classifier"
JUDGES = (*NAMES, pixels.NAME)
OF_IMAGES = ("fid", "sfid", "kid", "precision", "recall")
"""Measures that are computed from the features of an extractor."""
UNKNOWN = "unknown"
"""Name of a teacher of a flow whose training is not known."""
Role = Literal["teacher", "independent", "unknown"]


def judges_for(data: Data) -> tuple[str, ...]:
    """Return the judges that fit images of `data`; the shipped classifier fits only grey pictures of clothes."""
    clothes = data.name.startswith("fashion-mnist") and data.channels in (None, 1)
    return (EMBEDDED, *((CLASSIFIER,) if clothes else ()), pixels.NAME)


def measures_of(judges: Sequence[str], samples: int, classes: int) -> list[str]:
    """Return the names of the measures of `samples` drawn images by these judges; [] for 0 images.

    classes: number of classes of the model, which alternate. The variance within a class is left out without classes, and if a
    class would have one image. Raises ValueError for unknown judges, and if a Frechet distance needs more images.
    """
    found: list[str] = []
    if unknown := [judge for judge in judges if judge not in JUDGES]:
        raise ValueError(f"judge was {unknown[0]!r}; the judges are {', '.join(JUDGES)}")
    for judge in judges if samples != 0 else ():
        if judge == pixels.NAME:
            pixels.check_number("power", samples)
            metrics: Sequence[str] = pixels.METRICS if 0 < 2 * classes <= samples else ["power"]
        else:
            fidelity.check_enough(["fid"], judge, samples, "drawn")
            metrics = [m for m in OF_IMAGES if fidelity.enough(m, judge, samples)]
        found += [f"{metric}{suffix_of(judge)}" for metric in metrics]
    return found


def taught(config: BaseRunConfig) -> tuple[str, ...]:
    """Return the names of the frozen networks whose features took part in a model's training; () for likelihood alone.

    These are the encoder of an alignment, perceptual distances, and the networks of `taught_flow` for a student's teacher.
    """
    inherited = () if config.teacher is None else taught_flow(config.teacher)
    return tuple(dict.fromkeys([*networks_of(config), *inherited]))


def taught_flow(source: str) -> tuple[str, ...]:
    """Return the networks that took part in training a flow (a name or path for `find_model`), from its run's configuration.

    () if the run has no alignment, and ("unknown",) if there is no configuration.
    """
    settings = run_settings(source)
    if settings is None:
        return (UNKNOWN,)
    align: dict[str, Any] | None = settings.get("align")
    return (align.get("encoder", AlignConfig.model_fields["encoder"].default),) if align else ()


def roles(judges: Iterable[str], teachers: Iterable[str]) -> dict[str, Role]:
    """Return {judge: "teacher", "independent" or "unknown"}, for a record. teachers: result of `taught`.

    If a teacher is "unknown", it may be any network, so all judges except pixels are "unknown".
    """
    known = set(teachers)

    def role(judge: str) -> Role:
        if ENCODERS.get(judge, judge) in known:
            return "teacher"
        return "unknown" if UNKNOWN in known and judge != pixels.NAME else "independent"

    return {judge: role(judge) for judge in judges}
