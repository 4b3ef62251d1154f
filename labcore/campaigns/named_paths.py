"""Paths among a notebook's parameters: searched in the working directory and the project, and identified by their contents.

A run of a campaign is named by its parameters. A path among them counts by its contents. So the same campaign in another folder
or on another machine has the same runs, and a different data set under the same path gives different runs.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labcore.campaigns.parameters import NAME_OR_PATH, PATH, Parameter
from labcore.contents import digests
from labcore.files import sha256

WEIGHTS = (".safetensors", ".bin")
"""Suffixes of a model's weights."""
NOT_COUNTED = {"thumbs.db", "desktop.ini"}
"""Files that systems leave in folders; so do those whose names begin with a dot."""
MANY = 10_000
"""Number of files in a folder above which a line says that they are read; our choice."""


def located(parameter: Parameter, value: Any, project: Path) -> Path | None:
    """Return the absolute path of the file or folder that a parameter's value names; None if there is none.

    A parameter that is not marked as a path gives None. The path is relative to the working directory, or else to the project.
    If the parameter also allows names, a folder whose path has one part is written ./part.
    """
    if parameter.mark not in (PATH, NAME_OR_PATH) or not isinstance(value, str) or not value:
        return None
    path = Path(os.path.expanduser(value))
    place = next((base / path for base in (Path.cwd(), project) if (base / path).exists()), None)
    if place is None:
        return None
    if parameter.mark == NAME_OR_PATH and place.is_dir() and not any(mark in value for mark in ("/", os.sep)):
        name = parameter.name
        if place.parent == Path.cwd():
            warnings.warn(
                f"{name}={value} is taken as a name; for the folder {value} that is here, write {name}=./{value}",
                stacklevel=2,
            )
        return None
    return place.resolve()


def contents(place: Path) -> str:
    """Return 16 hex digits of the contents of a file or folder, independent of its name.

    For a saved model, a run or a checkpoint they are a hash of the averaged weights and their configuration; for any other
    folder, of all files with their relative names. Files are read once (`labcore.contents`). OSError if one cannot be read.
    """
    if place.is_file():
        return sha256(place)[:16]
    model = _model(place)
    folder = model or place
    files = sorted(_weights(model) if model else _files(place))
    if len(files) > MANY:
        print(f"{place}: {len(files):,} files are compared with known ones, and new files are read", file=sys.stderr)
    return hashlib.sha256(repr([*zip(files, digests(folder, files), strict=True)]).encode()).hexdigest()[:16]


def _model(folder: Path) -> Path | None:
    """Return the folder with the model's files of a checkpoint, run or saved model, also of an unfinished run; or None."""
    newest = sorted(folder.glob("checkpoints/step-*[0-9]/ema"), reverse=True)
    places = (folder / "ema", folder / "model", folder, *newest)
    return next((place for place in places if (place / "config.json").is_file()), None)


def _weights(folder: Path) -> list[str]:
    found = [path.name for path in folder.iterdir() if path.suffix in WEIGHTS]
    return ["config.json", *found]


def _files(folder: Path) -> Iterator[str]:
    """Yield all files below a folder, relative to it; links are followed, except into a folder that contains the link."""
    above: dict[str, set[str]] = {str(folder): {os.path.realpath(folder)}}
    for place, folders, files in os.walk(folder, followlinks=True):
        entered = above.pop(place)  # the real folders on the way from the top to this one
        real = {name: os.path.realpath(os.path.join(place, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in real if real[name] not in entered]  # os.walk goes into these
        above |= {os.path.join(place, name): entered | {real[name]} for name in folders}
        for name in files:
            if not name.startswith(".") and name.lower() not in NOT_COUNTED:
                yield Path(place, name).relative_to(folder).as_posix()
