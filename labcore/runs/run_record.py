"""What a run's folder records: settings, log, newest samples and measures, with every fault that was found in reading them.

Any run can be read, also an unfinished or damaged one: a part that cannot be read is left out and named in `notes`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from labcore.config import RunConfig, StudentRunConfig, with_present_names
from labcore.dotted import dotted
from labcore.evaluate.record import SIMPLE
from labcore.jsonfile import read_json
from labcore.runs.folder import CONFIG
from labcore.train import checkpoint
from labcore.train.log import read_log
from labcore.yamlfile import read_yaml

T = TypeVar("T")
SECTIONS = RunConfig.model_fields.keys() | StudentRunConfig.model_fields.keys()
LOG = "log.jsonl"


class Preview(NamedTuple):
    """A grid of samples: the step, the bytes of its PNG, and its size in pixels."""

    step: int
    png: bytes
    size: tuple[int, int]


class Measure(NamedTuple):
    """A number of `lab evaluate`: its value, and the ends of its interval if it has one."""

    value: float
    low: float | None = None
    high: float | None = None


class RunRecord(NamedTuple):
    """What one run's folder records.

    Attributes:
        name: the folder's name, with as many folders above it as tell the runs apart.
        settings: {dotted name: value}; empty if they are unknown.
        records: those of log.jsonl, oldest first.
        preview: the newest grid of samples that can be read; None if there is none.
        measures: {name: number} of the records of `lab evaluate` in the folder.
        status: how far the run is, in words.
        notes: what is missing or damaged, one sentence each.
    """

    name: str
    settings: dict[str, Any]
    records: list[dict[str, Any]]
    preview: Preview | None
    measures: dict[str, Measure]
    status: str
    notes: list[str]

    def points(self, key: str) -> list[tuple[int, float]]:
        """Return (step, value) of a number of the log, without values that are not finite."""
        return [(record["step"], record[key]) for record in self.records if _is_finite(record.get(key))]

    @property
    def keys(self) -> list[str]:
        """Names of the log's numbers in their order, without those of single blocks and states ("a/b")."""
        names = dict.fromkeys(key for record in self.records for key, value in record.items() if _is_number(value))
        return [name for name in names if name != "step" and "/" not in name]


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read the runs in `folders`.

    Raises ValueError for a folder that is given twice or holds no run at all; damage is noted in the records instead.
    """
    places = [folder.resolve() for folder in folders]
    for number, (given, place) in enumerate(zip(folders, places, strict=True)):
        if place in places[:number]:
            raise ValueError(f"{given} was given more than once; give each run's folder once")
        if not any((place / name).exists() for name in (CONFIG, LOG, checkpoint.FOLDER)):
            kind = "is not there" if not place.exists() else f"has no {CONFIG}, {LOG} or {checkpoint.FOLDER}"
            raise ValueError(f"{given} {kind}; give folders that `lab train` wrote, as runs/first")
    return [read_run(place, name) for place, name in zip(places, _names(places), strict=True)]


def read_run(folder: Path, name: str) -> RunRecord:
    """Read one run; parts that are missing or damaged are named in its notes."""
    notes: list[str] = []
    settings, given = _settings(folder, notes)
    records = _records(folder, notes)
    preview, measures = _preview(folder, notes), _measures(folder, notes)
    status = _status(folder, records, settings.get("train.steps"), given)
    here = [note.replace(f"{folder}/", "") for note in notes]  # pages are sent to others
    return RunRecord(name, settings, records, preview, measures, status, here)


def _names(places: Sequence[Path]) -> list[str]:
    """Return names that tell the folders apart: without the parents that all of them share."""
    shared = 0
    parents = [place.parts[:-1] for place in places]
    while all(len(each) > shared and each[: shared + 1] == parents[0][: shared + 1] for each in parents):
        shared += 1
    return ["/".join(place.parts[shared:]) for place in places]


def _settings(folder: Path, notes: list[str]) -> tuple[dict[str, Any], bool]:
    """Return the settings by dotted names, and whether config.yaml has them; else they are those of the newest checkpoint."""
    found = None
    if (folder / CONFIG).exists():
        found = _attempted(notes, f"{CONFIG} cannot be read", _read_config, folder / CONFIG)
    given = found is not None
    for place in checkpoint.folders(folder):
        state = _attempted(notes, "", checkpoint.read_state, place)
        if found is None and state is not None:
            found = _attempted(notes, f"{place.name} has no settings", _sections, state["run"])
    if found is None:
        notes.append(f"its settings are unknown: there is no readable {CONFIG} and no checkpoint")
    return found or {}, given


def _read_config(path: Path) -> dict[str, Any]:
    return _sections(read_yaml(path))


def _sections(values: Any) -> dict[str, Any]:
    """Return the settings of a configuration, without what else a checkpoint knows of its run."""
    if not isinstance(values, dict) or not values.keys() & SECTIONS:
        raise ValueError("it is not the configuration of a run")
    return dotted({key: value for key, value in with_present_names(values).items() if key in SECTIONS})


def _records(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not (folder / LOG).exists():
        notes.append(f"there is no {LOG}, so it has no curves")
        return []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        records = _attempted(notes, f"{LOG} cannot be read", read_log, folder) or []
    notes += [str(warning.message) for warning in said]
    bad: dict[str, int] = {}
    for record in records:
        for key, value in record.items():
            if _is_number(value) and not math.isfinite(value):
                bad[key] = bad.get(key, 0) + 1
    notes += [f"{count} values of {key} in {LOG} are not finite and are left out" for key, count in bad.items()]
    return records


def _preview(folder: Path, notes: list[str]) -> Preview | None:
    """Return the newest grid of samples that can be read; newer ones that cannot are noted."""
    for path in sorted((folder / "previews").glob("step-*.png"), reverse=True):
        found = _attempted(notes, f"previews/{path.name} is damaged", _read_preview, path)
        if found is not None:
            return found
    notes.append("it has no previews, so it has no samples")
    return None


def _read_preview(path: Path) -> Preview:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        return Preview(int(path.stem.removeprefix("step-")), path.read_bytes(), picture.size)


def _measures(folder: Path, notes: list[str]) -> dict[str, Measure]:
    """Return the numbers of all records of `lab evaluate` in the folder."""
    found: dict[str, Measure] = {}
    for path in sorted(folder.glob("*.json")):
        values = _attempted(notes, f"{path.name} is damaged", read_json, path)
        for name, measure in _measures_of(values).items():
            if name in found and found[name] != measure:
                notes.append(
                    f"{path.name} has another value of {name} than an earlier record here; the later one is shown"
                )
            found[name] = measure
    return found


def _measures_of(values: Any) -> dict[str, Measure]:
    """Return the numbers of a record of measures; none of any other JSON."""
    found: dict[str, Measure] = {}
    for part, content in values.items() if isinstance(values, dict) else ():
        if not isinstance(content, dict):
            continue
        if part in SIMPLE.values():
            numbers = {part: {**content, "value": content.get("nats_per_dim", content.get("accuracy"))}}
        else:
            numbers = content.get("measures") if part.startswith("fidelity") else None
        for name, number in (numbers or {}).items():
            if isinstance(number, dict) and _is_finite(number.get("value")):
                ends = [number.get(end) if _is_finite(number.get(end)) else None for end in ("low", "high")]
                found[name] = Measure(number["value"], *ends)
    return found


def _status(folder: Path, records: Sequence[dict[str, Any]], steps: Any, given: bool) -> str:
    """Say how far a run is. `steps`: what its settings ask for; `given`: whether config.yaml has them."""
    last = max([record["step"] for record in records], default=0)
    total = f"{steps:,}" if isinstance(steps, int) else "an unknown number of"
    if not records:
        return f"nothing logged of {total} steps"
    if last == steps and given and (folder / "model").is_dir():
        return f"finished: {last:,} steps"
    return f"not finished: logged up to step {last:,} of {total} steps"


def _attempted(notes: list[str], fault: str, read: Callable[..., T], *given: Any) -> T | None:
    """Return read(*given); None, and a note that begins with `fault`, if it fails."""
    try:
        return read(*given)
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: what PIL raises for some damaged files
        words = " ".join(str(error).split()) or type(error).__name__
        notes.append(f"{fault} ({words})" if fault else words)
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)
