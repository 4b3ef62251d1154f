"""Synthetic replacements for missing parts of a rehearsal: pictures of noise, and pretrained networks with random weights.

They are files of the same format as the real ones, so the code of the full run reads them. Speed and memory are the same as
with the real ones; a model that is trained with them is meaningless.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from labcore import encoders
from labcore.config import BaseRunConfig, TarFlowConfig
from labcore.encoders import EncoderSpec, specs
from labcore.encoders.perceptual import CONVNEXT, VGG
from labcore.files import weights_folder
from labcore.flows.tarflow import TarFlow
from labcore.latents.weights import untrained as untrained_autoencoder
from labcore.rng import generator

PICTURE = (500, 375)
"""Width and height of a picture in pixels, about ImageNet's average. Runs below 64 pixels get pictures of their own size."""
DISTINCT = 16
"""Number of different pictures; all files are links to these."""


def make_pictures(folder: Path, classes: int, images: int, image_size: int, grey: bool) -> str:
    """Make a folder of class folders and return its path.

    classes: number of classes; 0 gives one. images: least number of training pictures. image_size: pixels along a side of the
    run's images. grey: make grey pictures.
    """
    from PIL import Image

    size = (image_size, image_size) if image_size < 64 else PICTURE
    folder.mkdir(parents=True)
    originals = [folder / f".noise-{i}.jpg" for i in range(DISTINCT)]
    for i, path in enumerate(originals):
        coarse = torch.rand(9, 12, 3, generator=generator(0, "synthetic pictures", i))
        picture = Image.fromarray((255 * coarse).byte().numpy()).resize(size, Image.Resampling.BICUBIC)
        picture.convert("L" if grey else "RGB").save(path)
    per_class, number = -(-images // max(classes, 1)), 0
    for split, count in (("train", per_class), ("test", max(1, 2 // max(classes, 1)))):
        for k in range(max(classes, 1)):
            (below := folder / split / f"class-{k:04d}").mkdir(parents=True)
            for i in range(count):
                os.symlink(originals[number % DISTINCT].resolve(), below / f"{i:06d}.jpg")
                number += 1
    return str(folder)


def make_weights(config: BaseRunConfig, folder: Path) -> BaseRunConfig:
    """Write random weights of the networks that `config` needs and this machine lacks; return the run that reads them.

    folder: folder of the weights, which $LABCORE_WEIGHTS names during the rehearsal. Files in `weights_folder` are linked into
    it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if weights_folder().is_dir():
        for path in weights_folder().iterdir():
            os.symlink(path.resolve(), folder / path.name)
    if (codec := config.model.codec) is not None and not _has_autoencoder(codec):
        place = folder / f"random-{codec}"  # another name, because this process caches autoencoders by name
        untrained_autoencoder(codec).save_pretrained(place)
        config = config.replace(model=config.model.replace(codec=str(place)).model_dump())
    if (align := config.encoder) is not None:
        _encoder(specs.spec(align.encoder), folder, align.weights)
        if align.weights is not None and not Path(align.weights).expanduser().exists():
            config = config.replace(align=align.replace(weights=None).model_dump())
    for name in config.distances:
        if name == "lpips":
            _vgg(folder)
        else:
            _encoder(specs.spec("efficientnet-lite0") if name == "efflite0" else CONVNEXT, folder)
    return config


def make_flow(config: TarFlowConfig, folder: Path) -> str:
    """Save a flow with random weights as in a run's folder, and return the path of the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        TarFlow(config).save_pretrained(folder / "model")
    return str(folder)


def _has_autoencoder(codec: str) -> bool:
    from labcore.latents.weights import RANDOM, find_autoencoder

    if codec == RANDOM:
        return True
    try:
        return bool(find_autoencoder(codec))
    except FileNotFoundError:
        return False


def _encoder(spec: EncoderSpec, folder: Path, weights: str | None = None) -> None:
    """Write random weights of an encoder to `folder` if this machine has no file of it."""
    from safetensors.torch import save_file

    try:
        encoders.check_encoder_weights(spec, weights)
        return
    except FileNotFoundError:
        state = {name: x.contiguous() for name, x in encoders.untrained(spec)._model.state_dict().items()}
    file = folder / spec.files[0]
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)


def _vgg(folder: Path) -> None:
    """Write torchvision's VGG-16 with random weights to `folder` if it is not there."""
    if (folder / VGG).is_file():
        return
    from torchvision.models import vgg16

    with torch.random.fork_rng(devices=[]):
        state = vgg16(weights=None).features.state_dict()
    torch.save({f"features.{name}": value for name, value in state.items()}, folder / VGG)
