"""The images that a model is measured on: those that a user names, else those that it was trained on."""

from __future__ import annotations

from pathlib import Path

from labcore.config import DataConfig, TokensConfig
from labcore.data.class_names import matched
from labcore.data.datasets import NAMES, Data, mixed
from labcore.data.fashion_mnist import CLASSES
from labcore.data.images import ImageData
from labcore.latents import square_pixels
from labcore.nn.pretrained import CONFIG
from labcore.runs.models import run_section
from labcore.zoo import NAMES as SHIPPED

EMBEDDED = "fashion-mnist-12k"


def data_of(model: str | Path, config: TokensConfig) -> Data:
    """The images that `model` (what `find_model` takes, with this configuration) was trained on, at its pictures' size.

    They are those of the run's configuration beside the model. Shipped models are measured on the embedded part of their set,
    as on their cards. A model without a run that fits the embedded set (28 x 28 grey pictures, Fashion-MNIST's classes or
    none) is taken as one of that set. Raises ValueError for any other model without a
    run, and FileNotFoundError where the run's pictures are no longer where they were.
    """
    pixels = square_pixels(config)
    if str(model) in SHIPPED:
        return Data(EMBEDDED, **pixels)
    own = run_section(model, "data")
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
        f"no run beside {model} says which images it was trained on; give --data: {EMBEDDED}, fashion-mnist, or a folder of "
        "class folders"
    )


def source_of(
    model: str, config: TokensConfig, data: str | None, path: str | None = None, crop: str | None = None
) -> Data:
    """What the options --data, --path and --crop say; without --data, the images that the model was trained on.

    A folder's pictures are cropped as those of the model's run unless `crop` says otherwise. Raises as `data_of`.
    """
    if data is None:
        own = data_of(model, config)
        return own._replace(path=path or own.path, crop=crop or own.crop)
    trained = run_section(model, "data") or {}
    given = named(data, path, crop=crop, **square_pixels(config))
    return given if data in NAMES else given._replace(crop=crop or trained.get("crop"))


def in_memory(
    data: Data, config: TokensConfig, train_images: int, test_images: int, seed: int
) -> tuple[ImageData, ImageData]:
    """Up to so many pictures of both splits, evenly spread, in a random order, with the labels of the model's classes.

    Raises as `labcore.data.class_names.matched`.
    """
    train, test = (matched(config, data.split(split)) for split in ("train", "test"))
    return mixed(train, train_images, seed), mixed(test, test_images, seed)


def named(
    data: str,
    path: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    crop: str | None = None,
) -> Data:
    """The images of a data set's name, or of a folder."""
    if data in NAMES:
        return Data(data, path, image_size, channels, crop)
    return Data("folder", data, image_size, channels, crop)


def is_model(source: str) -> bool:
    """Whether a name is that of a shipped model, or of a folder that holds a run or a saved model."""
    folder = Path(source)
    return source in SHIPPED or any((folder / name).is_file() for name in ("config.yaml", CONFIG))
