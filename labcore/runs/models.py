"""Finding a model by what a user has at hand: a zoo name, a run's folder, a checkpoint, a saved model, or a hub name."""

from __future__ import annotations

from pathlib import Path

from labcore.flows.tarflow import TarFlow
from labcore.nn.pretrained import CONFIG
from labcore.train import checkpoint
from labcore.zoo import NAMES, load


def find_model(source: str | Path) -> TarFlow:
    """The flow that `source` names, in eval mode.

    A run's folder gives its finished model, or else the averaged weights of its newest complete checkpoint; a checkpoint
    folder gives its averaged weights; any other folder must be one that save_pretrained wrote. Names of the zoo and hub
    repositories "owner/name" work too. Raises FileNotFoundError or ValueError with what to do.
    """
    if str(source) in NAMES:
        return load(str(source))
    folder = Path(source)
    for candidate in (folder, folder / "model", folder / "ema"):
        if candidate.is_dir() and (candidate / CONFIG).is_file():
            is_raw_weights = candidate.name == "model" and (folder / "ema" / CONFIG).is_file()  # a checkpoint folder
            return TarFlow.from_pretrained(folder / "ema" if is_raw_weights else candidate)
    if not folder.exists() and "/" not in str(source):
        raise FileNotFoundError(
            f"no folder {str(source)!r}, and no shipped model of that name; shipped are {', '.join(NAMES)}. Give one of "
            "them, a run's folder, a checkpoint, a folder that save_pretrained wrote, or a hub name owner/name"
        )
    if folder.is_dir() and (found := checkpoint.latest(folder)):
        return TarFlow.from_pretrained(found.path / "ema")
    return TarFlow.from_pretrained(source)
