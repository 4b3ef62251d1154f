"""The `lab` command: thin over the library. Every message a user can cause ends in what to do; nothing ends in a traceback."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Train, sample and measure transformer normalizing flows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MODEL_HELP = "A zoo name (fashion-tarflow), a run's folder, a checkpoint, a saved model, or a hub name owner/name."
Model = Annotated[str, typer.Argument(help=MODEL_HELP)]
Data = Annotated[
    str | None, typer.Option("--data", help="fashion-mnist-12k, fashion-mnist, or a folder of class folders.")
]


def plain_errors(command):
    """Print what a user can cause as one message, exit status 2; let real bugs show their traceback."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        warnings.showwarning = lambda message, *_: typer.echo(f"note: {message}", err=True)
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError, FloatingPointError) as error:
            typer.echo(f"lab: {_message(error)}", err=True)
            raise typer.Exit(2) from None

    return wrapped


def _message(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        lines = [
            f"{'.'.join(map(str, e['loc'])) or 'configuration'}: {e['msg']}, given {e['input']!r}"
            for e in error.errors()
        ]
        return "these settings are refused:\n  " + "\n  ".join(lines)
    lines = str(error).strip().splitlines()
    return lines[-1] if any(line.startswith("Traceback") for line in lines) else str(error)  # from a loader's worker


@app.command()
@plain_errors
def train(
    out: Annotated[Path, typer.Option(help="The run's folder. The same command again resumes what it holds.")],
    preset: Annotated[
        str, typer.Option(help="Where the settings start from: fashion-small or ml-tarflow-28.")
    ] = "fashion-small",
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with model, data and train, instead of a preset.")
    ] = None,
    data: Data = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels; folders need it.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 RGB.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, as in train.steps=100.")] = None,
    num_processes: Annotated[int, typer.Option(help="Processes on this machine, one device each.")] = 1,
) -> None:
    """Train a flow on images. SIGTERM or Ctrl-C saves; give the same command again to go on."""
    from labcore.runs.configure import configure
    from labcore.runs.training import run_training
    from labcore.train.launch import launch

    run = configure(preset, config, data, image_size, channels, set_ or ())
    if num_processes != 1:
        share = max(num_processes, 1) * run.train.accumulation
        if run.train.batch_size % share:
            raise ValueError(
                f"batch_size {run.train.batch_size} does not divide into {run.train.accumulation} micro-batches on "
                f"{num_processes} processes; give a multiple of {share}"
            )
        words = _without(sys.argv[1:], "--num-processes")
        raise typer.Exit(launch("labcore.cli", words, num_processes))
    result = run_training(run, out)
    if not result.finished:
        typer.echo(
            f"stopped and saved at step {result.step} of {run.train.steps}; give the same command again to go on"
        )
        raise typer.Exit(143)
    typer.echo(f"done: {result.step} steps. The model is {out / 'model'}; try  lab sample {out}")


@app.command()
@plain_errors
def sample(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for grid.png and images/.")] = Path("outputs/samples"),
    num: Annotated[int, typer.Option(help="How many images.", min=1, max=1_000_000)] = 40,
    classes: Annotated[str, typer.Option(help='"each" in turn, "none", or numbers like 3 or 0,5,9.')] = "each",
    guidance: Annotated[float, typer.Option(help="g in c + g (c - u); 0 is off.")] = 0.0,
    schedule: Annotated[str, typer.Option(help="Guidance along the tokens: constant or linear.")] = "constant",
    attn_temp: Annotated[float, typer.Option(help="Temperature of the unconditional branch.")] = 1.0,
    noise_std: Annotated[float | None, typer.Option(help="Denoising; default the training noise, 0 is off.")] = None,
    seed: Annotated[int, typer.Option(help="Image i is a function of seed and i.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 100,
) -> None:
    """Draw images: a PNG grid and a folder of single images."""
    import torch

    from labcore.data.transforms import save_png, tile
    from labcore.inverse.sample import sample as draw
    from labcore.runs.models import find_model
    from labcore.runs.training import check_writable

    flow = find_model(model).to("cuda" if torch.cuda.is_available() else "cpu")
    check_writable(out)
    if others := sorted(p.name for p in (out / "images").glob("*.png") if p.stem.isdecimal() and int(p.stem) >= num):
        raise ValueError(f"{out / 'images'} holds {others[0]} and more of an earlier call; give another --out")
    y = _labels(classes, num, flow.config.num_classes)
    images = draw(
        flow, num, y, guidance, noise_std, seed, batch_size, guidance_schedule=schedule, attn_temp=attn_temp
    ).cpu()
    columns = min(num, flow.config.num_classes if classes == "each" and flow.config.num_classes in range(2, 21) else 8)
    save_png(tile(images, columns), out / "grid.png", scale=2 if flow.config.image_size < 64 else 1)
    for i, image in enumerate(images):
        save_png(tile(image[None], 1), out / "images" / f"{i:05d}.png")
    typer.echo(f"{num} images in {out / 'images'}, all of them in {out / 'grid.png'}")


@app.command()
@plain_errors
def evaluate(
    model: Model,
    data: Data = "fashion-mnist-12k",
    path: Annotated[str | None, typer.Option(help="Folder with the files of fashion-mnist.")] = None,
    limit: Annotated[int | None, typer.Option(help="First images of the test split; default all.")] = None,
    bayes: Annotated[bool, typer.Option(help="Also classify by Bayes, one pass per class.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the record as JSON here.")] = None,
) -> None:
    """Likelihood of test images, with the unit that it deserves."""
    import torch

    from labcore.data import load
    from labcore.data.datasets import NAMES
    from labcore.evaluate import bayes_accuracy, likelihood
    from labcore.runs.models import find_model
    from labcore.runs.training import check_writable

    flow = find_model(model).to("cuda" if torch.cuda.is_available() else "cpu")
    name, where = (data, path) if data in NAMES else ("folder", data)
    size, channels = flow.config.image_size, flow.config.channels
    test = load(name, "test", where, size, channels)
    if flow.config.num_classes not in (0, test.num_classes):
        raise ValueError(
            f"{data} has {test.num_classes} classes and the model {flow.config.num_classes}; give the data it was trained on"
        )
    if out:
        check_writable(out.parent)
    record = likelihood(flow, test, limit=limit, seed=seed)
    typer.echo(f"likelihood  {record}")
    values: dict[str, Any] = {"model": model, "likelihood": record._asdict()}
    if bayes:
        accuracy = bayes_accuracy(flow, test, limit)
        typer.echo(f"Bayes       {accuracy}")
        values["bayes_accuracy"] = accuracy._asdict()
    if out:
        out.write_text(json.dumps(values, indent=2) + "\n")
        typer.echo(f"record in {out}")


@app.command()
def doctor() -> None:
    """Versions, device, and what is missing with how to get it."""
    from labcore.runs.doctor import report

    lines, missing = report()
    for name, value in lines:
        typer.echo(f"{name:24s} {value}")
    for what, remedy in missing:
        typer.echo(f"missing  {what}: {remedy}")
    typer.echo("nothing is missing" if not missing else f"{len(missing)} missing; the rest works without")


def _labels(classes: str, num: int, known: int):
    """Labels for `lab sample --classes`."""
    import torch

    if classes == "none" or (classes == "each" and not known):
        return None
    if classes == "each":
        return torch.arange(num) % known
    try:
        chosen = torch.tensor([int(word) for word in classes.split(",")])
    except ValueError:
        raise ValueError(f'classes was {classes!r}; write "each", "none", or numbers like 3 or 0,5,9') from None
    return chosen[torch.arange(num) % len(chosen)]


def _without(words: list[str], option: str) -> list[str]:
    """Command-line words without an option and its value."""
    kept, skip = [], False
    for word in words:
        if skip or word.startswith(f"{option}="):
            skip = False
        elif word == option:
            skip = True
        else:
            kept.append(word)
    return kept


if __name__ == "__main__":
    app()
