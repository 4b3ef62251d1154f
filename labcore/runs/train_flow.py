"""One training run from its configuration: data, model, objective, what is looked at on the way, and the finished model.

A run's folder:

    config.yaml     the run's whole configuration
    log.jsonl       one record per log step          tensorboard/   the same for tensorboard
    previews/       sample grids by step             checkpoints/   see labcore.train.checkpoint
    model/          the averaged weights at the end: TarFlow.from_pretrained(folder / "model")
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from labcore.config import RunConfig, StudentRunConfig
from labcore.data.class_names import with_names
from labcore.data.datasets import Data
from labcore.data.transforms import floats, to_model_input
from labcore.evaluate.likelihood import likelihood
from labcore.files import check_writable, write_atomic
from labcore.flows.tarflow import TarFlow
from labcore.inverse.sample import OnePass, sample
from labcore.latents import LatentData, seen_by, to_pixels
from labcore.processes import process_device, process_share
from labcore.provenance import file_hash
from labcore.rng import StepNoise, seed_of
from labcore.runs.config_paths import anchored
from labcore.spread import spread, spread_rows
from labcore.train import checkpoint, monitor
from labcore.train.log import Reporter
from labcore.train.loop import Hooks, TrainResult, train
from labcore.train.objectives import Likelihood, noised
from labcore.viz.class_labels import by_class
from labcore.viz.sheet import save_grid
from labcore.yamlfile import dump_yaml

T = TypeVar("T", bound=nn.Module)

CONFIG = "config.yaml"
EVALUATED = 1000
"""Test images, evenly spread, in the likelihood that is logged while training; our choice."""


def initialised(model: Callable[[Any], T], config: RunConfig | StudentRunConfig) -> T:
    """The run's model at initialisation, a function of the seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(config.train.seed, "initialisation"))
        return model(config.model)


def run_training(
    config: RunConfig, folder: str | Path, previews: bool = True, reporter: Reporter | None = None
) -> TrainResult:
    """Train what `config` says in `folder`, or go on with what is there. Raises ValueError for what cannot be trained.

    reporter: as in `labcore.train.loop.Hooks`.
    """
    folder, config = Path(folder), anchored(config)
    training, test = datasets(config)
    config = with_names(config, training.classes)
    flow, others = initialised(TarFlow, config), identity(config)
    hooks = Hooks(
        diagnose=lambda model, x, y: monitor.state_rms(model, _noised_once(model, x), y),
        evaluate=lambda ema: evaluation(ema, test),
        preview=preview_in(folder) if previews else None,
        reporter=reporter,
    )
    with made(folder):
        objective = objective_of(config, training)
        return carry_out(config, folder, flow, objective, training, hooks, others)


def carry_out(
    config: RunConfig | StudentRunConfig,
    folder: Path,
    model: nn.Module,
    objective: nn.Module,
    training: Any,
    hooks: Hooks,
    identity: dict[str, Any] | None = None,
) -> TrainResult:
    """Train, and write the configuration and the finished model. `identity`: what else makes the run another one."""
    described = {**config.model_dump(mode="json"), "data_fingerprint": data_fingerprint(folder, training)}
    describe = {**described, **(identity or {})}
    prepared = (
        training.prepare if isinstance(training, LatentData) else partial(to_model_input, mirror=config.data.flip)
    )
    result = train(model, objective, training, config.train, folder, prepared, describe, hooks)
    if is_main():
        write_config(config, folder)
        if result.finished:
            result.ema.save_pretrained(folder / "model")
    return result


def write_config(config: RunConfig | StudentRunConfig, folder: Path) -> None:
    """Write config.yaml, the run's whole configuration; what was there is replaced at once."""
    write_atomic(folder / CONFIG, dump_yaml(config.model_dump(mode="json")))


def data_fingerprint(folder: Path, training: Any) -> str:
    """What the run in `folder` says that its data are: their fingerprint, or the older one with which it began.

    Older ones are of files' names and lengths. A run that began with one goes on with it, and a warning says so.
    """
    found, older = training.fingerprint(), getattr(training, "older_fingerprint", None)
    for place in checkpoint.folders(folder) if older is not None else ():
        with contextlib.suppress(ValueError):
            began = checkpoint.read_state(place)["run"].get("data_fingerprint")
            if began == found or began != older():
                return found
            warnings.warn(
                f"{folder} began when data were told apart by the names and lengths of files; it goes on so, and pictures that "
                "were replaced by others of the same length since then are not noticed",
                stacklevel=2,
            )
            return began
    return found


def identity(config: RunConfig) -> dict[str, str]:
    """What beside its configuration and data makes it another run: the encoder's file, wherever it is.

    Raises FileNotFoundError where there is none.
    """
    if config.align is None:
        return {}
    from labcore.encoders import find_weights, spec

    return {checkpoint.ENCODER: file_hash(find_weights(spec(config.align.encoder), config.align.weights))}


def objective_of(config: RunConfig, training: Any) -> nn.Module:
    """What is minimised: the likelihood, or that and the alignment.

    Encoder tokens of `training` are computed here where they are to be kept on disk. Raises as `labcore.encoders.load`.
    """
    a, t = config.align, config.train
    if a is None:
        return Likelihood(t.label_dropout)
    from labcore import encoders
    from labcore.progress import show_progress
    from labcore.train.alignment import LikelihoodAndAlignment
    from labcore.train.targets import Cached, Computed

    encoder, grid = encoders.load(a.encoder, a.weights, device=process_device()), config.model.grid
    if a.targets == "cached":
        images = encoder_images(config, training)
        targets = Cached(encoder, images, grid, a.stage, config.data.flip, show_progress())
    elif config.model.codec is not None:
        raise ValueError(
            "align.targets was 'computed' for a flow of latents; an encoder looks at pixels: take 'cached'"
        )
    else:
        targets = Computed(encoder, grid, a.stage)
    return LikelihoodAndAlignment(a, config.model, targets, t.label_dropout, t.seed)


def encoder_images(config: RunConfig, training: Any) -> Any:
    """The pictures of `training` as the encoder sees them: the flow's own, or the same ones read at `align.image_size`."""
    d = config.data
    if config.align.image_size is not None:
        return spread(Data.of(d)._replace(image_size=config.align.image_size).split("train"), d.limit)
    return training.pictures if isinstance(training, LatentData) else training


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """A folder that can be written (`check_writable`) for what may still be refused.

    Where the work inside raises, folders that were made here and are still empty are removed.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        check_writable(folder)
        yield
    except BaseException:
        if process_share()[0] == 0:
            remove_empty(new)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of `folders`, the innermost first, that are empty but for the lock of a training that has ended."""
    for folder in folders:
        try:
            if [path.name for path in folder.iterdir()] == [checkpoint.LOCK]:
                with checkpoint.lock_folder(folder):  # OSError where another training has begun here
                    (folder / checkpoint.LOCK).unlink()
            folder.rmdir()
        except OSError:  # it holds something, or is gone
            return


def check_new(folder: Path) -> None:
    """ValueError for a folder that holds something, or is a file."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is a file, or not empty; give a new folder")


def datasets(config: RunConfig | StudentRunConfig) -> tuple[Any, Any]:
    """Training and test images, or their latents; ValueError where they do not fit the model."""
    from labcore.progress import show_progress

    d, m = config.data, config.model
    parts = [spread(Data.of(d).split(split), d.limit) for split in ("train", "test")]
    for part in parts:
        if m.codec is None and (shape := (part.channels, part.image_size, part.image_size)) != m.image_shape:
            given, taken = (" x ".join(map(str, size)) for size in (shape, m.image_shape))
            raise ValueError(
                f"the {d.name} images are {given}, the model takes {taken}; "
                "set data.image_size and data.channels, or the model's (images of data sets are square)"
            )
        if m.num_classes not in (0, part.num_classes):
            raise ValueError(
                f"the data has {part.num_classes} classes and the model {m.num_classes}; "
                f"set num_classes to {part.num_classes}, or 0 for an unconditional model"
            )
    if len(parts[1]) < 2:
        raise ValueError(
            f"the {d.name} data have {len(parts[1])} test image{' with data.limit=1' if d.limit == 1 else ''}; a test "
            "likelihood needs at least 2"
        )
    device, (train_images, test_images) = process_device(), parts
    training = seen_by(m, train_images, device, d.flip, progress=show_progress())
    return training, seen_by(m, test_images, device, progress=show_progress())


def evaluation(flow: TarFlow, test: Any) -> dict[str, float]:
    """Test likelihood (labels given) and round-trip error of the averaged weights, on images spread over the test set."""
    record = likelihood(flow, test, limit=EVALUATED)
    pixels, labels = test.__getitems__(spread_rows(len(test), 4))
    x = _noised_once(flow, floats(test, pixels.to(flow.device)))
    y = labels.to(flow.device) if flow.config.num_classes else None
    return {"test_nats_per_dim": record.nats_per_dim, "round_trip_error": monitor.round_trip_error(flow, x, y)}


def preview_in(folder: Path) -> Callable[[Any, int], None]:
    """A hook that writes a sample grid for a step."""
    return lambda ema, step: write_preview(ema, folder / "previews" / f"step-{step:08d}.png")


def write_preview(flow: TarFlow | OnePass, path: Path, per_class: int = 4) -> None:
    """A PNG grid of samples, one column a class (16 images where there are none)."""
    classes = flow.config.num_classes
    columns = min(classes, 10) or 4
    y = torch.arange(columns).repeat(per_class) if classes else None
    images = to_pixels(flow, sample(flow, columns * per_class, y, seed=0))
    names = by_class(y, columns, flow.config.class_names)
    save_grid(images.cpu(), columns, path, scale=2 if images.shape[-1] < 64 else 1, **names)


def _noised_once(flow: TarFlow, x: Tensor) -> Tensor:
    """Images with the same noise at every call, so that records along a run compare."""
    return noised(flow, x, StepNoise(0, 0, len(x), x.device))


def is_main() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
