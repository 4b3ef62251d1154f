"""Rehearsal of a full-size run on this machine: its requirements, its plan, some training steps, and some images.

Requirements are checked in order, and all missing ones are reported together before anything is trained. The measurements of
the trial are then shown next to the plan, with the days and the price of the whole run, and with the command that starts it.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from labcore.config import BaseRunConfig, DataConfig, TarFlowConfig
from labcore.data.datasets import NAMES, Data
from labcore.data.protocol import Dataset
from labcore.experiments.recipe import ready_to_train, weights_needed
from labcore.files import check_file, weights_folder
from labcore.jsonfile import write_json
from labcore.plan import Estimate, Machine, Plan, estimate, machine
from labcore.plan import plan as plan_of
from labcore.presets import ALL, SMALL
from labcore.rehearsal import fitting, ready, synthetic
from labcore.rehearsal import words as lines
from labcore.rehearsal.planned import Planned
from labcore.rehearsal.ready import LATER, MISSING, RANDOM, Point
from labcore.rehearsal.trial import OutOfMemory, Trial, run_trial
from labcore.runs.configure import UNCHANGED, DataOptions, as_named, configure, configure_student
from labcore.runs.folder import check_new
from labcore.runs.models import find_model, find_teacher

RECORD = "rehearsal.json"
Say = Callable[[str], None]


class Asked(NamedTuple):
    """The request for a rehearsal: a preset, and options of `lab train`.

    images: the options that choose images. flow: the flow that a student inverts; None: the one that its preset names. smoke:
    rehearse the smoke size. synthetic: replace missing images and weights by random ones. processes: number that share each
    batch; None: one per GPU of this machine. price: price of one GPU for an hour, in any currency.
    """

    preset: str
    images: DataOptions = UNCHANGED
    flow: str | None = None
    settings: tuple[str, ...] = ()
    smoke: bool = False
    synthetic: bool = False
    processes: int | None = None
    price: float | None = None

    def command(self, processes: int) -> str:
        """Return the command line that starts the real run."""
        line = ["lab", "train", "--preset", self.preset]
        needs_folder = as_named(self.preset, self.settings)[0].data.name == "folder"
        options = {
            "--data": self.images.data or ("IMAGE_FOLDER" if needs_folder else None),
            "--image-size": self.images.image_size,
            "--channels": self.images.channels,
            "--invert": self.inverted,
        }
        line += [str(word) for pair in options.items() if pair[1] is not None for word in pair]
        line += [word for setting in self.settings for word in ("--set", setting)]
        line += ["--num-processes", str(processes)] if processes > 1 else []
        return shlex.join([*line, "--out", f"runs/{self.preset}"])

    @property
    def inverted(self) -> str | None:
        """The flow that a student inverts; None for a flow."""
        named = ALL.get(self.preset, {}).get("flow")
        return None if named is None else self.flow or named


class Rehearsal(NamedTuple):
    """Result of a rehearsal. problem: why there is no trial although nothing was missing. fits: settings that would fit."""

    asked: Asked
    there: Machine
    processes: int
    command: str
    points: list[Point]
    plan: Plan
    expected: Estimate
    micro_batch: int
    trial: Trial | None = None
    problem: str | None = None
    fits: tuple[str, ...] = ()

    @property
    def missing(self) -> list[Point]:
        return [point for point in self.points if point.status == MISSING]

    @property
    def later(self) -> list[Point]:
        """Requirements of the real run that the rehearsal did not need."""
        return [point for point in self.points if point.status in (RANDOM, LATER)]

    @property
    def days(self) -> float | None:
        """Days of all steps, from the measured time of one, without evaluations and checkpoints; None without a trial."""
        return None if self.trial is None else self.plan.steps * self.trial.seconds_per_step / 86_400

    @property
    def device_hours(self) -> float | None:
        """Hours of all devices together."""
        return None if self.days is None else 24 * self.days * self.processes

    @property
    def price(self) -> float | None:
        """Price of the whole run; None without a price per hour or a trial."""
        return None if self.asked.price is None or self.days is None else self.asked.price * self.device_hours

    def record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        device = {name: value for name, value in self.there._asdict().items() if name != "gpu"}
        whole_run = {"days": self.days, "device_hours": self.device_hours, "price": self.price}
        apart = ("images", "processes", "price")
        return {
            **{name: value for name, value in self.asked._asdict().items() if name not in apart},
            **self.asked.images._asdict(),
            "device": {**device, "flops_per_second": self.there.gpu.peak, "memory": _finite(self.there.gpu.memory)},
            "processes": self.processes,
            "price_per_hour": self.asked.price,
            "points": [point._asdict() for point in self.points],
            "plan": {**self.plan._asdict(), **self.expected._asdict()},
            "measured": None if self.trial is None else self.trial._asdict(),
            "whole_run": None if self.trial is None else whole_run,
            "problem": self.problem,
            "fits": list(self.fits),
            "command": self.command,
        }


def rehearse(
    request: Asked,
    steps: int = 20,
    images: int = 4,
    seconds: int | float = 600.0,
    out: Path | None = None,
    json_file: Path | None = None,
    say: Say = print,
) -> Rehearsal:
    """Rehearse a run: check its requirements, plan it, train some steps, draw some images, and estimate the whole run.

    Args:
        request: the run.
        steps: number of training steps; default 20.
        images: number of images to draw; default 4.
        seconds: the training ends after about this time, and then no images are drawn; default 600.
        out: a new folder for the run, the images and rehearsal.json; made only if the trial is completed. Default None.
        json_file: a file for the record, which is written in every case; default None.
        say: called with each line; default `print`.

    Raises:
        ValueError: the request is not possible.
        OSError: a file cannot be written.
    """
    _check(request, steps, images, seconds, out)
    if json_file is not None:
        check_file(json_file)
    with _scratch(out) as scratch:
        found = _walk(request, steps, images, seconds, scratch, out, say)
        if json_file is not None:
            write_json(json_file, found.record())
        if out is not None and found.trial is not None:
            write_json(scratch / "kept" / RECORD, found.record())
            if out.exists():
                out.rmdir()
            os.replace(scratch / "kept", out)
    return found


def _walk(
    request: Asked, steps: int, images: int, seconds: int | float, scratch: Path, out: Path | None, say: Say
) -> Rehearsal:
    device = machine()
    untested = ", untested" if device.kind == "mps" else ""
    size = "at its smoke size " if request.smoke else ""
    say(f"rehearsal of {request.preset} {size}on {device.name}{untested}\n")
    read = cache(lambda data, split: Data.of(data).split(split))
    found = _planned(request, scratch, read)
    processes = _processes(request, device, found.config.train.batch_size)
    points, given = _points(request, found.config, read, say)
    plan = plan_of(found.config, found.flow)
    for point in _points_of_disk(request, found.config, plan, given, scratch):
        lines.point(point, say)
        points.append(point)
    expected = estimate(plan, device.gpu, processes)
    lines.plan(plan, device, expected, processes, ready.count_of(found.config, given), say)
    micro = fitting.micro_batch(found.config, processes)
    result = Rehearsal(request, device, processes, request.command(processes), points, plan, expected, micro)
    if result.missing:
        lines.missing(result, say)
        return result
    if problem := fitting.too_large(found.config, plan, device, expected, processes, seconds):
        return _with_problem(result, found, problem, False, say)
    config = _real(request, found, given is not None, scratch)
    (scratch / "kept").mkdir()
    say(f"\ntraining {steps} steps of {plan.batch_size // processes} images ...")
    try:
        with _own_cache(scratch):
            trial = run_trial(config, scratch / "kept", steps, images, seconds, processes)
    except OutOfMemory as error:
        return _with_problem(result, found, str(error), error.doing == "training", say)
    result = result._replace(trial=trial)
    lines.measured(result, say)
    return result


def _with_problem(result: Rehearsal, found: Planned, problem: str, tried: bool, say: Say) -> Rehearsal:
    """Add a problem and the settings that would fit to the result, and show them. tried: the training was out of memory."""
    fits = fitting.what_fits(found.config, found.flow, result.plan, result.there, result.processes, tried)
    result = result._replace(problem=problem, fits=tuple(fits))
    lines.problem(result, say)
    return result


def _planned(request: Asked, scratch: Path, read: Callable[[DataConfig, str], Dataset]) -> Planned:
    """Return the run to plan, with the sizes of the images if these can be read."""
    if request.smoke:
        _, flow = as_named(request.preset, request.settings)
        with _own_cache(scratch), contextlib.redirect_stdout(None):
            config = ready_to_train(
                request.preset, scratch, settings=request.settings, small=True, show=lambda line: None
            )
        return Planned(config, find_teacher(config).config if flow is not None else None)
    if (inverse := _of_its_flow(request)) is not None:
        return inverse
    found = Planned(*as_named(request.preset, request.settings, request.images))
    if _no_folder(found.config.data) or request.images == UNCHANGED:
        return found
    try:
        images = read(found.config.data, "train")
    except (ValueError, OSError, ImportError):  # the check of the data reports it
        return found
    return found.following(images, request.settings)


def _of_its_flow(request: Asked) -> Planned | None:
    """Return the plan of a student with the sizes and data of its flow, if that is on this machine; else None."""
    if request.inverted is None:
        return None
    given = dict(**request.images._asdict(), settings=request.settings)
    try:
        flow = find_model(request.inverted).config
        return Planned(configure_student(request.inverted, request.preset, **given), flow)
    except (OSError, ValueError):  # the checks of the flow, the data or the weights report it
        return None


def _points(
    request: Asked, config: BaseRunConfig, read: Callable[[DataConfig, str], Dataset], say: Say
) -> tuple[list[Point], Dataset | None]:
    """Check and report data and weights; return the findings, and the training images, None if these cannot be used."""
    d = config.data
    nowhere = f"{request.preset} trains on a folder of images, and none was given" if _no_folder(d) else None
    data, images = ready.of_data(config, lambda split: read(d, split), nowhere)
    inception = not request.smoke and request.preset not in SMALL and d.name == "folder"
    points = [data, *ready.of_weights(weights_needed(config, inception))]
    if request.inverted is not None and not request.smoke:
        points.append(_point_of_flow(request, config))
    points = [point.done_without() for point in points] if request.synthetic else points
    for point in points:
        lines.point(point, say)
    return points, images


def _points_of_disk(
    request: Asked, config: BaseRunConfig, plan: Plan, images: Dataset | None, scratch: Path
) -> list[Point]:
    """Check the disk space of the run; a second finding reports too little space for the rehearsal itself."""
    whole_run = ready.of_disk(config, plan, images, Path("runs"))
    if request.synthetic:
        whole_run = whole_run.done_without()
    of_rehearsal = ready.room_for_rehearsal(plan, scratch)
    return [whole_run, *([of_rehearsal] if of_rehearsal else [])]


def _no_folder(data: DataConfig) -> bool:
    return data.name == "folder" and data.path is None


def _point_of_flow(request: Asked, config: BaseRunConfig) -> Point:
    """Check the flow that a student inverts."""
    try:
        find_teacher(config.replace(flow=request.inverted))
    except (OSError, ValueError) as error:
        of = Path(ALL[request.preset]["flow"]).parts[1]
        trained = Asked(of, request.images).command(1)
        message = str(error) if request.flow else f"no flow in {request.inverted}, where the preset looks for it"
        return Point("flow", MISSING, message, f"train it:  {trained}  or give another with --flow")
    return Point("flow", ready.OK, str(request.inverted))


def _real(request: Asked, found: Planned, has_data: bool, scratch: Path) -> BaseRunConfig:
    """Return the configuration to train: that of `lab train`, or one with synthetic replacements of missing parts."""
    if not request.synthetic:
        if request.smoke:
            return found.config
        given = dict(**request.images._asdict(), settings=request.settings)
        if request.inverted is None:
            return configure(request.preset, **given)
        return configure_student(request.inverted, request.preset, **given)
    config = synthetic.make_weights(found.config, scratch / "weights")
    if not has_data:
        config = _on_noise(config, scratch / "pictures")
    if config.teacher is not None and not request.smoke:
        config = config.replace(flow=_flow_or_random(request, config, found.flow, scratch / "flow"))
    return config


def _on_noise(config: BaseRunConfig, folder: Path) -> BaseRunConfig:
    """Return the run with pictures of noise, in the size of the run's data or of its model."""
    d, m = config.data, config.model
    size = d.image_size or m.side
    channels = d.channels or (m.channels if m.codec is None else 3)
    path = synthetic.make_pictures(folder, m.num_classes, config.train.batch_size, size, channels == 1)
    given = dict(name="folder", path=path, image_size=size, channels=channels, limit=None)
    return config.replace(data={**d.model_dump(), **given})


def _flow_or_random(request: Asked, config: BaseRunConfig, flow: TarFlowConfig | None, folder: Path) -> str:
    """Return the path of the flow that a student inverts, or of one with random weights if it is missing."""
    try:
        find_teacher(config.replace(flow=request.inverted))
        return str(request.inverted)
    except (OSError, ValueError):
        return synthetic.make_flow(flow.replace(codec=config.model.codec), folder)


def _processes(request: Asked, device: Machine, batch: int) -> int:
    """Return the number of devices that share each batch: as requested, or all of this machine's if they divide it."""
    if request.processes is None:
        return device.count if batch % device.count == 0 else 1
    if batch % request.processes:
        raise ValueError(f"processes was {request.processes}; it must divide the batch of {batch} images")
    return request.processes


def _check(request: Asked, steps: int, images: int, seconds: int | float, out: Path | None) -> None:
    """Raise the errors of a request: numbers out of range, unknown names, missing data, and a folder that is not new."""
    as_named(request.preset, request.settings)
    data = request.images.data
    if data is not None and data not in NAMES and not Path(data).expanduser().exists():
        raise FileNotFoundError(f"--data was {data!r}, which does not exist; give {', '.join(NAMES[:2])}, or a folder")
    if request.price is not None and not (math.isfinite(request.price) and request.price >= 0):
        raise ValueError(f"price was {request.price}; give the price of one GPU for an hour, 0 or more")
    if steps < 1 or images < 0:
        raise ValueError(f"steps was {steps} and images {images}; give 1 or more steps, 0 or more images")
    if request.processes is not None and request.processes < 1:
        raise ValueError(f"processes was {request.processes}; give 1 or more")
    if not seconds > 0:
        raise ValueError(f"seconds was {seconds}; give more than 0")
    if request.flow is not None and request.inverted is None:
        raise ValueError(f"flow was {request.flow!r}; {request.preset} is a flow itself, so leave it out")
    if out is not None:
        check_new(out)


@contextlib.contextmanager
def _scratch(out: Path | None) -> Iterator[Path]:
    """Make a temporary folder on the disk of `out`, so that a part of it can be renamed to `out`; it is always deleted."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".rehearsal-" if out else "rehearsal-", dir=out.parent if out else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _own_cache(scratch: Path) -> Iterator[None]:
    """Inside, latents and tokens go to a separate cache folder, and the random weights of the rehearsal are found."""
    made = scratch / "weights"
    ours = {
        "LABCORE_WEIGHTS": str(made if made.is_dir() else weights_folder()),
        "LABCORE_CACHE": str(scratch / "cache"),
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _finite(value: int | float) -> float | None:
    return value if math.isfinite(value) else None
