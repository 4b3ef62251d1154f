"""Who judges drawn images, and who taught the model that drew them: a judge that taught is no independent witness.

Judges are extractors of `labcore.evaluate.extractors` (`efflite0`, `classifier`, `inception`) and `pixels`. Teachers are
encoders of `labcore.encoders`; two of them are judges as well, under another name (`extractors.ENCODERS`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from labcore.config import AlignConfig, BaseRunConfig
from labcore.data.datasets import Data
from labcore.evaluate import fidelity, pixels
from labcore.evaluate.extractors import ENCODERS, NAMES, suffix_of
from labcore.runs.models import run_settings

EMBEDDED = "efflite0"
CLASSIFIER = "classifier"
JUDGES = (*NAMES, pixels.NAME)
OF_IMAGES = ("fid", "sfid", "kid", "precision", "recall")
"""What is computed in the features of an extractor."""
UNKNOWN = "unknown"
"""In the place of a teacher's name, where nothing says what taught a flow."""
Role = Literal["teacher", "independent", "unknown"]


def judges_for(data: Data) -> tuple[str, ...]:
    """The judges of images like those of `data`: the shipped classifier judges grey pictures of clothes only."""
    clothes = data.name.startswith("fashion-mnist") and data.channels in (None, 1)
    return (EMBEDDED, *((CLASSIFIER,) if clothes else ()), pixels.NAME)


def measures_of(judges: Sequence[str], samples: int, classes: int) -> list[str]:
    """Names of the measures of so many drawn images by those judges; none for 0 images.

    classes: of the model that draws, each in turn; the variance within a class is left out for 0, and where a class would
    have one image. Raises ValueError for unknown judges, and where the
    images are too few for the Frechet distance of one of them.
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
    """Names of the frozen networks whose features took part in a model's training, each once; () for the likelihood alone.

    They are the encoder of an alignment, perceptual distances, and what `taught_flow` gives for the flow that taught it.
    """
    own = () if config.encoder is None else (config.encoder.encoder,)
    distances = (ENCODERS.get(name, name) for name in config.distances)
    inherited = () if config.teacher is None else taught_flow(config.teacher)
    return tuple(dict.fromkeys([*own, *distances, *inherited]))


def taught_flow(source: str) -> tuple[str, ...]:
    """What taught a flow (what `find_model` takes), by the configuration of its run beside it.

    () where that has no alignment, and "unknown" where no configuration lies there.
    """
    settings = run_settings(source)
    if settings is None:
        return (UNKNOWN,)
    align: dict[str, Any] | None = settings.get("align")
    return (align.get("encoder", AlignConfig.model_fields["encoder"].default),) if align else ()


def roles(judges: Iterable[str], teachers: Iterable[str]) -> dict[str, Role]:
    """{judge: "teacher", "independent" or "unknown"}, for a record. teachers: what `taught` gives.

    With an "unknown" among the teachers, any network may be that one; pixels are none.
    """
    known = set(teachers)

    def role(judge: str) -> Role:
        if ENCODERS.get(judge, judge) in known:
            return "teacher"
        return "unknown" if UNKNOWN in known and judge != pixels.NAME else "independent"

    return {judge: role(judge) for judge in judges}
