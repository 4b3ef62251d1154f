"""Images to latents and back, by a frozen autoencoder. Three words, in the order of encoding:

    pixels         (b, 3, H, W) in [-1, 1]
    raw latents    what the encoder says of an image: of each value its mean, and its standard deviation where it has one
    final latents  (z - shift) * scale of a z that these allow, (b, c, h, w): what a flow learns

Raw latents lie on disk, so that another scale, or another draw in every epoch, needs no encoder. Shift and scale are the
autoencoder's own, from its configuration.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from labcore.finite import check_result, is_looked_at
from labcore.latents.weights import read
from labcore.provenance import weights_hash

DECODED = "check the latents for NaN, infinity and values far from those of images; half precision may overflow too"
CHUNK = 8
"""Images decoded at a time; our choice: a decoder at 256 pixels holds about 1 GB an image at its widest."""
LATENT_VERSION = 1
"""Version of what `Autoencoder.raw` gives: a part of the key of kept latents. Raise it with every change after which equal
images and weights give other values."""


@runtime_checkable
class Codec(Protocol):
    """What turns pixels into latents of `channels` values at every `factor`-th pixel, and back.

    raw_channels: channels of the raw latents. Nothing here is trained; `decode` has a gradient in the latents.
    """

    name: str
    channels: int
    raw_channels: int
    factor: int

    def raw(self, x: Float[Tensor, "b k H W"]) -> Float[Tensor, "b r h w"]:
        """Raw latents of pixels in [-1, 1]; ValueError for images that do not fit."""
        ...

    def final(self, raw: Float[Tensor, "b r h w"], eps: Tensor | None = None) -> Float[Tensor, "b c h w"]:
        """Final latents of raw ones, float32: drawn by the standard normal eps (b, c, h, w), or without it their mean."""
        ...

    def decode(self, latents: Float[Tensor, "b c h w"], chunk: int = CHUNK) -> Float[Tensor, "b k H W"]:
        """Pixels of final latents, not clipped, `chunk` images at a time."""
        ...

    def recipe(self) -> dict[str, Any]:
        """What raw latents are a function of, beside the images."""
        ...


class Pixels:
    """The codec that changes nothing: a flow of pixels. Raw and final latents are the pixels."""

    name, factor = "pixels", 1

    def __init__(self, channels: int = 3):
        self.channels = self.raw_channels = channels

    def raw(self, x: Float[Tensor, "b k H W"]) -> Float[Tensor, "b k H W"]:
        check_result(x, "pixels", advice="give images in [-1, 1]")
        return x

    def final(self, raw: Float[Tensor, "b c h w"], eps: Tensor | None = None) -> Float[Tensor, "b c h w"]:
        return raw.float()

    def decode(self, latents: Float[Tensor, "b c h w"], chunk: int = CHUNK) -> Float[Tensor, "b k H W"]:
        return latents

    def recipe(self) -> dict[str, Any]:
        return {"codec": self.name}


class Autoencoder:
    """A frozen autoencoder of diffusers in eval mode: AutoencoderKL, whose latents have a deviation, or AutoencoderTiny.

    Not an nn.Module, so that as an attribute of a model it is not trained, moved or saved with it. Made by `load`.
    """

    def __init__(self, name: str, model: nn.Module):
        c = model.config
        self.name, self._model, self.device = name, model.eval().requires_grad_(False), torch.device("cpu")
        self.draws = type(model).__name__ == "AutoencoderKL"
        self.channels, self.image_channels = c.latent_channels, c.in_channels
        self.raw_channels = self.channels * (1 + self.draws)
        widths = c.block_out_channels if self.draws else c.encoder_block_out_channels
        self.factor = 2 ** (len(widths) - 1)
        self._shift, self._scale = _shift_and_scale(c, self.channels)
        self._hash = weights_hash(model)

    @property
    def network(self) -> nn.Module:
        """diffusers' own model."""
        return self._model

    def to(self, device: torch.device | str) -> Autoencoder:
        """Move the network; returns self."""
        self.device = torch.device(device)
        self._model.to(self.device)
        return self

    @torch.no_grad()
    def raw(self, x: Float[Tensor, "b k H W"]) -> Float[Tensor, "b r h w"]:
        """float32, computed in the network's own format on its device, mean first. `labcore.finite.NotFinite` where it is not
        finite."""
        self._check_images(x)
        if not len(x):
            return x.new_zeros(
                (0, self.raw_channels, *(side // self.factor for side in x.shape[2:])), dtype=torch.float32
            )
        found = self._model.encode(x.to(self.device, self._model.dtype))
        parts = [found.latent_dist.mean, found.latent_dist.std] if self.draws else [found.latents]
        raw = torch.cat(parts, dim=1).float()
        check_result(
            raw, f"the encoder of {self.name}", advice="give images in [-1, 1]; half precision may overflow too"
        )
        return raw

    def final(self, raw: Float[Tensor, "b r h w"], eps: Tensor | None = None) -> Float[Tensor, "b c h w"]:
        """On the device of the raw latents; an autoencoder without deviations leaves eps aside."""
        if raw.shape[1] != self.raw_channels:
            raise ValueError(f"raw latents have {raw.shape[1]} channels; those of {self.name} have {self.raw_channels}")
        z = raw.float()
        if self.draws:
            mean, deviation = z.chunk(2, dim=1)
            z = mean if eps is None else mean + deviation * eps
        return (z - self._shift.to(z.device)) * self._scale.to(z.device)

    def decode(self, latents: Float[Tensor, "b c h w"], chunk: int = CHUNK) -> Float[Tensor, "b k H W"]:
        """float32 on the device of the latents, to which the network moves. ValueError for another number of channels.

        On the CPU, and without a gradient, `labcore.finite.NotFinite` for pixels that are not finite; training steps decode
        too, so on other devices `labcore.latents.to_pixels` looks.
        """
        if latents.device != self.device:
            self.to(latents.device)
        if latents.shape[1] != self.channels:
            raise ValueError(f"latents have {latents.shape[1]} channels; {self.name} decodes {self.channels}")
        if not len(latents):
            sides = (side * self.factor for side in latents.shape[2:])
            return latents.new_zeros((0, self.image_channels, *sides), dtype=torch.float32)
        z = latents.to(self.device, torch.float32) / self._scale.to(self.device) + self._shift.to(self.device)
        pixels = torch.cat([self._decoded(part.to(self._model.dtype)).float() for part in z.split(chunk)])
        if is_looked_at(pixels, training=pixels.requires_grad or pixels.device.type != "cpu"):
            check_result(pixels, f"the decoder of {self.name}", advice=DECODED)
        return pixels

    def _decoded(self, z: Tensor) -> Tensor:
        """A chunk's pixels; for a gradient they are computed again on the way back, so that one chunk at a time is held."""
        if not (torch.is_grad_enabled() and z.requires_grad):
            return self._model.decode(z).sample
        return checkpoint(lambda z: self._model.decode(z).sample, z, use_reentrant=False)

    def recipe(self) -> dict[str, Any]:
        return {"codec": self.name, "class": type(self._model).__name__, "weights": self._hash}

    def _check_images(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise ValueError(f"images have dtype {x.dtype}; give floating ones in [-1, 1], as labcore.data.to_float(x)")
        if x.ndim != 4 or x.shape[1] != self.image_channels or any(side % self.factor for side in x.shape[2:]):
            raise ValueError(
                f"images have shape {tuple(x.shape)}; {self.name} takes (b, {self.image_channels}, H, W) with H and W "
                f"multiples of {self.factor}"
            )


def load(source: str, download: bool = False, channels: int = 3) -> Codec:
    """The codec that `source` names: "pixels" (of `channels`), a name of `labcore.latents.weights.KNOWN`, or a folder.

    A folder is one that diffusers' save_pretrained wrote. download: fetch a known one from the hub where it is nowhere on
    this machine. Raises FileNotFoundError that says from where to get it and where to put it, and ValueError for a folder of
    something else or with damaged files.
    """
    return Pixels(channels) if source == Pixels.name else Autoencoder(*read(source, download))


def check_fits(codec: Codec, image_size: int, latent_shape: tuple[int, int, int]) -> None:
    """ValueError unless images of `image_size` pixels have latents (c, h, w) of `latent_shape`, which is what a flow takes."""
    side = image_size // codec.factor
    if (codec.channels, side, side) != latent_shape or image_size % codec.factor:
        raise ValueError(
            f"{codec.name} makes {codec.channels} x {side} x {side} latents of {image_size} x {image_size} pixels; the model "
            f"takes {' x '.join(map(str, latent_shape))}"
        )


def _shift_and_scale(config: Any, channels: int) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
    """diffusers' convention: (z - shift) * scale; per channel (z - mean) / std * scale where the configuration has these."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    shift = torch.tensor(mean if mean is not None else [getattr(config, "shift_factor", None) or 0.0] * channels)
    scale = config.scaling_factor / torch.tensor(std if std is not None else [1.0] * channels)
    return shift.float().view(-1, 1, 1), scale.float().view(-1, 1, 1)
