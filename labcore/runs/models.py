"""Loading of a model by a zoo name, a run's folder, a checkpoint, a saved model, or a hub name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, TypeVar

from labcore.biflow.model import BackwardModel
from labcore.config import BaseRunConfig
from labcore.files import cache_folder
from labcore.flows.tarflow import TarFlow
from labcore.in_use import note_use
from labcore.inverse.calibrate import FILE
from labcore.inverse.calibrate import load as load_calibration
from labcore.inverse.methods import SOLVERS, Method, Solver, named
from labcore.kinds import kind_of
from labcore.nn.pretrained import CONFIG, saved_class
from labcore.provenance import weights_hash
from labcore.train import checkpoint
from labcore.yamlfile import read_yaml
from labcore.zoo import NAMES, path

AnyModel = TypeVar("AnyModel", TarFlow, BackwardModel)


def find_model(source: str | Path) -> TarFlow:
    """Load the flow that `source` names, in eval mode.

    A run's folder gives its finished model, or else the averaged weights of its newest complete checkpoint; a checkpoint
    folder gives its averaged weights; any other folder must be one that save_pretrained wrote. Names of the zoo and hub
    repositories "owner/name" work too. Raises FileNotFoundError or ValueError; the message says what to do.
    """
    return _load(TarFlow, source, _folder(source))


def find_sampler(source: str | Path) -> TarFlow | BackwardModel:
    """Load the flow or student that `source` names, for `labcore.sample`; otherwise as `find_model`."""
    place = _folder(source)
    learned = isinstance(place, Path) and saved_class(place) == BackwardModel.__name__
    return _load(BackwardModel if learned else TarFlow, source, place)


def _load(kind: type[AnyModel], source: str | Path, place: Path | str) -> AnyModel:
    """Load the model in `place`; if a run's finished model is damaged, the averaged weights of its newest good checkpoint."""
    run = Path(source)
    try:
        return kind.from_pretrained(place)
    except (ValueError, FileNotFoundError) as error:
        finished = Path(place) == run / "model" and run.is_dir()
        found = checkpoint.latest(run) if finished else None
        if found is None:
            raise
        warnings.warn(f"{error}. Taking the averaged weights of {found.path.name} instead", stacklevel=3)
        return kind.from_pretrained(found.path / "ema")


def find_teacher(config: BaseRunConfig) -> TarFlow | None:
    """Load the flow that teaches a run's model; None for a run without one.

    Raises as `find_model`, and ValueError if the model cannot learn from it.
    """
    if config.teacher is None:
        return None
    flow = find_model(config.teacher)
    kind_of(config).check_teacher(flow, config.model)
    return flow


def run_section(source: str | Path, section: str) -> dict[str, Any] | None:
    """Return a section of the configuration of a model's run; None if there is none. Raises as `run_settings`."""
    return (run_settings(source) or {}).get(section)


def run_settings(source: str | Path) -> dict[str, Any] | None:
    """Return the configuration of a model's run, from the run's folder or the zoo; None if there is no such file.

    Raises ValueError if the file is not YAML.
    """
    if str(source) in NAMES:
        file = path(str(source)) / "spec.yaml"
    else:
        folder = Path(source)
        above = [folder.parent.parent] if folder.parent.name == "checkpoints" else []
        file = next((f / "config.yaml" for f in (folder, folder.parent, *above) if (f / "config.yaml").is_file()), None)
    values = read_yaml(file) if file else None
    return values if isinstance(values, dict) else None


def calibration_file(source: str | Path, model: TarFlow) -> Path:
    """Return the path of a model's calibration: in its folder; in the cache folder for models of the zoo and the hub."""
    folder = Path(source)
    if str(source) not in NAMES and folder.is_dir():
        return folder / FILE
    file = cache_folder() / "solvers" / f"{weights_hash(model)}.json"
    note_use(file)
    return file


def solvers(
    source: str | Path, model: TarFlow | BackwardModel, name: str, tolerance: float | None, batch: int, guided: bool
) -> Solver | tuple[Method, ...]:
    """Return the argument `solver` of `labcore.sample` for a user's solver name; "auto" is the calibration for this batch.

    Raises as `solver_settings`.
    """
    return solver_settings(source, model, name, tolerance, batch, guided)["solver"]


def solver_settings(
    source: str | Path, model: TarFlow | BackwardModel, name: str, tolerance: float | None, batch: int, guided: bool
) -> dict[str, Any]:
    """Return the arguments `solver`, as `solvers` gives it, and `compiled` of `labcore.sample`.

    `compiled` is that of the calibration for "auto", else None (automatic). Raises ValueError for an unknown name, a tolerance
    that is not above 0, and a missing calibration.
    """
    if not isinstance(model, TarFlow):
        if name == "sequential" and tolerance is None:
            return {"solver": "sequential", "compiled": None}
        raise ValueError("a student has no solver and no tolerance; leave them out, or give the flow")
    if name == "auto":
        found = load_calibration(calibration_file(source, model), model, batch, guided, tolerance)
        return {"solver": found.methods, "compiled": found.compiled}
    if name not in SOLVERS:
        raise ValueError(f"solver was {name!r}; allowed are {', '.join(SOLVERS)}, auto")
    method = named(name, model.config.tokens, tolerance=tolerance)
    return {"solver": name if tolerance is None else (method,) * len(model.blocks), "compiled": None}


def _folder(source: str | Path) -> Path | str:
    """Return the folder that holds the model's files; `source` itself if it may be a hub name."""
    if str(source) in NAMES:
        return path(str(source))
    folder = Path(source)
    for candidate in (folder, folder / "model", folder / "ema"):
        if candidate.is_dir() and (candidate / CONFIG).is_file():
            is_raw_weights = candidate.name == "model" and (folder / "ema" / CONFIG).is_file()  # a checkpoint folder
            chosen = folder / "ema" if is_raw_weights else candidate
            if checkpoint.is_checkpoint(chosen.parent):
                checkpoint.read(chosen.parent)
            return chosen
    if not folder.exists() and "/" not in str(source):
        raise FileNotFoundError(
            f"no folder {str(source)!r}, and no shipped model of that name; shipped are {', '.join(NAMES)}. Give one of "
            "them, a run's folder, a checkpoint, a folder that save_pretrained wrote, or a hub name owner/name"
        )
    if folder.is_dir() and (found := checkpoint.latest(folder)):
        return found.path / "ema"
    return str(source)
