"""Stand-ins for what a rehearsal lacks: pictures of noise, and networks of other people with random weights.

They are files of the right form, so that the code of the full run reads them. Speed and memory are those of the real ones;
what is trained with them means nothing.
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
"""Pixels across and down a picture, about ImageNet's average; sizes of 64 and below get pictures of their own size."""
DISTINCT = 16
"""Pictures that are different; the others are links to them."""


def make_pictures(folder: Path, classes: int, images: int, image_size: int, grey: bool) -> str:
    """A folder of class folders with at least `images` training pictures and as many classes (none: one); its path."""
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
    """Write random weights of the networks that `config` needs and this machine lacks to `folder`; the run that reads them.

    folder: what $LABCORE_WEIGHTS names while the run is rehearsed; what `weights_folder` has is linked into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if weights_folder().is_dir():
        for path in weights_folder().iterdir():
            os.symlink(path.resolve(), folder / path.name)
    if (codec := config.model.codec) is not None and not _has_autoencoder(codec):
        place = folder / f"random-{codec}"  # another name: autoencoders are kept by theirs in this process
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
    """A flow with random weights, as a run's folder has one; its path."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        TarFlow(config).save_pretrained(folder / "model")
    return str(folder)


def _has_autoencoder(codec: str) -> bool:
    from labcore.latents.weights import RANDOM, find

    if codec == RANDOM:
        return True
    try:
        return bool(find(codec))
    except FileNotFoundError:
        return False


def _encoder(spec: EncoderSpec, folder: Path, weights: str | None = None) -> None:
    """An encoder's weights in `folder`, where its file is nowhere."""
    from safetensors.torch import save_file

    try:
        encoders.check_weights(spec, weights)
        return
    except FileNotFoundError:
        state = {name: x.contiguous() for name, x in encoders.untrained(spec)._model.state_dict().items()}
    file = folder / spec.files[0]
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)


def _vgg(folder: Path) -> None:
    """torchvision's VGG-16 in `folder`, where it is nowhere."""
    if (folder / VGG).is_file():
        return
    from torchvision.models import vgg16

    with torch.random.fork_rng(devices=[]):
        state = vgg16(weights=None).features.state_dict()
    torch.save({f"features.{name}": value for name, value in state.items()}, folder / VGG)
