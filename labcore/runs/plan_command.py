"""`lab plan`: thin over labcore.plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from labcore.config import InversionRunConfig, RunConfig
    from labcore.plan import Estimate


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the command."""
    app.command("plan")(plain_errors(plan))


def plan(
    preset: Annotated[str, typer.Argument(help="A preset; `lab presets` lists them.")],
    gpus: Annotated[int, typer.Option(help="GPUs that share each step's batch.")] = 8,
    kind: Annotated[str | None, typer.Option(help="h200, h100, a100, a100-40, l40s or rtx-4090; default all.")] = None,
    efficiency: Annotated[float, typer.Option(help="Share of the vendor's peak; an assumption.")] = 0.4,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, as in train.batch_size=512.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Pictures, as of lab train: how many a second are read here is measured too.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read them, as train.num_workers.")] = 8,
) -> None:
    """What a preset will take: parameters, FLOPs, memory, and days on GPUs. Nothing is computed or downloaded."""
    from labcore.plan import GPUS, estimate, on_disk
    from labcore.plan import plan as planned
    from labcore.runs.configure import as_named

    if kind is not None and kind not in GPUS:
        raise ValueError(f"kind was {kind!r}; there are {', '.join(GPUS)}")
    if gpus < 1:
        raise ValueError(f"gpus was {gpus}; give 1 or more")
    config, flow = as_named(preset, set_ or ())
    pictures = None if data is None else _pictures(data, config)
    found = planned(config, flow)
    typer.echo(f"{found.parameters:,} parameters ({found.trained:,} trained), {found.tokens:,} tokens an image")
    typer.echo(
        f"{found.flops / 1e9:,.1f} GFLOPs and {found.activations / 1e6:,.0f} MB of activations an image and step"
        + (f", {found.frozen / 1e9:,.1f} GFLOPs of them in frozen networks" if found.frozen else "")
    )
    typer.echo(f"{found.held / 1e9:,.1f} GB of weights, gradients, AdamW and averaged weights on each GPU")
    typer.echo(f"{found.steps:,} steps of {found.batch_size:,} images")
    on_kinds = {name: estimate(found, GPUS[name], gpus, efficiency) for name in ([kind] if kind else GPUS)}
    for name, e in on_kinds.items():
        typer.echo(_told_of_kind(f"{gpus} x {name:9s}", e))
    if pictures is not None:
        fastest = max((e.tokens / found.tokens for e in on_kinds.values() if e.micro_batch), default=None)
        once = config.model.codec is not None
        typer.echo(_told_of_reading(pictures, found.batch_size // gpus, workers, fastest, once))
    for what, size in on_disk(config).items():
        typer.echo(
            f"{size / 1e3:,.1f} kB of {what} on disk a training image: {size * 1_281_167 / 1e9:,.0f} GB for ImageNet"
        )
    if found.once:
        typer.echo(f"before the first step {found.once / 1e9:,.0f} GFLOPs a training image, once")
    peak = "bfloat16 peak" if found.half else "float32 peak, in which this preset trains"
    typer.echo(
        f"seconds assume {efficiency:.0%} of the vendor's {peak}; memory and seconds are not checked against a GPU"
    )


def _told_of_kind(who: str, e: Estimate) -> str:
    """What a plan says of so many GPUs of a kind."""
    if not e.micro_batch:
        return f"{who} too small: one image takes {e.memory / 1e9:,.0f} GB"
    again = f" (train.accumulation={e.accumulation})" if e.accumulation > 1 else ""
    return (
        f"{who} {e.duration:>12s}, {e.seconds_per_step:.3g} s a step, {e.tokens:,.0f} tokens/s, "
        f"{e.micro_batch} images at a time in {e.memory / 1e9:.0f} GB{again}"
    )


def _pictures(data: str, config: RunConfig | InversionRunConfig) -> Any:
    """Pictures of the words of the command line, at the size of a configuration."""
    from labcore.data import load
    from labcore.data.datasets import NAMES

    d = config.data
    named = dict(name=data) if data in NAMES else dict(name="folder", path=data, crop=d.crop)
    return load(split="train", image_size=d.image_size or config.model.image_size, channels=d.channels, **named)


def _told_of_reading(pictures: Any, batch: int, workers: int, wanted: float | None, once: bool) -> str:
    """How fast pictures are read here, beside the images a second that are wanted."""
    from labcore.data.throughput import images_per_second

    told = f"{images_per_second(pictures, batch, workers):,.0f} pictures a second are read here with {workers} workers"
    if once:
        return f"{told}, once: after that latents are, which are ready"
    return told if wanted is None else f"{told}; the fastest above wants {wanted:,.0f}, each machine its share of them"
