"""Perceptual distances of images in the features of a frozen network, for training a student (BiFlow).

    efflite0      features of the embedded encoder's first stages, on crops of 64 pixels: the replacement that comes with pip
    lpips         LPIPS with VGG-16 (arXiv 1801.03924), by the package lpips
    convnextv2    squared distance of ConvNeXt V2's pooled features

The paper names LPIPS and ConvNeXt V2 and gives no details. The details here are those of later code of its group that
says it follows the paper: one random crop of both images (area 0.08 to 1, aspect 3/4 to 4/3), resized with antialiased
bicubic. All distances are differentiable in the images, and the step's noise determines every random draw.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from labcore.encoders import specs
from labcore.encoders.frozen import Encoder, load, untrained
from labcore.encoders.specs import EncoderSpec, Stage
from labcore.encoders.weights import find_encoder_weights
from labcore.rng import StepNoise
from labcore.tensors import load_strictly
from labcore.weight_files import find_file, read_weights

NAMES = ("efflite0", "lpips", "convnextv2")
MOST = 32
"""Number of images of a step that efflite0 compares, over all processes; few, so that two CPU cores suffice; our choice."""
SIZE = 64
"""Side of efflite0's crops in pixels; our choice."""
STAGES = (16, 24, 40)
"""Widths of the stages that efflite0 compares; their strides are 2, 4 and 8; our choice."""
VGG = "vgg16-397923af.pth"
"""File of torchvision's VGG-16."""
CONVNEXT = EncoderSpec(
    name="convnextv2-b",
    model="convnextv2_base.fcmae_ft_in22k_in1k",
    kind="cnn",
    mean=(
        0.5,
        0.5,
        0.5,
    ),  # images stay in [-1, 1], as in that code, although the network was trained with another normalisation
    std=(0.5, 0.5, 0.5),
    stages=(Stage(1024, 32),),
    pool="head",
    pooled_width=1024,
    files=("convnextv2_base.fcmae_ft_in22k_in1k.safetensors",),
    hub="timm/convnextv2_base.fcmae_ft_in22k_in1k",
    licence="CC-BY-NC-4.0",
)


@runtime_checkable
class PerceptualDistance(Protocol):
    """Distance (n,) of pairs of images (b, c, h, w) in [-1, 1].

    most: number of images of a step that are compared, chosen by `some`; None compares all.
    """

    most: int | None

    def __call__(self, ours: Tensor, theirs: Tensor, noise: StepNoise) -> Tensor: ...


class OfCrops(PerceptualDistance, Protocol):
    """Distance on crops of `size` pixels; `compare` takes images that are already such crops."""

    size: int

    def compare(self, ours: Tensor, theirs: Tensor) -> Tensor: ...


class MultiStage:
    """Mean over stages and positions of |u - v|^2 of the features' unit vectors, as LPIPS without its learned weights."""

    def __init__(self, encoder: Encoder, size: int = SIZE, stages: tuple[int, ...] = STAGES, most: int = MOST):
        self.encoder, self.size, self.stages, self.most = encoder, size, stages, most

    def __call__(self, ours: Tensor, theirs: Tensor, noise: StepNoise) -> Float[Tensor, " n"]:
        rows = some(noise, self.most)
        return self.compare(*crops(ours, theirs, noise, self.size, rows)) if rows else ours.new_zeros(0)

    def compare(self, ours: Tensor, theirs: Tensor) -> Float[Tensor, " n"]:
        _follow(self.encoder, ours)
        # separate passes: the targets need no gradient, so their pass stores no activations
        our_maps = self.encoder.maps(ours, self.stages, self.size)
        their_maps = self.encoder.maps(theirs, self.stages, self.size)
        of_stages = []
        for width in self.stages:
            u = F.normalize(our_maps[width], dim=1, eps=1e-6)
            v = F.normalize(their_maps[width], dim=1, eps=1e-6)
            of_stages.append((u - v).square().sum(1).mean((1, 2)))
        return torch.stack(of_stages).mean(0)


class Pooled:
    """|f(x) - f(x')|^2 of the pooled features at the network's own size."""

    most = None

    def __init__(self, encoder: Encoder):
        self.encoder, self.size = encoder, encoder.spec.input_size

    def __call__(self, ours: Tensor, theirs: Tensor, noise: StepNoise) -> Float[Tensor, " n"]:
        return self.compare(*crops(ours, theirs, noise, self.size))

    def compare(self, ours: Tensor, theirs: Tensor) -> Float[Tensor, " n"]:
        _follow(self.encoder, ours)
        return (self.encoder.pooled(ours) - self.encoder.pooled(theirs)).square().sum(1)


class Lpips:
    """LPIPS on crops of 224 pixels; grey images are repeated to RGB."""

    most, size = None, 224

    def __init__(self, network: torch.nn.Module):
        self.network = network.eval().requires_grad_(False)

    def __call__(self, ours: Tensor, theirs: Tensor, noise: StepNoise) -> Float[Tensor, " n"]:
        return self.compare(*crops(ours, theirs, noise, self.size))

    def compare(self, ours: Tensor, theirs: Tensor) -> Float[Tensor, " n"]:
        ours, theirs = (x.float().expand(-1, 3, -1, -1) for x in (ours, theirs))
        self.network.to(ours.device)
        with torch.autocast(ours.device.type, enabled=False):
            return self.network(ours, theirs).flatten()


def load_perceptual(name: str, weights: str | Path | None = None) -> PerceptualDistance:
    """Load a distance with its pretrained weights, without network; `weights` is their file if `weights_folder` lacks it.

    Raises ValueError for unknown names and a missing package, FileNotFoundError with the source of a missing file.
    """
    path = find_perceptual(name, weights)
    if name == "lpips":
        return Lpips(_lpips(path))
    return MultiStage(load("efficientnet-lite0", path)) if name == "efflite0" else Pooled(load(CONVNEXT, path))


def find_perceptual(name: str, weights: str | Path | None = None) -> Path:
    """Find the file of a distance's pretrained weights; errors as `load_perceptual`, except those of the file's content."""
    if name == "lpips":
        _lpips_package()
        return find_file(VGG, f"torchvision's VGG-16, https://download.pytorch.org/models/{VGG}", weights)
    if name not in NAMES:
        raise ValueError(f"unknown distance {name!r}; there are {', '.join(NAMES)}")
    return find_encoder_weights(specs.spec("efficientnet-lite0") if name == "efflite0" else CONVNEXT, weights)


def untrained_perceptual(name: str) -> OfCrops:
    """Return a distance whose network has random weights; needs no file. ValueError as `load_perceptual`."""
    if name not in NAMES:
        raise ValueError(f"unknown distance {name!r}; there are {', '.join(NAMES)}")
    if name == "lpips":
        return Lpips(_lpips_network())
    return MultiStage(untrained("efficientnet-lite0")) if name == "efflite0" else Pooled(untrained(CONVNEXT))


def some(noise: StepNoise, most: int) -> list[int]:
    """Return which rows of this micro-batch are compared: those of `most` images, evenly spread over the step."""
    count = min(most, noise.total)
    chosen = {i * noise.total // count for i in range(count)}
    return [row for row, image in enumerate(range(noise.total)[noise.rows]) if image in chosen]


def crops(
    ours: Float[Tensor, "b c h w"],
    theirs: Float[Tensor, "b c h w"],
    noise: StepNoise,
    size: int,
    rows: Sequence[int] | slice = slice(None),
) -> tuple[Float[Tensor, "n c s s"], Float[Tensor, "n c s s"]]:
    """Take the same random crop of each pair, of some rows only, resized to size x size; constant if `theirs` is.

    The position is drawn on the CPU on all devices, because reading random numbers from a GPU waits for its work.
    """
    ours, theirs = ours[rows], theirs[rows]
    constant = not theirs.requires_grad
    noise = noise.on("cpu")
    area = 0.08 + 0.92 * noise.uniform("crop area")[rows]
    aspect = (math.log(3 / 4) + math.log(16 / 9) * noise.uniform("crop aspect")[rows]).exp()
    tops, lefts = noise.uniform("crop top")[rows].tolist(), noise.uniform("crop left")[rows].tolist()
    h, w = ours.shape[-2:]
    heights = (h * (area / aspect).sqrt()).round().clamp(1, h).int().tolist()
    widths = (w * (area * aspect).sqrt()).round().clamp(1, w).int().tolist()
    pairs, crops_of_pairs = torch.stack([ours, theirs], dim=1), []
    for pair, top, left, height, width in zip(pairs, tops, lefts, heights, widths, strict=True):
        i, j = int(top * (h - height + 1)), int(left * (w - width + 1))
        crop = pair[..., i : i + height, j : j + width]
        crops_of_pairs.append(F.interpolate(crop, (size, size), mode="bicubic", antialias=True))
    ours, theirs = torch.stack(crops_of_pairs).unbind(1)
    return ours, theirs.detach() if constant else theirs


def _follow(encoder: Encoder, images: Tensor) -> None:
    """Move the encoder to the device of the images."""
    if encoder.device != images.device:
        encoder.to(images.device)


def _lpips(file: Path) -> torch.nn.Module:
    """Build LPIPS's network with the backbone of a torchvision file; its own five linear layers come with the package."""
    network = _lpips_network()
    state = {name: value for name, value in read_weights(file).items() if name.startswith("features.")}
    load_strictly(Vgg16Features(network.net), state, file, remedy="download torchvision's VGG-16 again")
    return network


class Vgg16Features(torch.nn.Module):
    """The layers of LPIPS's backbone under the names of torchvision's VGG-16, features.0 to features.29."""

    def __init__(self, slices: torch.nn.Module):
        super().__init__()
        self.features = torch.nn.ModuleDict(layer for part in slices.children() for layer in part.named_children())


def _lpips_network() -> torch.nn.Module:
    """Build LPIPS's network with a random backbone."""
    lpips = _lpips_package()
    with warnings.catch_warnings():  # lpips builds torchvision's VGG with deprecated arguments
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)


def _lpips_package() -> Any:
    try:
        import lpips
    except ImportError:
        raise ValueError("the distance lpips needs a package:  pip install 'labcore[perceptual]'") from None
    return lpips
