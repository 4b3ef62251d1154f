"""Images that an experiment drew, stored in the run's folder, so that another judge can be added later without new training.

`keep` writes drawn/NAME.safetensors with images (n, c, h, w) and labels (n,). Its metadata have n, how the images were drawn
(settings, seed, digest of the weights), the data that they are compared with, the classes of the labels, the networks that took
part in training the model, and a checksum of all this. The file stays in the run's folder and is not published.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from labcore.config import DataConfig, TokensConfig
from labcore.data.datasets import Data
from labcore.data.picture_set import HeldPictures
from labcore.evaluate.values import metric_values
from labcore.experiments.judges import measures_of, roles
from labcore.files import check_writable, replacing
from labcore.jsonfile import parse_json

FOLDER = "drawn"
SCHEMA = 2
NEEDED = ("n", "made", "data", "classes", "class_names", "taught")


class Drawn(HeldPictures):
    """Stored images: a `labcore.data.protocol.Dataset`.

    Attributes:
        labels: class numbers; -1 for no class.
        about: metadata of the file.
        class_names: names of the classes, or None if they are not known.
        classes: names of the classes, or their numbers.
    """

    name, split = "samples", "kept"

    def __init__(self, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], about: dict[str, Any]):
        self.images, self.labels, self.about = images, labels, about
        self.made: dict[str, Any] = about["made"]
        numbers = tuple(map(str, range(about["classes"])))
        self.class_names = None if about["class_names"] is None else tuple(about["class_names"])
        self.classes = self.class_names or numbers

    def fingerprint(self) -> str:
        """Return 16 hex digits of a sha256 over the images' bytes and shape."""
        pixels = self.images.contiguous().numpy()
        return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def keep(
    run: str | Path,
    name: str,
    images: HeldPictures,
    made: dict[str, Any],
    data: DataConfig,
    model: TokensConfig,
    taught: Sequence[str],
) -> Path:
    """Write drawn images to drawn/`name`.safetensors in the folder `run`, all or nothing, and return the path.

    Args:
        run: folder of the run.
        name: name of the file, without its ending.
        images: uint8 images with labels, as from `labcore.evaluate.generate` and `labcore.experiments.ways.draw`.
        made: how they were drawn, as JSON values, including "seed" and "model", the digest of the weights.
        data: the data that they are compared with.
        model: the model, whose classes are stored; without names, those of `data`.
        taught: networks that took part in training the model.

    Raises:
        ValueError: the name is not a file name, the images are not uint8, or `made` has no seed or model.
    """
    from safetensors.torch import save_file

    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"name was {name!r}; give the name of a file without folders")
    if lacking := [key for key in ("seed", "model") if key not in made]:
        raise ValueError(f"made lacks {', '.join(lacking)}; give how the images were drawn: settings, seed, and model")
    if images.images.dtype != torch.uint8:
        raise ValueError(f"images are {images.images.dtype}; give uint8")
    about = {"schema": SCHEMA, "n": len(images.images), "made": made, "data": data.model_dump(mode="json")}
    names = model.class_names
    if model.num_classes and names is None:
        names = Data.of(data).split("train").classes
    about |= {"classes": model.num_classes, "class_names": names, "taught": list(taught)}
    path = Path(run) / FOLDER / f"{name}.safetensors"
    check_writable(path.parent)
    tensors = {
        "images": images.images.cpu().contiguous(),
        "labels": torch.as_tensor(images.labels).long().cpu().contiguous(),
    }
    text = json.dumps(about)
    with replacing(path) as new:
        save_file(tensors, new, metadata={"labcore": text, "sha256": _digest(text, **tensors)})
    return path


def read_drawn(path: str | Path) -> Drawn:
    """Read a file of `keep`. Raises FileNotFoundError, and ValueError for a file that is damaged or of another kind."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no drawn images at {path}; run the experiment that draws them")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            text = metadata.get("labcore", "{}")
            about = parse_json(text)
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
        is_complete = (
            about.get("schema") == SCHEMA
            and all(name in about for name in NEEDED)
            and images.dtype == torch.uint8
            and images.ndim == 4
            and len(images) == len(labels) == about["n"]
        )
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no drawn images that can be read ({error}); draw them again") from None
    if not is_complete:
        raise ValueError(f"{path} holds no drawn images of schema {SCHEMA}; draw them again")
    if metadata.get("sha256") != _digest(text, images, labels):
        raise ValueError(f"{path} is damaged: its checksum does not match; draw the images again")
    return Drawn(images, labels, about)


def _digest(about: str, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"]) -> str:
    """Return the sha256 of the whole contents of a file, 64 hex digits."""
    digest = hashlib.sha256(f"{tuple(images.shape)} {about}".encode())
    for tensor in (images, labels):
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def judge_again(
    folder: str | Path, judges: Sequence[str], device: torch.device | str = "cpu", data: Data | None = None
) -> dict[str, dict[str, Any]]:
    """Measure all images that `keep` wrote in `folder` and its subfolders by the given judges, without any training.

    Args:
        folder: a folder of a run, or one with several.
        judges: names such as "efflite0", "classifier", "inception" or "pixels".
        device: where features are computed; default the CPU.
        data: the present place of the real images, with the same classes in any order; default None, the former place.

    Returns:
        {path below `folder` without its ending: {"n", "made", "taught", "judges": roles, "measures": {name: value}}}.

    Raises:
        FileNotFoundError: there are no stored images.
        ValueError: judges are unknown, images are too few, files are damaged, or the data have other classes.
    """
    folder = Path(folder)
    files = sorted(file for file in folder.rglob(f"{FOLDER}/*.safetensors") if not file.name.startswith("."))
    if not files:
        raise FileNotFoundError(
            f"{folder} has no drawn images ({FOLDER}/*.safetensors); run the experiment that keeps them"
        )
    found = {}
    for file in files:
        drawn = read_drawn(file)
        about, seed = drawn.about, drawn.made["seed"]
        names = measures_of(judges, len(drawn), about["classes"])
        compared = Data.of(DataConfig(**about["data"])) if data is None else data
        found[str(file.relative_to(folder).with_suffix(""))] = {
            **{key: about[key] for key in ("n", "made", "taught")},
            "judges": roles(judges, about["taught"]),
            "measures": metric_values(drawn, compared, names, seed, device, drawn),
        }
    return found
