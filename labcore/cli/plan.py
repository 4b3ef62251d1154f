"""`lab plan`: thin over labcore.plan."""

from __future__ import annotations

from typing import Annotated, Any

import typer

CPU = "cpu"


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the command."""
    app.command("plan")(plain_errors(plan))


def plan(
    preset: Annotated[str, typer.Argument(help="A preset; `lab presets` lists them.")],
    gpus: Annotated[int, typer.Option(help="GPUs that share each step's batch.")] = 8,
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
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images, as train.num_workers.")] = 8,
) -> None:
    """Estimate the cost of a preset: parameters, FLOPs, memory, and days on GPUs or this CPU. Nothing is downloaded."""
    from labcore.plan import GPUS, estimate, machine, on_disk, words
    from labcore.plan import plan as planned_run
    from labcore.rehearsal.planned import planned

    if kind is not None and kind not in (*GPUS, CPU):
        raise ValueError(f"kind was {kind!r}; there are {', '.join(GPUS)}, {CPU}")
    if gpus < 1:
        raise ValueError(f"gpus was {gpus}; give 1 or more")
    config, flow, images = planned(preset, set_ or (), data, image_size, channels)
    found = planned_run(config, flow)
    for line in words.sizes(found):
        typer.echo(line)
    on_kinds = {name: estimate(found, GPUS[name], gpus, efficiency) for name in GPUS if kind in (None, name)}
    for name, e in on_kinds.items():
        typer.echo(words.on_machines(f"{gpus} x {name:9s}", e))
    if kind in (None, CPU):
        here = machine(CPU)
        typer.echo(words.on_machines("this CPU     ", estimate(found, here.gpu, 1, efficiency)))
    if images is not None:
        fastest = max((e.tokens / found.tokens for e in on_kinds.values() if e.micro_batch), default=None)
        once = config.model.codec is not None
        typer.echo(_reading_speed(images, found.batch_size // gpus, workers, fastest, once))
    count, of = (words.IMAGENET, "ImageNet") if images is None else (len(images), f"the {len(images):,} given")
    for what, each in on_disk(config).items():
        typer.echo(f"{words.size(each)} of {what} on disk a training image: {words.size(each * count)} for {of}")
    if found.once:
        typer.echo(f"before the first step {found.once / 1e9:,.0f} GFLOPs a training image, once")
    if note := words.of_small_steps(list(on_kinds.values())):
        typer.echo(note)
    if kind in (None, CPU):
        typer.echo(words.peaks(here))
    peak = "bfloat16 peak" if found.half else "float32 peak, in which this preset trains"
    typer.echo(
        f"seconds assume {efficiency:.0%} of the vendor's {peak}; memory and seconds are not checked against a GPU"
    )


def _reading_speed(images: Any, batch: int, workers: int, wanted: float | None, once: bool) -> str:
    """How fast images are read here, beside the images a second that are wanted."""
    from labcore.data.throughput import images_per_second

    line = f"{images_per_second(images, batch, workers):,.0f} pictures a second are read here with {workers} workers"
    if once:
        return f"{line}, once: after that latents are, which are ready"
    if wanted is None:
        return line
    return f"{line}; the fastest above wants {wanted:,.0f}, each machine its share of them"
