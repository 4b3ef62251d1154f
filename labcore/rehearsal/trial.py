"""Trial of a run at its full size on this machine's device: some timed training steps, and a few images.

Data, objective and loop are those of the full run, with one process's share of each batch. If the run stores latents or an
encoder's tokens on disk, only those of a few images are computed.
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from labcore.config import BaseRunConfig
from labcore.inverse.sample import sample
from labcore.kinds import kind_of
from labcore.latents import to_pixels
from labcore.memory import peak_of
from labcore.plan import on_disk
from labcore.plan.machine import device_kind
from labcore.runs.images import datasets
from labcore.runs.models import find_teacher
from labcore.runs.train import carry_out, initialised
from labcore.timing import seconds_of
from labcore.train import checkpoint
from labcore.train.faults import TooLittleMemory, is_out_of_memory
from labcore.train.loop import Hooks, TrainResult
from labcore.viz.class_labels import by_class
from labcore.viz.sheet import save_grid

WARM = 2
"""Number of first steps whose time does not count, if there are more; our choice."""
RUN, IMAGES = "run", "images.png"


class Trial(NamedTuple):
    """Measurements of a trial.

    Attributes:
        steps: number of steps that were done.
        batch_size: images per step on this device.
        seconds_per_step: median time of a step, without the first ones.
        first_step: seconds of the first step.
        memory: peak memory of the training in bytes; None if the system does not report it.
        precision: number format of the training.
        drawn: number of drawn images; 0 if there was no time.
        seconds_per_image: seconds for drawing all images together, divided by their number; None if none was drawn.
        undrawn: the reason if images were requested and not drawn; else None.
    """

    steps: int
    batch_size: int
    seconds_per_step: float
    first_step: float
    memory: int | None
    precision: str
    drawn: int = 0
    seconds_per_image: float | None = None
    undrawn: str | None = None


class OutOfMemory(Exception):
    """The device had too little memory for the trial. doing: "training" or "drawing"."""

    def __init__(self, doing: str):
        super().__init__(f"out of memory while {doing}")
        self.doing = doing


def run_trial(
    config: BaseRunConfig, folder: Path, steps: int, images: int, seconds: int | float, processes: int = 1
) -> Trial:
    """Train `steps` steps in `folder`, with one process's share of each batch, and draw `images` images.

    seconds: the training ends after about this time, and then no images are drawn. processes: number of processes that share a
    batch. Raises OutOfMemory; as `run_training` for a run that cannot be trained; and KeyboardInterrupt if the training was
    interrupted.
    """
    began = time.perf_counter()
    config = shortened(config, steps, processes)
    clock = _Clock(began + seconds)
    with _memory("training"):
        result, memory = _train(config, folder / RUN, clock)
    if not result.finished and not clock.asked:
        raise KeyboardInterrupt
    found = Trial(
        result.step,
        config.train.batch_size,
        clock.seconds_per_step,
        clock.first,
        memory,
        checkpoint.latest(folder / RUN).state["precision"],
    )
    if not images:
        return found
    if not result.finished or clock.over:
        return found._replace(undrawn=f"the time limit of {seconds:g} s was reached")
    try:
        with _memory("drawing"):
            seconds_drawing = seconds_of(lambda: _draw(result.ema, images, folder / IMAGES))
    except ValueError as error:  # images are not finite; the measurements of the training are valid
        return found._replace(undrawn=str(error))
    return found._replace(drawn=images, seconds_per_image=seconds_drawing / images)


def shortened(config: BaseRunConfig, steps: int, processes: int = 1) -> BaseRunConfig:
    """Return the run with this number of steps, one process's share of the batch, and so few images that it starts quickly."""
    t = config.train
    batch = t.batch_size // processes
    train = t.replace(
        steps=steps,
        batch_size=batch,
        warmup_steps=min(t.warmup_steps, steps // 4),
        log_every=1,
        eval_every=steps,
        save_every=steps,
        keep=1,
    )
    data = config.data
    if on_disk(config) or config.model.codec is not None:
        data = data.replace(limit=min(data.limit or batch, max(batch, 2)))
    return config.replace(train=train.model_dump(), data=data.model_dump())


class _Clock:
    """Times at which the steps ended; requests the training to stop before the time limit."""

    def __init__(self, until: float):
        self.until, self.asked, self.ends = until, False, [0.0]

    def start(self) -> None:
        self.ends = [time.perf_counter()]

    def tick(self, *_: Any) -> dict[str, float]:
        """Note the end of a step; a hook of the loop's log records, which wait for the device."""
        self.ends.append(time.perf_counter())
        one_more = 2 * self.ends[-1] - self.ends[-2]  # the loop notices a signal only after the next step
        if one_more > self.until and threading.current_thread() is threading.main_thread():
            self.asked = True
            signal.raise_signal(signal.SIGTERM)  # the loop then saves and returns
        return {}

    @property
    def over(self) -> bool:
        return time.perf_counter() > self.until

    @property
    def first(self) -> float:
        return self.ends[1] - self.ends[0]

    @property
    def seconds_per_step(self) -> float:
        seconds = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return statistics.median(seconds[min(WARM, len(seconds) - 1) :])


def _train(config: BaseRunConfig, folder: Path, clock: _Clock) -> tuple[TrainResult, int | None]:
    """Train; return the result, and the peak memory in bytes."""
    kind, found = kind_of(config), []
    images, _ = datasets(config)
    objective = kind.objective(config, images, find_teacher(config))

    def go() -> None:
        model = initialised(kind.model, config)
        clock.start()
        with contextlib.redirect_stdout(None):  # without a terminal the loop prints a line for each step
            found.append(carry_out(config, folder, model, objective, images, Hooks(diagnose=clock.tick)))

    memory = _peak(go)
    return found[0], memory


def _peak(go: Callable[[], None]) -> int | None:
    """Return the peak memory of a call in bytes: the GPU's, or this process's on a CPU; None if it is not reported."""
    kind = device_kind()
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
        go()
        return torch.cuda.max_memory_allocated()
    if kind == "mps":
        go()
        return torch.mps.driver_allocated_memory()
    done: list[bool] = []
    memory = peak_of(lambda: (go(), done.append(True)))
    if not done:  # `peak_of` called nothing, because this system does not report memory
        go()
    return memory


def _draw(model: Any, images: int, path: Path) -> None:
    """Draw images of the classes in turn and write them as one picture."""
    classes = model.config.num_classes
    y = torch.arange(images) % classes if classes else None
    pictures = to_pixels(model, sample(model, images, y, seed=0))
    names = by_class(y, min(images, 4), model.config.class_names)
    save_grid(pictures.cpu(), min(images, 4), path, scale=2 if pictures.shape[-1] < 64 else 1, **names)


@contextlib.contextmanager
def _memory(doing: str) -> Iterator[None]:
    """Turn the out-of-memory errors of torch and Python into OutOfMemory."""
    try:
        yield
    except Exception as error:
        if isinstance(error, TooLittleMemory) or is_out_of_memory(error):
            raise OutOfMemory(doing) from error
        raise
