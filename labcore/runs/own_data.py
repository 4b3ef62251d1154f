"""The images that a model is measured on: those that a user names, else those that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labcore.config import DataConfig, TokensConfig
from labcore.data.arrow_files import is_arrow
from labcore.data.class_names import matched
from labcore.data.datasets import NAMES, Data, mixed
from labcore.data.fashion_mnist import CLASSES
from labcore.data.folder import own_splits
from labcore.data.images import ImageData
from labcore.latents import square_pixels
from labcore.nn.pretrained import CONFIG
from labcore.runs.configure import put_settings
from labcore.runs.models import run_section
from labcore.zoo import NAMES as SHIPPED

EMBEDDED = "fashion-mnist-12k"
HAVE_PATHS = ("fashion-mnist", "emoji")
"""Data sets that a path can be given for."""
PART = {"fashion-mnist": EMBEDDED}
"""Data sets of which a part is in labcore."""


def data_of(model: str | Path, config: TokensConfig) -> Data:
    """Return the images that a model was trained on, at its pictures' size.

    They are named by the configuration of the model's run; those of shipped models are `as_shipped`. A model without a run gets
    the embedded set if it fits (28 x 28 grey pictures, Fashion-MNIST's classes or none).

    model: an argument for `find_model`. config: its configuration. Raises ValueError for any other model without a run, and
    FileNotFoundError if the run's pictures are no longer at their path.
    """
    pixels, own = square_pixels(config), run_section(model, "data")
    if str(model) in SHIPPED:
        return as_shipped(DataConfig(**own), config)
    if own is not None:
        data = Data.of(DataConfig(**own))._replace(**pixels)
        if data.path is not None and not Path(data.path).exists():
            raise FileNotFoundError(
                f"{model} was trained on {data.path}, and there is no such folder; give --data with the folder's new place"
            )
        return data
    fits = pixels == {"image_size": 28, "channels": 1} and config.num_classes in (0, len(CLASSES))
    if fits and config.class_names in (None, CLASSES):
        return Data(EMBEDDED, **pixels)
    raise ValueError(
        f"no run next to {model} says which images it was trained on; give --data: {', '.join(NAMES[:-1])}, or a "
        "folder of class folders"
    )


def as_shipped(data: DataConfig, config: TokensConfig) -> Data:
    """The images that a shipped model of `data` is compared with, as on its card: those in labcore, at its pictures' size."""
    return Data(PART.get(data.name, data.name), **square_pixels(config))


def source_of(
    model: str,
    config: TokensConfig,
    data: str | None,
    path: str | None = None,
    crop: str | None = None,
    settings: Sequence[str] = (),
) -> Data:
    """Return the images that --data, --path, --crop and --set choose; without --data, those that the model was trained on.

    A folder's pictures are read as those of the model's run (crop, background, rule of the split) unless an option says
    otherwise; a folder with splits of its own keeps them. Raises as `data_of`, `named` and `with_options`.
    """
    options = dict(path=path, crop=crop)
    if data is None:
        return with_options(data_of(model, config), options, settings)
    given = named(data, path)._replace(**square_pixels(config))
    if given.name == "folder":
        given = _read_as_in_training(given, run_section(model, "data") or {})
    return with_options(given, options, settings)


def _read_as_in_training(folder: Data, trained: Mapping[str, Any]) -> Data:
    """Return a folder whose pictures are read as those of a run. trained: the section `data` of the run."""
    found = folder._replace(crop=trained.get("crop"), background=trained.get("background"))
    rule = {key: trained[key] for key in ("test_share", "split_seed") if trained.get(key) is not None}
    if rule and not is_arrow(folder.path) and not own_splits(folder.path):
        found = found._replace(**rule)
    return found


def in_memory(
    data: Data, config: TokensConfig, train_images: int, test_images: int, seed: int
) -> tuple[ImageData, ImageData]:
    """Return some pictures of both splits, evenly spread, in a random order, with the labels of the model's classes.

    Raises as `labcore.data.class_names.matched`.
    """
    train, test = (matched(config, data.split(split)) for split in ("train", "test"))
    return mixed(train, train_images, seed), mixed(test, test_images, seed)


def named(data: str, path: str | None = None) -> Data:
    """Return the images of a data set by name, or of a folder.

    path: where the files of a data set are. Raises ValueError for a path next to a folder.
    """
    if data in NAMES:
        return Data(data, path)
    if path is not None:
        raise ValueError(
            f"--path was {path!r} next to the folder {data!r}; it is for the data sets {', '.join(HAVE_PATHS)}"
        )
    return Data("folder", data)


def with_options(data: Data, options: Mapping[str, Any], settings: Sequence[str]) -> Data:
    """Return a source of images, changed by options of a command and by single settings, such as "data.test_share=0.2".

    options: {field of `Data`: value of the option of that name}; None leaves the field. Raises ValueError for a setting that
    is unknown, contradicts an option, or is not of `Data`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    called = {("data", name): f"--{name.replace('_', '-')}" for name in given}
    put_settings({"data": given}, settings, called)
    if others := sorted(given.keys() - set(Data._fields)):
        raise ValueError(
            f"data.{others[0]} was set; this command reads whole splits: allowed are {', '.join(Data._fields)}"
        )
    checked = DataConfig(**given)
    return data._replace(**{name: getattr(checked, name) for name in given})


def is_model(source: str) -> bool:
    """Return whether a name is that of a shipped model, or of a folder that holds a run or a saved model."""
    folder = Path(source)
    return source in SHIPPED or any((folder / name).is_file() for name in ("config.yaml", CONFIG))
