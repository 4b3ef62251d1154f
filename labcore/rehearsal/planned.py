"""The configuration that a plan is made for: a preset with the sizes and classes of the images that are given.

No weights are read, so that a run can be planned before they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from labcore.config import BaseRunConfig, TarFlowConfig
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.latents.weights import layout
from labcore.runs.configure import as_named, data_section


class Planned(NamedTuple):
    """A run's configuration, the flow under a learned inverse (None for a flow), and its training images (None: not read)."""

    config: BaseRunConfig
    flow: TarFlowConfig | None
    images: Dataset | None = None

    def following(self, images: Dataset, settings: Sequence[str] = ()) -> Planned:
        """The same for the sizes and classes of some images, but for what `settings` say of the model.

        Raises ValueError where the images do not fit, FileNotFoundError for an autoencoder that nobody knows.
        """
        chosen = {name.partition("=")[0].strip() for name in settings}
        flow = None if self.flow is None else self.flow.replace(**_followed(self.flow, images, set()))
        model = self.config.model.replace(**_followed(self.config.model, images, chosen))
        return Planned(self.config.replace(model=model.model_dump()), flow, images)


def chosen(
    preset: str,
    settings: Sequence[str] = (),
    data: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
) -> Planned:
    """A preset with the data that are chosen, a name or a folder, which is not read. Raises as `as_named`."""
    config, flow = as_named(preset, settings)
    given: dict[str, Any] = {}
    if data is not None:
        given = data_section(data)
    given |= {key: value for key, value in (("image_size", image_size), ("channels", channels)) if value is not None}
    said = {name.partition("=")[0].strip() for name in settings}
    for key, value in given.items():
        if f"data.{key}" in said and getattr(config.data, key) not in (None, value):
            raise ValueError(
                f"data.{key} is {getattr(config.data, key)!r} in the settings and {value!r} by an option; give one of them"
            )
    return Planned(config.replace(data={**config.data.model_dump(), **given}), flow)


def planned(
    preset: str,
    settings: Sequence[str] = (),
    data: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
) -> Planned:
    """A preset with the images that `lab train` would take by the same words.

    data: a data set's name or a folder; None, without sizes, leaves the preset as it stands. Raises as `chosen`,
    `labcore.data.load` and `Planned.following`.
    """
    found = chosen(preset, settings, data, image_size, channels)
    if (data, image_size, channels) == (None, None, None):
        return found
    return found.following(Data.of(found.config.data).split("train"), settings)


def _followed(model: Any, images: Dataset, chosen: set[str]) -> dict[str, int]:
    """What a model has from its images, but for what a user has `chosen`; an unconditional model stays one."""
    found = dict(image_size=images.image_size, channels=images.channels, num_classes=images.num_classes)
    if model.codec is not None:
        factor, latent_channels, _ = layout(model.codec)
        if images.image_size % factor:
            raise ValueError(f"image_size was {images.image_size}; {model.codec} takes multiples of {factor}")
        found |= dict(image_size=images.image_size // factor, channels=latent_channels)
    if not model.num_classes:
        del found["num_classes"]
    return {name: value for name, value in found.items() if f"model.{name}" not in chosen}
