"""Paths in a run's configuration: made absolute when the run is configured, so that it can be resumed from any folder.

    data.path       pictures                                     align.weights   the encoder's file
    model.codec     an autoencoder's folder, or a name           flow            of a student: a folder, or a name

A resumed run may have other paths, because it identifies files by their contents: see `labcore.train.same_run.MAY_CHANGE`.
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
    """Make a path absolute, relative to the working directory; None and "" are returned unchanged."""
    return str(Path(os.path.expanduser(path)).resolve()) if path else path


def from_anywhere(name: str | None, names: tuple[str, ...] = SHIPPED) -> str | None:
    """Make a path absolute if it exists; one of `names`, and any other text, is returned unchanged."""
    is_path = name and name not in names and os.path.exists(os.path.expanduser(name))
    return absolute(name) if is_path else name


def anchored(config: AnyRun) -> AnyRun:
    """Return the run's configuration with absolute paths, relative to the working directory."""
    found: dict[str, Any] = {
        "data": config.data.replace(path=absolute(config.data.path)).model_dump(),
        "model": config.model.replace(codec=from_anywhere(config.model.codec, (SHIPPED_CODEC, RANDOM))).model_dump(),
    }
    if config.teacher is not None:
        found["flow"] = from_anywhere(config.teacher)
    if config.encoder is not None:
        found["align"] = config.encoder.replace(weights=absolute(config.encoder.weights)).model_dump()
    return config.replace(**found)
