"""`lab plan`: thin over labcore.plan."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any

import typer

CPU = "cpu"


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the command."""
    app.command("plan")(plain_errors(plan))


def plan(
    preset: Annotated[str, typer.Argument(help="A preset; `lab presets` lists them.")],
    gpus: Annotated[
        int | None,
        typer.Option(help="GPUs that share each step's batch; default 1 if that takes less than a day, else 8."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="h200, h100, a100, a100-40, l40s, rtx-4090, or cpu (this machine); default all.")
    ] = None,
    efficiency: Annotated[float, typer.Option(help="Assumed share of the peak that training reaches.")] = 0.4,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting, as in train.batch_size=512.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images as in lab train: plan for their size, and measure how many per second are read here."
        ),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels, as in lab train.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 RGB, as in lab train.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images; default the run's train.num_workers.")
    ] = None,
) -> None:
    """Estimate the cost of a preset: parameters, FLOPs, memory, and time on GPUs and this CPU. Nothing is downloaded."""
    from labcore.plan import GPUS, estimate, machine, on_disk, words
    from labcore.plan import plan as planned_run
    from labcore.rehearsal.planned import planned
    from labcore.runs.configure import DataOptions

    if kind is not None and kind not in (*GPUS, CPU):
        raise ValueError(f"kind was {kind!r}; there are {', '.join(GPUS)}, {CPU}")
    if gpus is not None and gpus < 1:
        raise ValueError(f"gpus was {gpus}; give 1 or more")
    config, flow, images = planned(preset, set_ or (), DataOptions(data, image_size, channels))
    found = planned_run(config, flow)
    for line in words.sizes(found):
        typer.echo(line)
    gpus = _gpus(found) if gpus is None else gpus
    on_kinds = {name: estimate(found, GPUS[name], gpus, efficiency) for name in GPUS if kind in (None, name)}
    for name, e in on_kinds.items():
        typer.echo(words.on_machines(f"{gpus} x {name:9s}", e))
    estimates = list(on_kinds.values())
    if kind in (None, CPU):
        here = machine(CPU)
        estimates.append(estimate(found, here.gpu, 1, efficiency))
        typer.echo(words.on_machines("this CPU     ", estimates[-1]))
    if images is not None:
        fastest = max((e.tokens / found.tokens for e in on_kinds.values() if e.micro_batch), default=None)
        once = config.model.codec is not None
        workers = config.train.num_workers if workers is None else workers
        typer.echo(_reading_speed(images, found.batch_size // gpus, workers, fastest, once))
    count, of = _training_images(config.data, images)
    for what, each in on_disk(config).items():
        typer.echo(f"{words.size(each)} of {what} on disk a training image: {words.size(each * count)} for {of}")
    if found.once:
        typer.echo(f"before the first step {words.gflops(found.once)} a training image, once")
    if note := words.of_small_steps(found, estimates):
        typer.echo(note)
    if on_kinds:
        peak = "bfloat16 peak" if found.half else "float32 peak, in which this preset trains"
        typer.echo(
            f"seconds on GPUs assume {efficiency:.0%} of the vendor's {peak}; only one step was checked against a GPU, an H200"
        )
    if kind in (None, CPU):
        typer.echo(f"{words.peaks(here)}, of which {efficiency:.0%} are assumed")
    typer.echo(
        f"to measure some steps here beside this plan:  {_rehearsal(preset, set_ or (), data, image_size, channels)}"
    )


def _gpus(found: Any) -> int:
    """One GPU for a run that an A100 finishes in a day; 8 for longer ones, as in papers, or fewer that divide the batch."""
    from labcore.plan import GPUS, estimate

    if estimate(found, GPUS["a100"], 1).days < 1:
        return 1
    return next(count for count in (8, 4, 2, 1) if found.batch_size % count == 0)


def _training_images(config: Any, images: Any) -> tuple[int, str]:
    """Number of training images, and which they are: those given, those of a data set that ships, else ImageNet's."""
    from labcore.data.datasets import SHIPPED, Data
    from labcore.plan import words

    if images is None and config.name in SHIPPED:
        images = Data.of(config).split("train")
    if images is None:
        return words.IMAGENET, "ImageNet"
    count = len(images) if config.limit is None else min(len(images), config.limit)
    return count, f"{count:,} training images"


def _rehearsal(
    preset: str, settings: Sequence[str], data: str | None, image_size: int | None, channels: int | None
) -> str:
    """The command line that trains some steps of the same run here."""
    options = {"--data": data, "--image-size": image_size, "--channels": channels}
    line = ["lab", "rehearse", preset, *(str(word) for pair in options.items() if pair[1] is not None for word in pair)]
    return shlex.join([*line, *(word for setting in settings for word in ("--set", setting))])


def _reading_speed(images: Any, batch: int, workers: int, wanted: float | None, once: bool) -> str:
    """Describe how fast images are read here, and how many images a second the training needs."""
    from labcore.data.throughput import images_per_second

    how = f"{workers} workers" if workers else "the training's own process (train.num_workers=0)"
    line = f"{images_per_second(images, batch, workers):,.0f} pictures a second are read here with {how}"
    if once:
        return f"{line}, once: all later steps read stored latents"
    if wanted is None:
        return line
    return f"{line}; the fastest GPUs above need {wanted:,.0f} in total, a share on each machine"
