"""Comparison of two configurations: a checkpoint is resumed only with the settings that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labcore.config import TrainConfig, with_present_names
from labcore.dotted import dotted
from labcore.train.checkpoint import Checkpoint

MAY_CHANGE = frozenset({*(f"train.{name}" for name in TrainConfig.OPERATIONAL), "data.path", "model.codec"})
"""Settings that a resumed run may change; data, and the autoencoder of latents, are identified by their fingerprint,
independent of their paths."""
ENCODER, ENCODER_PATH = "encoder_file", "align.weights"
"""The digest of an encoder's file, which identifies it independent of its path; runs of earlier versions have only the path."""
OF_DATA = {"model.class_names"}
"""Settings that follow from the data, which have a fingerprint; runs of earlier versions lack them."""
MEANS = {"data_fingerprint": "the fingerprint of the images, their order, labels and classes"}
"""Names of settings in words."""


class AnotherRun(ValueError):
    """Error for a folder that holds a run with other settings. A notebook shows only the message, in one line."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [str(self)]


def check_same_run(found: Checkpoint, describe: dict[str, Any]) -> None:
    """Raise AnotherRun if a checkpoint was made with another configuration than `describe`; see `changes`."""
    changed = changes(found.state["run"], describe)
    if changed:
        raise AnotherRun(
            f"{found.path.parent.parent} holds step {found.step} of another run ({'; '.join(changed)}). "
            "Give the same settings and unchanged images to resume it, or another folder (in a notebook: another run_dir) "
            "for a new training"
        )


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the differences between two configurations in words; settings in `MAY_CHANGE` and `OF_DATA` may differ."""
    free = MAY_CHANGE | OF_DATA
    old, new = dotted(with_present_names(before)), dotted(now)
    if ENCODER in old:
        free = free | {ENCODER_PATH}
    else:
        new.pop(ENCODER, None)
        old, new = _with_absolute_encoder(old), _with_absolute_encoder(new)
    return [
        f"{MEANS.get(key, key)} was {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if key not in free and old.get(key) != new.get(key)
    ]


def _with_absolute_encoder(flat: dict[str, Any]) -> dict[str, Any]:
    path = flat.get(ENCODER_PATH)
    return {**flat, ENCODER_PATH: str(Path(path).expanduser().resolve())} if isinstance(path, str) else flat
