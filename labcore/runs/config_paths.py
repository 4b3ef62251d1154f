"""Paths in a run's configuration: absolute from the moment that the run is configured, so that it goes on from any folder.

    data.path       pictures                                     align.weights   the encoder's file
    model.codec     an autoencoder's folder, or a name           flow            of a learned inverse: a folder, or a name

A resumed run may find them elsewhere, since it knows their contents: see `labcore.train.same_run.MAY_CHANGE`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from labcore.config import BaseRunConfig
from labcore.latents.weights import RANDOM
from labcore.latents.weights import SHIPPED as SHIPPED_CODEC
from labcore.zoo import NAMES as SHIPPED

AnyRun = TypeVar("AnyRun", bound=BaseRunConfig)


def absolute(path: str | None) -> str | None:
    """A path as it is seen from here, absolute; None and an empty text stay as they are."""
    return str(Path(os.path.expanduser(path)).resolve()) if path else path


def from_anywhere(name: str | None, names: tuple[str, ...] = SHIPPED) -> str | None:
    """A path that exists as an absolute one; one of `names`, and any other text, as it is."""
    is_path = name and name not in names and os.path.exists(os.path.expanduser(name))
    return absolute(name) if is_path else name


def anchored(config: AnyRun) -> AnyRun:
    """The run's configuration with absolute paths, as they are seen from the working directory."""
    found: dict[str, Any] = {
        "data": config.data.replace(path=absolute(config.data.path)).model_dump(),
        "model": config.model.replace(codec=from_anywhere(config.model.codec, (SHIPPED_CODEC, RANDOM))).model_dump(),
    }
    if config.teacher is not None:
        found["flow"] = from_anywhere(config.teacher)
    if config.encoder is not None:
        found["align"] = config.encoder.replace(weights=absolute(config.encoder.weights)).model_dump()
    return config.replace(**found)
