"""The `lab` command, a thin layer over the library. Messages about a user's errors say what to do, without a traceback."""

from __future__ import annotations

import functools
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from labcore.cli import cache, campaign, compare, draw, exporting, importing, init, plan, rehearse
from labcore.cli import data as data_command
from labcore.cli.command_group import Commands
from labcore.cli.draw import COMPILED_HELP, DenoisedBy, Model, Tf32, device
from labcore.cli.first_words import measured, say_first, settings_of_run
from labcore.presets import DEFAULT
from labcore.terminal import printable

app = typer.Typer(
    cls=Commands,
    help="Train, sample and measure transformer normalizing flows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="fashion-mnist-12k, fashion-mnist, emoji-32, emoji, or a folder of class folders. Default when a model "
        "is measured: the data that it was trained on.",
    ),
]
Crop = Annotated[
    str | None, typer.Option(help="How a folder's pictures are made square, as in training: fit (default) or adm.")
]
DataSettings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting of the images, as in data.test_share=0.2; may be repeated."),
]


def plain_errors(command):
    """Print an error that a user can cause as one message, with exit status 2; other errors show their traceback."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        warnings.showwarning = lambda message, *_: typer.echo(printable(f"note: {message}"), err=True)
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:  # the reader has closed the pipe, as `head` does: click ends the command quietly
            raise
        except (ValueError, OSError, FloatingPointError) as error:
            typer.echo(printable(f"lab: {_message(error)}"), err=True)
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
    out: Annotated[Path, typer.Option(help="The run's folder. The same command again resumes the run.")],
    preset: Annotated[
        str | None,
        typer.Option(help="The preset that the settings start from; `lab presets` lists them.", show_default=DEFAULT),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file instead of a preset, with model, data, train and align, or with flow and student."
        ),
    ] = None,
    data: Data = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels; required for a folder.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 RGB.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one setting, as in train.steps=100.")] = None,
    align: Annotated[
        str | None, typer.Option(help="R-REPA: forward, detach, reverse or reverse-literal; off removes a preset's.")
    ] = None,
    invert: Annotated[
        str | None, typer.Option(help="BiFlow: train a one-pass inverse of this flow (a name as in lab sample).")
    ] = None,
    num_processes: Annotated[int, typer.Option(help="Processes on this machine, one device each.")] = 1,
    nodes: Annotated[
        int | None, typer.Option(help="Number of machines; default NNODES, or SLURM_NNODES with MASTER_ADDR.")
    ] = None,
    node_rank: Annotated[
        int | None, typer.Option(help="Number of this machine, from 0; default NODE_RANK or SLURM_NODEID.")
    ] = None,
    rendezvous: Annotated[
        str | None, typer.Option(help="HOST:PORT of machine 0; default MASTER_ADDR:MASTER_PORT.")
    ] = None,
    previews: Annotated[bool, typer.Option(help="Write grids of samples during training.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not describe the run before it starts.")] = False,
) -> None:
    """Train a flow, or a flow's inverse, on images. SIGTERM or Ctrl-C saves; the same command again resumes."""
    from labcore.data.loaders import check_micro_batches
    from labcore.progress import table
    from labcore.runs.configure import DataOptions, configure_run
    from labcore.runs.opening import Estimating, opening
    from labcore.runs.train import run_training
    from labcore.train.launch import launch, nodes_of
    from labcore.train.log import usual_reporter

    run = configure_run(preset, config, DataOptions(data, image_size, channels), set_ or (), align, invert)
    machines = nodes_of(nodes, node_rank, rendezvous)
    if num_processes != 1 or machines.count != 1:
        check_micro_batches(run.train.batch_size, run.train.accumulation, max(num_processes, 1) * machines.count)
        words = sys.argv[1:]
        for option in ("--num-processes", "--nodes", "--node-rank", "--rendezvous"):
            words = _without(words, option)
        raise typer.Exit(launch("labcore.cli", words, num_processes, machines))
    if quiet:
        result = run_training(run, out, previews)
    else:
        origin = settings_of_run(preset, config, invert, set_ or ())
        describe = lambda train, test: say_first(table(opening(run, out, origin, train, test)))  # noqa: E731
        result = run_training(run, out, previews, Estimating(usual_reporter()), describe)
    if not result.finished:
        typer.echo(
            f"stopped and saved at step {result.step} of {run.train.steps}; give the same command again to resume"
        )
        raise typer.Exit(143)
    typer.echo(f"done: {result.step} steps. The model is {out / 'model'}; try  lab sample {out}")


@app.command()
@plain_errors
def evaluate(
    model: Model,
    metrics: Annotated[
        str,
        typer.Option(
            help="Comma-separated: likelihood, bayes, classify; fid, sfid, kid, is, precision, recall with Inception; the "
            "same with _efflite0 for the embedded extractor and with _classifier for the classifier that ships (grey images); "
            "power_pixels and variance_pixels without a network."
        ),
    ] = "likelihood,classify",
    num_samples: Annotated[
        int | None, typer.Option(help="Images to draw, if a metric needs samples.", min=1, max=1_000_000)
    ] = None,
    data: Data = None,
    path: Annotated[str | None, typer.Option(help="Where the files of fashion-mnist or the font of emoji are.")] = None,
    crop: Crop = None,
    set_: DataSettings = None,
    reference: Annotated[
        Path | None, typer.Option(help="File of `lab stats`; default: statistics of the data's train split.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Number of test images, evenly spread over the split; default all.", min=1)
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help='"data" (each class as often as in the training images), "each" (all classes in turn), "none", or names or '
            "numbers like cat or 0,5,9. Default data; each for a --reference."
        ),
    ] = None,
    guidance: Annotated[float, typer.Option(help="Guidance scale g in c + g (c - u); 0 is off.")] = 0.0,
    schedule: Annotated[str, typer.Option(help="Guidance along the tokens: constant or linear.")] = "constant",
    attn_temp: Annotated[float, typer.Option(help="Temperature of the unconditional branch.")] = 1.0,
    noise_std: Annotated[
        float | None, typer.Option(help="Noise level that denoising removes; default the training noise, 0 is off.")
    ] = None,
    denoising: DenoisedBy = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of the noise; image i depends only on seed and i.", min=0, max=2**32 - 1)
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="Images drawn at a time.")] = 100,
    compiled: Annotated[bool | None, typer.Option(help=COMPILED_HELP)] = None,
    num_processes: Annotated[int, typer.Option(help="Processes that share the drawing, one device each.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the record; a record of the same model is extended.")
    ] = None,
    tf32: Tf32 = False,
) -> None:
    """Measure a model. The same command again resumes: images and features are kept in the cache folder."""
    from labcore.data.class_names import class_numbers
    from labcore.evaluate.generate import Sampling
    from labcore.evaluate.session import EvaluationRequest, check_out, evaluate_model, metric_requests
    from labcore.progress import show_progress, table
    from labcore.runs.denoising import find_denoised
    from labcore.runs.own_data import source_of

    flow = find_denoised(model, denoising).to(device())
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    sampling = None
    if num_samples is not None:
        classes = classes or ("data" if reference is None else "each")
        sampling = Sampling(
            num=num_samples,
            classes=classes if classes in ("each", "none", "data") else tuple(class_numbers(classes, flow.config)),
            guidance=guidance,
            guidance_schedule=schedule,
            attn_temp=attn_temp,
            noise_std=noise_std,
            seed=seed,
            compiled=compiled,
            chunk=batch_size,
        )
    metric_requests(names, flow, sampling)
    if out:
        check_out(out, flow)
    source = source_of(model, flow.config, data, path, crop, set_ or ())
    _share(num_processes)
    say_first(measured(model, flow, source, limit))
    found: list[tuple[str, Any]] = []
    request = EvaluationRequest(names, sampling, reference, limit, seed, tf32, {"model": model})
    evaluate_model(flow, source, request, out, show_progress(), lambda name, value: found.append((name, value)))
    if found:
        typer.echo(printable(table(found)))
    if out and found:
        typer.echo(f"record in {out}")


@app.command()
@plain_errors
def stats(
    data: Annotated[
        str,
        typer.Argument(
            help="A data set's name, a folder, ADM's reference batch (.npz), or a model for its training data."
        ),
    ],
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels, as of the model; required for a folder.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="1 grey, 3 RGB; default as in the files.")] = None,
    path: Annotated[str | None, typer.Option(help="Where the files of fashion-mnist or the font of emoji are.")] = None,
    crop: Crop = None,
    set_: DataSettings = None,
    extractor: Annotated[str, typer.Option(help="inception, efflite0 or classifier.")] = "efflite0",
    num_processes: Annotated[int, typer.Option(help="Processes that share the work, one device each.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default in the cache folder, where lab evaluate finds it.")
    ] = None,
) -> None:
    """Compute reference statistics of the train split, and the scores of real test images against them."""
    from labcore import tf32
    from labcore.evaluate import fidelity
    from labcore.evaluate.adm import in_words, is_reference
    from labcore.evaluate.extractors import load_extractor
    from labcore.evaluate.references import reference_of, reference_of_batch
    from labcore.evaluate.statistics import file_name
    from labcore.files import cache_folder, check_file
    from labcore.progress import show_progress, table
    from labcore.runs.models import find_sampler
    from labcore.runs.own_data import data_of, is_model, named, with_options

    network = load_extractor(extractor).to(device())
    if is_reference(data):
        if any(given is not None for given in (image_size, channels, path, crop)) or set_ or num_processes != 1:
            raise ValueError(
                f"{data} is read unchanged, by one process; leave out all options except --extractor and --out"
            )
        with tf32.use(False):
            found = reference_of_batch(Path(data), network, out, show_progress())
        typer.echo(in_words(found, out))
        return
    source = data_of(data, find_sampler(data).config) if is_model(data) else named(data, path)
    source = with_options(source, dict(path=path, image_size=image_size, channels=channels, crop=crop), set_ or ())
    train = source.split("train")
    where = out or cache_folder() / "statistics" / file_name(train, network)
    check_file(where)
    _share(num_processes)
    with tf32.use(False):
        found = reference_of(source, network, where, show_progress())
    if few := fidelity.refused(network, found.about["n"]):
        typer.echo(f"note: {found.about['n']} images are too few for {', '.join(few)}, which will be refused", err=True)
    floor = found.about.get("floor")
    if floor:
        rows = [(f"{name}{network.suffix}", f"{value:.4g}") for name, value in floor["values"].items()]
        typer.echo(table([(f"{floor['n']:,} real test images", "score"), *rows]))
    typer.echo(f"statistics of {found.about['n']:,} images of {found.about['data']} in {where}")


@app.command()
@plain_errors
def probe(
    model: Model,
    data: Data = None,
    path: Annotated[str | None, typer.Option(help="Where the files of fashion-mnist or the font of emoji are.")] = None,
    crop: Crop = None,
    set_: DataSettings = None,
    sites: Annotated[str, typer.Option(help='"all", or pairs block.layer like 1.2,4.1')] = "all",
    limit: Annotated[
        int | None, typer.Option(help="Number of images of each split, evenly spread; default all.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the probe's weights and batches.")] = 0,
    num_processes: Annotated[int, typer.Option(help="Processes that share the features, one device each.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for probe.json and probe.png.")] = Path("outputs/probe"),
) -> None:
    """Train linear probes on the hidden features of each block, and compare with the training-free accuracy."""
    from labcore.data.class_names import matched
    from labcore.evaluate import training_free_accuracy
    from labcore.evaluate.accuracy import guessing
    from labcore.evaluate.hiddens import hidden_features, sites_of
    from labcore.evaluate.probe import probe_sites
    from labcore.files import check_file
    from labcore.jsonfile import write_json
    from labcore.latents import seen_by
    from labcore.processes import is_first_process
    from labcore.progress import show_progress, table
    from labcore.runs.models import find_model
    from labcore.runs.own_data import source_of
    from labcore.sites import parse_sites
    from labcore.spread import spread
    from labcore.viz import measures

    flow = find_model(model).to(device())
    chosen = sites_of(flow, None if sites == "all" else parse_sites(sites))
    source = source_of(model, flow.config, data, path, crop, set_ or ())
    pictures = [matched(flow.config, source.split(split)) for split in ("train", "test")]
    for name in ("probe.json", "probe.png"):
        check_file(out / name)
    _share(num_processes)
    say_first(measured(model, flow, source, limit))
    train, test = (seen_by(flow.config, spread(each, limit), flow.device) for each in pictures)
    progress = show_progress()
    if not is_first_process():
        for split in (train, test):
            hidden_features(flow, split, chosen, progress=progress)
        return
    report = probe_sites(flow, train, test, chosen, seed=seed, progress=progress)
    free = training_free_accuracy(flow, test, progress=progress) if flow.config.num_classes else None
    rows = [(f"block {site.block}, layer {site.layer}", site.accuracy) for site in report.sites]
    rows += [("training-free", free)] if free else []
    typer.echo(printable(table([*rows, ("guessing", guessing(test))])))
    write_json(out / "probe.json", {"model": model, **report.record(), "training_free": free and free._asdict()})
    measures.probe_by_site(report, free).savefig(out / "probe.png")
    typer.echo(f"record and figure in {out}")


@app.command()
def doctor() -> None:
    """Show versions, the device, and missing parts with instructions to get them."""
    from labcore.cli.doctor import report

    lines, missing = report()
    for name, value in lines:
        typer.echo(f"{name:24s} {value}")
    for what, remedy in missing:
        typer.echo(f"missing  {what}: {remedy}")
    typer.echo("nothing is missing" if not missing else f"{len(missing)} missing; the rest works without")


def _share(num_processes: int) -> None:
    """Start this command again in several processes and leave with their status; returns at once for one."""
    if num_processes != 1:
        from labcore.train.launch import launch

        raise typer.Exit(launch("labcore.cli", _without(sys.argv[1:], "--num-processes"), num_processes))


def _without(words: list[str], option: str) -> list[str]:
    """Command-line words without an option and its value."""
    remaining, skip = [], False
    for word in words:
        if skip or word.startswith(f"{option}="):
            skip = False
        elif word == option:
            skip = True
        else:
            remaining.append(word)
    return remaining


for group in (data_command, draw, compare, campaign, plan, rehearse, importing, exporting, cache, init):
    group.add_to(app, plain_errors)
