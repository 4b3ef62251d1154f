"""Preparation of a preset's run: its pictures, the flow that a student needs first, and a check of all files.

Notebook 09 and `lab smoke` begin with this, at full size or at the preset's smoke size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from labcore.config import BaseRunConfig, TrainConfig
from labcore.encoders import find_encoder_weights, specs
from labcore.encoders.perceptual import find_perceptual
from labcore.evaluate.extractors import find_inception
from labcore.evaluate.statistics import load_reference
from labcore.kinds import kind_of
from labcore.latents.weights import RANDOM, find_autoencoder
from labcore.presets import ALL
from labcore.runs.background import train_streamed
from labcore.runs.configure import as_named, configure, configure_student
from labcore.runs.evaluate import RunEvaluation
from labcore.runs.models import run_section
from labcore.runs.teachers import train_if_missing
from labcore.train.distillation import SAME
from labcore.train.log import print_line

SHARED = tuple(f"train.{name}" for name in sorted(TrainConfig.OPERATIONAL | {"accumulation"}))
"""Settings of a student's run that also apply to the flow trained before it: they say how a run is carried out."""


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
    """Return the configuration of a preset's run. The flow that a student needs is trained first if it is missing.

    Args:
        preset: name of the preset.
        run_dir: folder of the run; only used if `small`, for the flow of a student.
        data_path: folder of pictures; presets of papers need one.
        flow: the flow that a student inverts: a run's folder or a saved model. With None (default) the flow that the preset
            names is taken from the cache folder, which all runs share, or trained there on `processes` devices.
        settings: single settings such as "train.batch_size=128"; those in `SHARED` also apply to a flow that is trained first.
        seed: random seed of the training; default 0.
        small: use the smoke size, with embedded pictures; a flow that it needs is trained in `run_dir`. Default False.
        processes: number of devices; default 1.
        show: called with each line of the flow's training; default None, as in `labcore.runs.background.train_streamed`.

    Raises:
        ValueError, FileNotFoundError: as `configure`, before anything is trained.
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
        raise ValueError(f"the flow {flow} has no run next to it that names its data; give data_path")
    return configure_student(flow, preset, data=data_path, settings=seeded)


def _check_settings(preset: str, settings: Sequence[str]) -> None:
    """Raise ValueError for settings that are parameters of their own, or that a student takes from its flow."""
    if isinstance(settings, str):
        raise ValueError(f"settings must be a list; got the string {settings!r}: give [{settings!r}]")
    for name in (each.partition("=")[0].strip() for each in settings):
        if name == "train.seed":
            raise ValueError("the settings contain train.seed; give seed instead")
        if "flow" in ALL.get(preset, {}) and (name in {f"model.{key}" for key in SAME} or name.startswith("data.")):
            raise ValueError(f"the settings contain {name}; a student takes it from its flow, so leave it out")


def _small(
    preset: str, named: BaseRunConfig, folder: Path, seed: int, show: Callable[[str], None] | None
) -> BaseRunConfig:
    """Return the configuration of a preset's smoke size; the flow of a student is trained first, by one process."""
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
    """Return the path of the flow that a student's preset names, which is trained now if it is missing."""
    (of, stopped), how = _flow_of(preset), [each for each in settings if each.partition("=")[0].strip() in SHARED]
    data = _needed(of, data_path)
    plain, before = (configure(of, data=data, settings=[f"train.seed={seed}", *more]) for more in ([], how))
    (show or print_line)(
        f"{preset} needs the flow {of}: it is taken from the cache folder, or trained first ({before.train.steps:,} steps)"
    )
    return str(train_if_missing(before, processes, show, plain).joinpath(*stopped))


def check(preset: str, settings: Sequence[str], data_path: str | None, how: RunEvaluation, small: bool = False) -> None:
    """Check before the training that a run can be finished and measured. A smoke size needs no files.

    Raises:
        ValueError: settings or measures do not fit the preset.
        FileNotFoundError: files are missing. The message lists all of them: weights of the autoencoder, the encoder, perceptual
            distances and the extractor, statistics, pictures.
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
    """Return the pretrained networks that a run needs, as {name: function that returns the path of the weights}.

    They are the autoencoder, the encoder of an alignment, perceptual distances, and with `inception` the network of FID. A
    function raises FileNotFoundError or ValueError if there is no usable file.
    """
    found: dict[str, Callable[[], Path]] = {}
    if config.model.codec is not None and config.model.codec != RANDOM:
        found[f"autoencoder {config.model.codec}"] = partial(find_autoencoder, config.model.codec)
    if config.encoder is not None:
        spec = specs.spec(config.encoder.encoder)
        if spec.seed is None:
            found[f"encoder {spec.name}"] = partial(find_encoder_weights, spec, config.encoder.weights)
    found |= {f"perceptual distance {name}": partial(find_perceptual, name) for name in config.distances}
    if inception:
        found["Inception for FID"] = find_inception
    return found


def _exists(path: str | Path) -> None:
    if not Path(path).expanduser().exists():
        raise FileNotFoundError(f"there is no {path}; check the path")


def _flow_of(preset: str) -> tuple[str, list[str]]:
    """Return the preset of the flow that a student's preset names, and the relative path of its checkpoint ([]: the end)."""
    _, name, *stopped = Path(ALL[preset]["flow"]).parts
    return name, stopped


def _needed(preset: str, data_path: str | None, settings: Sequence[str] = ()) -> str | None:
    """Return `data_path`, made absolute if it is a folder; ValueError if a preset needs a folder and none was given."""
    d = as_named(preset, settings)[0].data
    if data_path is None and d.name == "folder" and d.path is None:
        raise ValueError(f"{preset} trains on a folder of pictures; give data_path, a folder of class folders")
    found = None if data_path is None else Path(data_path).expanduser()
    return str(found.resolve()) if found is not None and found.is_dir() else data_path
