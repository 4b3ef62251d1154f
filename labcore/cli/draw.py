"""`lab sample`, `lab calibrate` and `lab bench`: thin over labcore.inverse and labcore.experiments.bench."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from labcore.config import TokensConfig

SETTINGS = "settings.json"
"""Name of the file next to the images of `lab sample`, with the model's hash and all settings that determine the images."""
MODEL_HELP = "A zoo name (fashion-tarflow), a run's folder, a checkpoint, a saved model, or a hub name owner/name."
COMPILED_HELP = (
    "Compute single tokens with compiled code. Default: the choice of a calibration, else C code on a CPU and a recorded "
    "CUDA graph on CUDA."
)
Model = Annotated[str, typer.Argument(help=MODEL_HELP)]
DENOISING_HELP = "For a student without a denoising block: score (of the flow that it inverts) or none (default)."
DenoisedBy = Annotated[str | None, typer.Option(help=DENOISING_HELP)]
Tf32 = Annotated[bool, typer.Option(help="Use TensorFloat-32 for float32 products and convolutions on a GPU.")]


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the commands."""
    app.command("sample")(plain_errors(sample))
    app.command("calibrate")(plain_errors(calibrate))
    app.command("bench")(plain_errors(bench))


def sample(
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for grid.png and images/. Default: one in outputs/samples."),
    ] = None,
    num: Annotated[int, typer.Option(help="Number of images.", min=1, max=1_000_000)] = 40,
    classes: Annotated[
        str, typer.Option(help='"each" (all classes in turn), "none", or names or numbers like cat or 0,5,9.')
    ] = "each",
    guidance: Annotated[float, typer.Option(help="Guidance scale g in c + g (c - u); 0 is off.")] = 0.0,
    denoiser_guidance: Annotated[
        float | None, typer.Option(help="Guidance scale of a student's denoising block; default as --guidance.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="Guidance along the tokens: constant or linear.")] = "constant",
    attn_temp: Annotated[float, typer.Option(help="Temperature of the unconditional branch.")] = 1.0,
    noise_std: Annotated[
        float | None, typer.Option(help="Noise level that denoising removes; default the training noise, 0 is off.")
    ] = None,
    denoising: DenoisedBy = None,
    seed: Annotated[int, typer.Option(help="Random seed; image i depends only on seed and i.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images at a time.", min=1)] = 100,
    solver: Annotated[
        str, typer.Option(help="sequential, jacobi, gs-jacobi, or auto: the choice of `lab calibrate`.")
    ] = "sequential",
    tolerance: Annotated[
        float | None,
        typer.Option(help="A solver stops when a sweep changes less. Default: exact, or the calibration's."),
    ] = None,
    compiled: Annotated[bool | None, typer.Option(help=COMPILED_HELP)] = None,
    labels: Annotated[bool, typer.Option(help="Write class names into grid.png; single images have none.")] = True,
    tf32: Tf32 = False,
) -> None:
    """Draw images: a PNG grid and a folder of single images. Images of another model or other settings are not overwritten."""
    from labcore import tf32 as tf32_switch
    from labcore.biflow.cfg import per_state
    from labcore.data.transforms import save_png, tile
    from labcore.files import check_writable
    from labcore.inverse.sample import sample as draw
    from labcore.jsonfile import write_json
    from labcore.latents import pixel_shape, to_pixels
    from labcore.progress import show_progress
    from labcore.provenance import weights_hash
    from labcore.runs.denoising import find_denoised
    from labcore.runs.models import solver_settings
    from labcore.terminal import printable
    from labcore.viz.class_labels import by_class
    from labcore.viz.sheet import save_grid
    from labcore.viz.words import grid_in_words

    flow = find_denoised(model, denoising).to(device())
    settings = dict(classes=classes, guidance=guidance, denoiser_guidance=denoiser_guidance, schedule=schedule)
    settings |= dict(attn_temp=attn_temp, noise_std=noise_std, seed=seed, solver=solver, tolerance=tolerance)
    settings |= dict(model=weights_hash(flow)) | ({"tf32": True} if tf32 and flow.device.type == "cuda" else {})
    if denoising == "score":
        settings["denoised_by"] = flow.denoised_by()
    out = samples_folder(model, settings) if out is None else out
    check_writable(out)
    claim_images(out, settings)
    pixel_shape(flow.config)  # a missing autoencoder is an error now, before images are drawn
    if others := sorted(p.name for p in (out / "images").glob("*.png") if p.stem.isdecimal() and int(p.stem) >= num):
        raise ValueError(f"{out / 'images'} has {others[0]} and other images of an earlier call; give another --out")
    y = class_labels(classes, num, flow.config)
    g = guidance if denoiser_guidance is None else per_state(guidance, denoiser_guidance, flow.config)
    how = solver_settings(model, flow, solver, tolerance, min(batch_size, num), guidance != 0)
    if compiled is not None:
        how["compiled"] = compiled
    bar = show_progress()
    with tf32_switch.use(tf32):
        drawn = draw(
            flow,
            num,
            y,
            g,
            noise_std,
            seed,
            batch_size,
            guidance_schedule=schedule,
            attn_temp=attn_temp,
            progress=bar,
            **how,
        )
        images = to_pixels(flow, drawn).cpu()
    write_json(out / SETTINGS, settings)
    columns = min(num, flow.config.num_classes if classes == "each" and flow.config.num_classes in range(2, 21) else 8)
    names = by_class(y, columns, flow.config.class_names)
    scale = 2 if max(pixel_shape(flow.config)) < 64 else 1
    save_grid(images, columns, out / "grid.png", scale, **(names if labels else {}))
    for i, image in enumerate(images):
        save_png(tile(image[None], 1), out / "images" / f"{i:05d}.png")
    if names:
        typer.echo(printable(f"classes of the grid: {grid_in_words(**names)}"))
    typer.echo(f"{num} images in {out / 'images'}, all of them in {out / 'grid.png'}")


def samples_folder(model: str, settings: dict[str, Any]) -> Path:
    """Return the default folder of images: outputs/samples/NAME-DIGITS, where the digits are a hash of model and settings."""
    from labcore.files import sha256_of

    return Path("outputs/samples") / f"{Path(model).name or 'model'}-{sha256_of(settings)[:8]}"


def claim_images(out: Path, settings: dict[str, Any]) -> None:
    """Claim the folder; ValueError if it has images of another model, of other settings, or of an unknown origin."""
    if not any((out / "images").glob("*.png")) and not (out / "grid.png").exists():
        return
    from labcore.jsonfile import read_json

    try:
        found = read_json(out / SETTINGS)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{out} holds images, but no {SETTINGS} that names their model; give another --out, or remove the folder"
        )
    if other := sorted(name for name in {*found, *settings} if found.get(name) != settings.get(name)):
        raise ValueError(
            f"{out} holds images of another call ({', '.join(other)} differ); give another --out, or remove the folder"
        )


def calibrate(
    model: Model,
    batch_size: Annotated[
        int, typer.Option(help="Number of images at a time to calibrate for.", min=1, max=10_000)
    ] = 16,
    guidance: Annotated[
        float, typer.Option(help="Guidance scale g in c + g (c - u) to calibrate for; 0 is off.")
    ] = 0.0,
    schedule: Annotated[str, typer.Option(help="Guidance along the tokens: constant or linear.")] = "constant",
    attn_temp: Annotated[float, typer.Option(help="Temperature of the unconditional branch.")] = 1.0,
    tolerance: Annotated[float, typer.Option(help="Largest allowed error of any value before denoising.")] = 1e-3,
    classes: Annotated[
        str, typer.Option(help='"each" (all classes in turn), "none", or names or numbers like cat or 0,5,9.')
    ] = "each",
    seed: Annotated[int, typer.Option(help="Random seed of the noise.")] = 0,
    repeats: Annotated[int, typer.Option(help="Number of timings of each method; the median counts.", min=1)] = 3,
) -> None:
    """Measure which solver of the exact inverse is fastest for each block here; `lab sample --solver auto` uses the result."""
    from labcore.files import check_file
    from labcore.inverse import calibrate as measuring
    from labcore.inverse.sample import as_labels, prior_noise
    from labcore.runs.models import calibration_file, find_model

    flow = find_model(model).to(device())
    file = calibration_file(model, flow)
    check_file(file)
    if file.is_file():
        measuring.read(file)
    y = as_labels(flow, class_labels(classes, batch_size, flow.config), batch_size)
    z = prior_noise(flow, seed, range(batch_size)) * flow.prior_var.sqrt()
    found = measuring.calibrate(
        flow, z, y, guidance, schedule, attn_temp, tolerance, repeats=repeats, progress=lambda line: typer.echo(line)
    )
    typer.echo(measuring.described(found))
    measuring.save(found, file)
    typer.echo(f"kept in {file}; use it by  lab sample {model} --solver auto --batch-size {batch_size}")


def bench(
    model: Model = "fashion-tarflow",
    batch: Annotated[list[int] | None, typer.Option(help="Images at a time; may be repeated. Default 1, 16.")] = None,
    guidance: Annotated[list[float] | None, typer.Option(help="Guidance scale; may be repeated. Default 0.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32 or bf16 (autocast); default fp32.")] = None,
    way: Annotated[list[str] | None, typer.Option(help="A method of inversion; may be repeated. Default all.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="A clone of apple/ml-tarflow, to measure its code too.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Number of timings of each; the median counts.", min=1)] = 5,
    limit: Annotated[float, typer.Option(help="Seconds; a measurement that takes longer is run once.", min=0.0)] = 20.0,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers to this JSON file.")] = None,
) -> None:
    """Time a flow's forward pass, training step and inverses here: the fastest method, and its time over the lower bound."""
    from labcore import provenance
    from labcore.experiments import bench as benching
    from labcore.files import check_file
    from labcore.jsonfile import write_json
    from labcore.runs.models import find_model

    batches, guidances = batch or [1, 16], guidance or [0.0]
    precisions, ways = precision or ["fp32"], way or benching.WAYS
    wrong = [name for name in ways if name not in benching.WAYS]
    wrong += [name for name in precisions if name not in benching.PRECISIONS]
    if wrong:
        raise ValueError(
            f"{wrong[0]!r} is none of the ways {', '.join(benching.WAYS)} or precisions {', '.join(benching.PRECISIONS)}"
        )
    if min(batches) < 1:
        raise ValueError(f"--batch was {min(batches)}; it must be at least 1")
    if reference is None and "ml-tarflow" in (way or ()):
        raise ValueError("--way ml-tarflow needs --reference, the folder of a clone of github.com/apple/ml-tarflow")
    if not all(math.isfinite(g) for g in guidances):
        raise ValueError(f"--guidance was {guidances}; give numbers")
    flow = find_model(model).to(device())
    if any(guidances) and not flow.config.num_classes:
        raise ValueError("--guidance needs a flow with classes here; leave it out")
    if out is not None:
        check_file(out)

    def show(row: Any) -> None:
        typer.echo(f"{row.task}, batch {row.batch}, {row.way}: {row.ms:.4g} ms", err=True)

    rows = benching.bench(flow, benching.Cases(batches, guidances, precisions, ways), reference, repeats, limit, show)
    typer.echo(benching.described(rows))
    if out is not None:
        write_json(out, {**provenance.stamp(), "threads": benching.threads(), "rows": [row._asdict() for row in rows]})
        typer.echo(f"numbers in {out}")


def device() -> str:
    """Return this process's device."""
    from labcore.processes import process_device

    return process_device()


def class_labels(classes: str, num: int, config: TokensConfig) -> Tensor | None:
    """Return labels for `lab sample --classes`, each class in turn."""
    import torch

    from labcore.data.class_names import class_numbers

    known = config.num_classes
    if classes == "none" or (classes == "each" and not known):
        return None
    chosen = torch.arange(known) if classes == "each" else torch.tensor(class_numbers(classes, config))
    return chosen[torch.arange(num) % len(chosen)]
