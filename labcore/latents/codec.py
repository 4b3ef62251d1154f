"""Encoding and decoding of images by a frozen autoencoder. Encoding has three stages:

    pixels         (b, 3, H, W) in [-1, 1]
    raw latents    (b, r, h, w): the encoder's mean of each latent value, and its standard deviation if it has one
    final latents  (b, c, h, w): (z - shift) * scale of a z drawn from this normal distribution; a flow learns these

Raw latents are stored on disk. So a new draw for every step, or another scale, does not need the encoder. Shift and scale come
from the autoencoder's configuration.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from labcore.finite import check_result, is_looked_at
from labcore.latents.weights import read_autoencoder
from labcore.provenance import weights_hash

DECODED = "check the latents for NaN, infinity and values far from those of images; half precision may overflow too"
CHUNK = 8
"""Images decoded at a time; our choice: at 256 pixels a decoder needs at most about 1 GB per image."""
LATENT_VERSION = 1
"""Version of `Autoencoder.raw`, a part of the key of stored latents. Raise it with every change after which equal images and
weights give other values."""


@runtime_checkable
class Codec(Protocol):
    """An encoder and decoder of images. It is never trained; gradients of `decode` reach the latents.

    Attributes:
        name: name of the codec.
        channels: channels c of the final latents.
        raw_channels: channels r of the raw latents.
        factor: pixels along the side of one latent position.
    """

    name: str
    channels: int
    raw_channels: int
    factor: int

    def raw(self, x: Float[Tensor, "b k H W"]) -> Float[Tensor, "b r h w"]:
        """Encode pixels in [-1, 1] to raw latents. Raises ValueError for images that do not fit."""
        ...

    def final(self, raw: Float[Tensor, "b r h w"], eps: Tensor | None = None) -> Float[Tensor, "b c h w"]:
        """Convert raw latents to final ones, float32: drawn with standard normal eps (b, c, h, w), or without eps the mean."""
        ...

    def decode(self, latents: Float[Tensor, "b c h w"], chunk: int = CHUNK) -> Float[Tensor, "b k H W"]:
        """Decode final latents to pixels, not clipped, `chunk` images at a time."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Return everything but the images that determines raw latents, as JSON values."""
        ...


class Pixels:
    """The identity codec, for flows of pixels: raw and final latents are the pixels."""

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
    """A frozen autoencoder of diffusers in eval mode. Create one with `load`.

    An AutoencoderKL gives a mean and a standard deviation of each latent value, an AutoencoderTiny only the value. The class
    is not an nn.Module. So a model that has it as an attribute does not train, move or save it.
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
        """The model of diffusers."""
        return self._model

    def to(self, device: torch.device | str) -> Autoencoder:
        """Move the network, and return self."""
        self.device = torch.device(device)
        self._model.to(self.device)
        return self

    @torch.no_grad()
    def raw(self, x: Float[Tensor, "b k H W"]) -> Float[Tensor, "b r h w"]:
        """Encode images to raw latents (b, r, h, w), float32: first the means, then the standard deviations, if there are any.

        Computed with the network's device and dtype. Raises ValueError for images that do not fit, and NotFinite.
        """
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
        """Convert raw latents to final ones, on their device. An autoencoder without standard deviations ignores eps."""
        if raw.shape[1] != self.raw_channels:
            raise ValueError(f"raw latents have {raw.shape[1]} channels; those of {self.name} have {self.raw_channels}")
        z = raw.float()
        if self.draws:
            mean, deviation = z.chunk(2, dim=1)
            z = mean if eps is None else mean + deviation * eps
        return (z - self._shift.to(z.device)) * self._scale.to(z.device)

    def decode(self, latents: Float[Tensor, "b c h w"], chunk: int = CHUNK) -> Float[Tensor, "b k H W"]:
        """Decode final latents to pixels (b, k, H, W), float32, on the latents' device; the network is moved there.

        Raises ValueError for another number of channels. On the CPU without a gradient, raises NotFinite for pixels that are
        not finite. Training steps decode too, so on a GPU only `labcore.latents.to_pixels` checks the pixels.
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
        """Decode one chunk. With a gradient, the backward pass decodes again, so only one chunk's activations are in memory."""
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
    """Load a codec by its name or folder.

    Args:
        source: "pixels", "fashion-vae", a name in `labcore.latents.weights.KNOWN`, or a folder that diffusers'
            save_pretrained wrote.
        download: fetch a known autoencoder from the hub if it is not on this machine; default False.
        channels: channels of "pixels"; default 3.

    Raises:
        FileNotFoundError: the autoencoder is not on this machine; the message says from where to get it, and where to put it.
        ValueError: the folder has something else, or its files are damaged.
    """
    return Pixels(channels) if source == Pixels.name else Autoencoder(*read_autoencoder(source, download))


def check_fits(codec: Codec, image_size: int, latent_shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless images of `image_size` pixels have latents of `latent_shape` (c, h, w), the input of the flow."""
    side = image_size // codec.factor
    if (codec.channels, side, side) != latent_shape or image_size % codec.factor:
        raise ValueError(
            f"{codec.name} makes {codec.channels} x {side} x {side} latents of {image_size} x {image_size} pixels; the model "
            f"takes {' x '.join(map(str, latent_shape))}: set data.image_size or model.image_size and model.channels"
        )


def _shift_and_scale(config: Any, channels: int) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
    """Return shift and scale by diffusers' convention, (z - shift) * scale.

    If the configuration has a mean and a standard deviation per channel, this is (z - mean) / std * scale.
    """
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    shift = torch.tensor(mean if mean is not None else [getattr(config, "shift_factor", None) or 0.0] * channels)
    scale = config.scaling_factor / torch.tensor(std if std is not None else [1.0] * channels)
    return shift.float().view(-1, 1, 1), scale.float().view(-1, 1, 1)
