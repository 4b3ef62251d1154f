"""Training of an autoencoder: squared errors of the pixels, and the divergence of the latents' distribution from N(0, I)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from labcore.config import Config, Width
from labcore.nn.pretrained import Pretrained
from labcore.rng import StepNoise
from labcore.train.objectives import Logs
from labcore.types import Batch


class CompressorConfig(Config):
    """Sizes of a small autoencoder of Stable Diffusion's layout: one level per width, each but the first at half the size."""

    channels: Width = 1
    widths: tuple[Width, ...] = (16, 32, 64)
    layers_per_level: Width = 1
    latent_channels: Width = 4
    groups: Width = 8

    @property
    def least_weights(self) -> int:
        """Check that every layer of every level has weights."""
        return len(self.widths) * self.layers_per_level


class Compressor(Pretrained, nn.Module):
    """diffusers' AutoencoderKL with the interface that `labcore.train` expects; `network` is the AutoencoderKL."""

    config_class = CompressorConfig

    def __init__(self, config: CompressorConfig):
        from diffusers import AutoencoderKL

        super().__init__()
        self.config, levels = config, len(config.widths)
        self.network = AutoencoderKL(
            in_channels=config.channels,
            out_channels=config.channels,
            block_out_channels=config.widths,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=config.layers_per_level,
            norm_num_groups=config.groups,
            latent_channels=config.latent_channels,
        )

    def forward(self, x: Float[Tensor, "b k H W"], eps: Float[Tensor, "b c h w"]) -> tuple[Tensor, Any]:
        """Return the pixels of the latents that eps draws, and their distribution."""
        posterior = self.network.encode(x).latent_dist
        return self.network.decode(posterior.mean + posterior.std * eps).sample, posterior


class ReconstructionConfig(Config):
    """kl: weight of the divergence from N(0, I), in nats per pixel, relative to the mean squared error; our choice."""

    kl: NonNegativeFloat = 1e-4


class Reconstruction(nn.Module):
    """Mean squared error of pixels in [-1, 1] plus `kl` times the divergence of the latents, in nats per pixel."""

    def __init__(self, config: ReconstructionConfig):
        super().__init__()
        self.config = config

    def forward(self, model: Compressor, batch: Batch, noise: StepNoise) -> tuple[Float[Tensor, ""], Logs]:
        c, (height, width) = model.config, batch.x.shape[-2:]
        factor = 2 ** (len(c.widths) - 1)
        eps = noise.normal("latents", (c.latent_channels, height // factor, width // factor))
        back, posterior = model(batch.x, eps)
        mse = (back - batch.x).square().mean()
        kl = posterior.kl().mean() / batch.x[0].numel()
        return mse + self.config.kl * kl, {"mse": mse.detach(), "kl_nats_per_pixel": kl.detach()}
