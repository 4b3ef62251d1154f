"""The run that a preset stands for, ready to be trained: with its pictures, the flow that it needs first, all files checked.

Notebook 09 and `lab smoke` begin with it, at full size or at the preset's smoke size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from labcore.config import BaseRunConfig, TrainConfig
from labcore.encoders import find_weights, specs
from labcore.encoders.perceptual import find_perceptual
from labcore.evaluate.extractors import find_inception
from labcore.evaluate.statistics import load_reference
from labcore.kinds import kind_of
from labcore.latents.weights import RANDOM
from labcore.latents.weights import find as find_autoencoder
from labcore.presets import ALL
from labcore.runs.background import train_streamed
from labcore.runs.configure import as_named, configure, configure_student
from labcore.runs.evaluate import RunEvaluation
from labcore.runs.models import run_section
from labcore.runs.teachers import train_if_missing
from labcore.train.distillation import SAME
from labcore.train.log import print_line

SHARED = tuple(f"train.{name}" for name in sorted(TrainConfig.OPERATIONAL | {"accumulation"}))
"""Settings of a learned inverse's run that the flow trained before it takes too: how a run is carried out."""


def ready_to_train(
    preset: str,
    run_dir: str | Path,
    data_path: str | None = None,
    flow: str | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    small: bool = False,
    processes: int = 1,
    show: Callable[[str], None] | None = None,
) -> BaseRunConfig:
    """The run that `preset` stands for, ready to be trained.

    data_path: the folder of pictures that presets of papers need. flow: what a learned inverse inverts (a run's folder, a
    saved model); None trains the flow that its preset names on `processes` devices, or finds it: in the cache folder, where
    all runs share it. settings: as "train.batch_size=128"; those of `SHARED` are for such a flow as well. small: the smoke
    size instead, of embedded pictures; a flow that it needs is trained in `run_dir`. Raises ValueError and FileNotFoundError
    as `configure`, before anything is trained.
    """
    _check_settings(preset, settings)
    named, _ = as_named(preset, settings)
    if flow is not None and named.teacher is None:
        raise ValueError(f"flow was {flow!r}; {preset} is a flow itself, so leave it out")
    if small:
        return _small(preset, named, Path(run_dir), seed, show)
    seeded = [f"train.seed={seed}", *settings]
    if named.teacher is None:
        return configure(preset, data=_needed(preset, data_path, settings), settings=seeded)
    if flow is None:
        flow = _trained_flow(preset, data_path, settings, seed, processes, show)
    elif data_path is None and run_section(flow, "data") is None:
        raise ValueError(f"beside the flow {flow} there is no run that says what it was trained on; give data_path")
    return configure_student(flow, preset, data=data_path, settings=seeded)


def _check_settings(preset: str, settings: Sequence[str]) -> None:
    """ValueError for settings that have another way in, or that would make a learned inverse unlike its flow."""
    if isinstance(settings, str):
        raise ValueError(f"settings was {settings!r}; give a list, as [{settings!r}]")
    for name in (each.partition("=")[0].strip() for each in settings):
        if name == "train.seed":
            raise ValueError("train.seed is among the settings; give seed")
        if "flow" in ALL.get(preset, {}) and (name in {f"model.{key}" for key in SAME} or name.startswith("data.")):
            raise ValueError(
                f"{name} is among the settings; a learned inverse follows its flow in that, so leave it out"
            )


def _small(
    preset: str, named: BaseRunConfig, folder: Path, seed: int, show: Callable[[str], None] | None
) -> BaseRunConfig:
    """The smoke size of a preset; the flow of a learned inverse is trained first, by one process."""
    flow = None
    if named.teacher is not None:
        teacher, _ = as_named(_flow_of(preset)[0])
        train_streamed(kind_of(teacher).smoke(teacher), folder / "flow", 1, False, show)
        flow = str(folder / "flow")
    found = kind_of(named).smoke(named, flow)
    return found.replace(train=found.train.replace(seed=seed).model_dump())


def _trained_flow(
    preset: str,
    data_path: str | None,
    settings: Sequence[str],
    seed: int,
    processes: int,
    show: Callable[[str], None] | None,
) -> str:
    """Where the flow lies that a learned inverse's preset names, trained now or earlier."""
    (of, stopped), how = _flow_of(preset), [each for each in settings if each.partition("=")[0].strip() in SHARED]
    data = _needed(of, data_path)
    plain, before = (configure(of, data=data, settings=[f"train.seed={seed}", *more]) for more in ([], how))
    (show or print_line)(
        f"{preset} inverts {of}, which is found, or trained first: {before.train.steps:,} steps by its own preset"
    )
    return str(train_if_missing(before, processes, show, plain).joinpath(*stopped))


def check(preset: str, settings: Sequence[str], data_path: str | None, how: RunEvaluation, small: bool = False) -> None:
    """Refuse now, and not after days of training, what cannot come to its end.

    ValueError for measuring that does not fit; FileNotFoundError with all files that are missing here: weights of the
    autoencoder, the encoder, perceptual distances and the extractor, statistics, pictures. A smoke size needs none of these.
    """
    _check_settings(preset, settings)
    config, _ = as_named(preset, settings)
    how.check(config.model)
    if small:
        return
    _needed(preset, data_path, settings)
    looks = list(weights_needed(config, how.extractor == "inception").values())
    if how.reference is not None:
        looks.append(partial(load_reference, how.reference))
    if data_path is not None:
        looks.append(partial(_exists, data_path))
    missing = []
    for look in looks:
        try:
            look()
        except (FileNotFoundError, ValueError) as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError(f"{preset} cannot run to its end here:\n" + "\n".join(f"- {each}" for each in missing))


def weights_needed(config: BaseRunConfig, inception: bool = False) -> dict[str, Callable[[], Path]]:
    """Other people's networks that a run needs -> where the file is, which raises FileNotFoundError or ValueError if nowhere.

    The autoencoder, the encoder of an alignment, perceptual distances, and, with `inception`, the one that FID is made with.
    """
    found: dict[str, Callable[[], Path]] = {}
    if config.model.codec is not None and config.model.codec != RANDOM:
        found[f"autoencoder {config.model.codec}"] = partial(find_autoencoder, config.model.codec)
    if config.encoder is not None:
        spec = specs.spec(config.encoder.encoder)
        if spec.seed is None:
            found[f"encoder {spec.name}"] = partial(find_weights, spec, config.encoder.weights)
    found |= {f"perceptual distance {name}": partial(find_perceptual, name) for name in config.distances}
    if inception:
        found["Inception for FID"] = find_inception
    return found


def _exists(path: str | Path) -> None:
    if not Path(path).expanduser().exists():
        raise FileNotFoundError(f"there is no {path}; check the path")


def _flow_of(preset: str) -> tuple[str, list[str]]:
    """The flow's preset that a learned inverse's names, and the way from its folder to a checkpoint of it, if not its end."""
    _, name, *stopped = Path(ALL[preset]["flow"]).parts
    return name, stopped


def _needed(preset: str, data_path: str | None, settings: Sequence[str] = ()) -> str | None:
    """`data_path`, absolute where it is a folder. ValueError where a preset of a folder of pictures was given none."""
    d = as_named(preset, settings)[0].data
    if data_path is None and d.name == "folder" and d.path is None:
        raise ValueError(f"{preset} trains on a folder of pictures; give data_path, a folder of class folders")
    found = None if data_path is None else Path(data_path).expanduser()
    return str(found.resolve()) if found is not None and found.is_dir() else data_path
