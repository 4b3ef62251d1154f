"""A rehearsal of a run of full size: what it needs, its plan, and some steps and images of it on the machine at hand.

Points are looked at in order, and all that is missing is reported together before anything is trained. What is measured
then stands beside the plan, with the days and the price of the whole run and the command that starts it.
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
from labcore.rehearsal import words as told
from labcore.rehearsal.planned import Planned, chosen
from labcore.rehearsal.ready import LATER, MISSING, RANDOM, Point
from labcore.rehearsal.trial import OutOfMemory, Trial, run_trial
from labcore.runs.configure import as_named, configure, configure_student
from labcore.runs.folder import check_new
from labcore.runs.models import find_model, find_teacher

RECORD = "rehearsal.json"
Say = Callable[[str], None]


class Asked(NamedTuple):
    """What is rehearsed: a preset and what `lab train` takes besides.

    flow: what a learned inverse inverts, None for the place that its preset names. smoke: at the preset's smoke size.
    synthetic: random images and weights for what is missing. processes: that share each batch, None for the GPUs that are
    here. price: of one of their GPUs for an hour, in any currency.
    """

    preset: str
    data: str | None = None
    flow: str | None = None
    image_size: int | None = None
    channels: int | None = None
    settings: tuple[str, ...] = ()
    smoke: bool = False
    synthetic: bool = False
    processes: int | None = None
    price: float | None = None

    def command(self, processes: int) -> str:
        """The command line that starts the real run."""
        line = ["lab", "train", "--preset", self.preset]
        needs_folder = as_named(self.preset, self.settings)[0].data.name == "folder"
        options = {
            "--data": self.data or ("IMAGE_FOLDER" if needs_folder else None),
            "--image-size": self.image_size,
            "--channels": self.channels,
            "--invert": self.inverted,
        }
        line += [str(word) for pair in options.items() if pair[1] is not None for word in pair]
        line += [word for setting in self.settings for word in ("--set", setting)]
        line += ["--num-processes", str(processes)] if processes > 1 else []
        return shlex.join([*line, "--out", f"runs/{self.preset}"])

    @property
    def inverted(self) -> str | None:
        """The flow under a learned inverse; None for a flow."""
        named = ALL.get(self.preset, {}).get("flow")
        return None if named is None else self.flow or named


class Rehearsal(NamedTuple):
    """What a rehearsal found. problem: why there is no trial where nothing was missing; fits: what would do instead."""

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
        """What the real run needs, and the rehearsal did without."""
        return [point for point in self.points if point.status in (RANDOM, LATER)]

    @property
    def days(self) -> float | None:
        """Days of all steps by the measured time of one, without evaluations and checkpoints; None without a trial."""
        return None if self.trial is None else self.plan.steps * self.trial.seconds_per_step / 86_400

    @property
    def device_hours(self) -> float | None:
        """Hours of all devices together."""
        return None if self.days is None else 24 * self.days * self.processes

    @property
    def price(self) -> float | None:
        """Of the whole run; None without a price an hour or a trial."""
        return None if self.asked.price is None or self.days is None else self.asked.price * self.device_hours

    def record(self) -> dict[str, Any]:
        """JSON values."""
        there = {name: value for name, value in self.there._asdict().items() if name != "gpu"}
        whole = {"days": self.days, "device_hours": self.device_hours, "price": self.price}
        return {
            **{name: value for name, value in self.asked._asdict().items() if name not in ("processes", "price")},
            "device": {**there, "flops_per_second": self.there.gpu.peak, "memory": _finite(self.there.gpu.memory)},
            "processes": self.processes,
            "price_per_hour": self.asked.price,
            "points": [point._asdict() for point in self.points],
            "plan": {**self.plan._asdict(), **self.expected._asdict()},
            "measured": None if self.trial is None else self.trial._asdict(),
            "whole_run": None if self.trial is None else whole,
            "problem": self.problem,
            "fits": list(self.fits),
            "command": self.command,
        }


def rehearse(
    asked: Asked,
    steps: int = 20,
    images: int = 4,
    seconds: int | float = 600.0,
    out: Path | None = None,
    json_file: Path | None = None,
    say: Say = print,
) -> Rehearsal:
    """Walk through a run: points, plan, `steps` steps and `images` images within about `seconds`, and the whole run by these.

    out: a new folder for the run, the images and rehearsal.json, there only where the trial came to its end; None keeps
    nothing. json_file: the same record, whatever happened. say takes each line. Raises ValueError for what cannot be asked
    and OSError where a file cannot be written.
    """
    _check(asked, steps, images, seconds, out)
    if json_file is not None:
        check_file(json_file)
    with _scratch(out) as scratch:
        found = _walk(asked, steps, images, seconds, scratch, out, say)
        if json_file is not None:
            write_json(json_file, found.record())
        if out is not None and found.trial is not None:
            write_json(scratch / "kept" / RECORD, found.record())
            if out.exists():
                out.rmdir()
            os.replace(scratch / "kept", out)
    return found


def _walk(
    asked: Asked, steps: int, images: int, seconds: int | float, scratch: Path, out: Path | None, say: Say
) -> Rehearsal:
    there = machine()
    untested = ", untested" if there.kind == "mps" else ""
    size = "at its smoke size " if asked.smoke else ""
    say(f"rehearsal of {asked.preset} {size}on {there.name}{untested}\n")
    read = cache(lambda data, split: Data.of(data).split(split))
    found = _planned(asked, scratch, read)
    processes = _processes(asked, there, found.config.train.batch_size)
    points, given = _points(asked, found.config, read, say)
    plan = plan_of(found.config, found.flow)
    for point in _points_of_disk(asked, found.config, plan, given, scratch):
        told.point(point, say)
        points.append(point)
    expected = estimate(plan, there.gpu, processes)
    told.plan(plan, there, expected, processes, ready.count_of(found.config, given), say)
    micro = fitting.micro_batch(found.config, processes)
    result = Rehearsal(asked, there, processes, asked.command(processes), points, plan, expected, micro)
    if result.missing:
        told.missing(result, say)
        return result
    if problem := fitting.too_large(found.config, plan, there, expected, processes, seconds):
        return _told_of_problem(result, found, problem, False, say)
    config = _real(asked, found, given is not None, scratch)
    (scratch / "kept").mkdir()
    say(f"\ntraining {steps} steps of {plan.batch_size // processes} images ...")
    try:
        with _own_cache(scratch):
            trial = run_trial(config, scratch / "kept", steps, images, seconds, processes)
    except OutOfMemory as error:
        return _told_of_problem(result, found, str(error), error.doing == "training", say)
    result = result._replace(trial=trial)
    told.measured(result, say)
    return result


def _told_of_problem(result: Rehearsal, found: Planned, problem: str, tried: bool, say: Say) -> Rehearsal:
    """The rehearsal with what would fit, after saying so. tried: training at this size was out of memory."""
    fits = fitting.what_fits(found.config, found.flow, result.plan, result.there, result.processes, tried)
    result = result._replace(problem=problem, fits=tuple(fits))
    told.problem(result, say)
    return result


def _planned(asked: Asked, scratch: Path, read: Callable[[DataConfig, str], Dataset]) -> Planned:
    """The run that is planned: with the sizes of the images where these can be read."""
    if asked.smoke:
        _, flow = as_named(asked.preset, asked.settings)
        with _own_cache(scratch), contextlib.redirect_stdout(None):
            config = ready_to_train(asked.preset, scratch, settings=asked.settings, small=True, show=lambda line: None)
        return Planned(config, find_teacher(config).config if flow is not None else None)
    if (inverse := _of_its_flow(asked)) is not None:
        return inverse
    found = chosen(asked.preset, asked.settings, asked.data, asked.image_size, asked.channels)
    if _no_folder(found.config.data) or (asked.data, asked.image_size, asked.channels) == (None, None, None):
        return found
    try:
        images = read(found.config.data, "train")
    except (ValueError, OSError, ImportError):  # which the point of the data says
        return found
    return found.following(images, asked.settings)


def _of_its_flow(asked: Asked) -> Planned | None:
    """A learned inverse of a flow that is here, whose sizes and data it follows; None for any other run."""
    if asked.inverted is None:
        return None
    given = dict(data=asked.data, image_size=asked.image_size, channels=asked.channels, settings=asked.settings)
    try:
        flow = find_model(asked.inverted).config
        return Planned(configure_student(asked.inverted, asked.preset, **given), flow)
    except (OSError, ValueError):  # which the points of the flow, the data or the weights say
        return None


def _points(
    asked: Asked, config: BaseRunConfig, read: Callable[[DataConfig, str], Dataset], say: Say
) -> tuple[list[Point], Dataset | None]:
    """Points of data and weights, each said, and the training images, None where they cannot be used."""
    d = config.data
    nowhere = f"{asked.preset} trains on a folder of images, and none was given" if _no_folder(d) else None
    data, images = ready.of_data(config, lambda split: read(d, split), nowhere)
    inception = not asked.smoke and asked.preset not in SMALL and d.name == "folder"
    points = [data, *ready.of_weights(weights_needed(config, inception))]
    if asked.inverted is not None and not asked.smoke:
        points.append(_point_of_flow(asked, config))
    points = [point.done_without() for point in points] if asked.synthetic else points
    for point in points:
        told.point(point, say)
    return points, images


def _points_of_disk(
    asked: Asked, config: BaseRunConfig, plan: Plan, images: Dataset | None, scratch: Path
) -> list[Point]:
    """Room for the run, and a second point where there is none for the rehearsal."""
    whole, short = ready.of_disk(config, plan, images, Path("runs")), ready.room_for_rehearsal(plan, scratch)
    return [whole.done_without() if asked.synthetic else whole, *([short] if short else [])]


def _no_folder(data: DataConfig) -> bool:
    return data.name == "folder" and data.path is None


def _point_of_flow(asked: Asked, config: BaseRunConfig) -> Point:
    """The flow under a learned inverse."""
    try:
        find_teacher(config.replace(flow=asked.inverted))
    except (OSError, ValueError) as error:
        of = Path(ALL[asked.preset]["flow"]).parts[1]
        trained = Asked(of, asked.data, image_size=asked.image_size, channels=asked.channels).command(1)
        told = str(error) if asked.flow else f"no flow in {asked.inverted}, where the preset looks for it"
        return Point("flow", MISSING, told, f"train it:  {trained}  or give another by --flow")
    return Point("flow", ready.OK, str(asked.inverted))


def _real(asked: Asked, found: Planned, has_data: bool, scratch: Path) -> BaseRunConfig:
    """The configuration to be trained: that of `lab train`, or, where things are missing, one that stand-ins are made for."""
    if not asked.synthetic:
        if asked.smoke:
            return found.config
        given = dict(data=asked.data, image_size=asked.image_size, channels=asked.channels, settings=asked.settings)
        if asked.inverted is None:
            return configure(asked.preset, **given)
        return configure_student(asked.inverted, asked.preset, **given)
    config = synthetic.make_weights(found.config, scratch / "weights")
    if not has_data:
        config = _on_noise(config, scratch / "pictures")
    if config.teacher is not None and not asked.smoke:
        config = config.replace(flow=_flow_or_random(asked, config, found.flow, scratch / "flow"))
    return config


def _on_noise(config: BaseRunConfig, folder: Path) -> BaseRunConfig:
    """The run on pictures of noise, of the size that it has or its model wants."""
    d, m = config.data, config.model
    size = d.image_size or m.side
    channels = d.channels or (m.channels if m.codec is None else 3)
    path = synthetic.make_pictures(folder, m.num_classes, config.train.batch_size, size, channels == 1)
    given = dict(name="folder", path=path, image_size=size, channels=channels, limit=None)
    return config.replace(data={**d.model_dump(), **given})


def _flow_or_random(asked: Asked, config: BaseRunConfig, flow: TarFlowConfig | None, folder: Path) -> str:
    """The flow that a learned inverse inverts, or one of random weights where it is missing."""
    try:
        find_teacher(config.replace(flow=asked.inverted))
        return str(asked.inverted)
    except (OSError, ValueError):
        return synthetic.make_flow(flow.replace(codec=config.model.codec), folder)


def _processes(asked: Asked, there: Machine, batch: int) -> int:
    """Devices that share each batch: as asked, or all GPUs that are here where they divide it."""
    if asked.processes is None:
        return there.count if batch % there.count == 0 else 1
    if batch % asked.processes:
        raise ValueError(f"processes was {asked.processes}; it must divide the batch of {batch} images")
    return asked.processes


def _check(asked: Asked, steps: int, images: int, seconds: int | float, out: Path | None) -> None:
    """ValueError for numbers that cannot be, and for a folder that is not new."""
    as_named(asked.preset, asked.settings)
    if asked.data is not None and asked.data not in NAMES and not Path(asked.data).expanduser().exists():
        raise FileNotFoundError(
            f"--data was {asked.data!r}, which does not exist; give {', '.join(NAMES[:2])}, or a folder"
        )
    if asked.price is not None and not (math.isfinite(asked.price) and asked.price >= 0):
        raise ValueError(f"price was {asked.price}; give what one GPU costs in an hour, 0 or more")
    if steps < 1 or images < 0:
        raise ValueError(f"steps was {steps} and images {images}; give 1 or more steps, 0 or more images")
    if asked.processes is not None and asked.processes < 1:
        raise ValueError(f"processes was {asked.processes}; give 1 or more")
    if not seconds > 0:
        raise ValueError(f"seconds was {seconds}; give more than 0")
    if asked.flow is not None and asked.inverted is None:
        raise ValueError(f"flow was {asked.flow!r}; {asked.preset} is a flow itself, so leave it out")
    if out is not None:
        check_new(out)


@contextlib.contextmanager
def _scratch(out: Path | None) -> Iterator[Path]:
    """A folder for what is made, beside `out` so that it can become that; gone at the end, whatever happens."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".rehearsal-" if out else "rehearsal-", dir=out.parent if out else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _own_cache(scratch: Path) -> Iterator[None]:
    """Latents and tokens of the rehearsal go to a cache folder of its own, and its random weights are found."""
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
