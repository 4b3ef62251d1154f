"""The configuration of a plan: a preset with the sizes and classes of the given images.

No weights are read, so a run can be planned without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from labcore.config import BaseRunConfig, TarFlowConfig
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.runs.configure import UNCHANGED, DataOptions, as_named, following


class Planned(NamedTuple):
    """A run's configuration, the flow that a student inverts (None for a flow), and the training images (None: not read)."""

    config: BaseRunConfig
    flow: TarFlowConfig | None
    images: Dataset | None = None

    def following(self, images: Dataset, settings: Sequence[str] = ()) -> Planned:
        """Return the plan with the sizes and classes of these images, except for settings of the model in `settings`.

        Raises ValueError if the images do not fit, and FileNotFoundError for an unknown autoencoder.
        """
        names = (setting.partition("=")[0].strip() for setting in settings)
        chosen = {name.removeprefix("model.") for name in names if name.startswith("model.")}
        flow = None if self.flow is None else TarFlowConfig(**following(self.flow.model_dump(), images, ()))
        model = following(self.config.model.model_dump(), images, chosen)
        return Planned(self.config.replace(model=model), flow, images)


def planned(preset: str, settings: Sequence[str] = (), images: DataOptions = UNCHANGED) -> Planned:
    """Return a preset with the images that `lab train` would use with the same options.

    Without options, the preset is not changed, and no images are read. Raises as `as_named`, `labcore.data.load` and
    `Planned.following`.
    """
    found = Planned(*as_named(preset, settings, images))
    if images == UNCHANGED:
        return found
    return found.following(Data.of(found.config.data).split("train"), settings)
