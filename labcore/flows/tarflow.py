"""TARFlow: a normalizing flow of autoregressive transformer blocks (Zhai et al., arXiv 2412.06329).

An image becomes t tokens of d values. T blocks, alternating between raster and reversed order, map the tokens to noise.
The log-likelihood is exact:

    log p(x | y) = log N(z; 0, I) + log |det dz/dx|,   x^0 = patchify(x),  x^i = f^i(x^(i-1)),  z = x^T

The model only maps data to noise. `labcore.inverse` inverts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labcore.config import TarFlowConfig
from labcore.finite import check_result, check_states, is_looked_at
from labcore.flows.metablock import BlockOutput, Labels, MetaBlock
from labcore.nn.embed import check_labels
from labcore.nn.patch import check_weights_format, patchify, unpatchify
from labcore.nn.pretrained import Pretrained
from labcore.sites import Site, check_inside, layers_by_block
from labcore.types import FlowOutput


class TarFlow(Pretrained, nn.Module):
    """TARFlow with the architecture of `config`; `blocks[0]` touches the image, `blocks[-1]` touches z."""

    config_class = TarFlowConfig

    def __init__(self, config: TarFlowConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(MetaBlock(config, reverse=bool(i % 2)) for i in range(config.num_blocks))
        self.register_buffer("prior_var", torch.ones(config.tokens, config.token_dim))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        y: Labels = None,
        hidden_sites: Iterable[Site] = (),
        callback: Callable[[int, BlockOutput], None] | None = None,
    ) -> FlowOutput:
        """Map images to noise. The result is deterministic in training and in eval mode.

        Args:
            x: images (b, c, h, w) in [-1, 1], plus the noise that training adds.
            y: int64 labels (b,), where NULL = -1 is "no class"; rows of class probabilities (b, k); or None (default), no
                class for all images.
            hidden_sites: (block, layer) pairs, both counted from 1, whose activations are returned; default none.
            callback: called as callback(block, BlockOutput) after each block; default None.

        Returns:
            z (b, t, d), the log-determinant (b,) in nats, the state after each block, and {site: (b, t, width)} of
            `hidden_sites`.

        Raises:
            ValueError: images, labels or sites do not fit the model.
            NotFinite: in eval mode, z or the log-determinant is not finite; `labcore.finite` has the rule.
        """
        out = self._pass(x, y, layers_by_block(check_inside(hidden_sites, self.config.depths)), callback)
        check_states(self, "the flow's pass", out.latents, out.log_det)
        return out

    def unchecked(self, x: Float[Tensor, "b c h w"], y: Labels = None) -> FlowOutput:
        """Map images to noise as `forward`, without the check of values: for training steps, diagnoses and CUDA graphs."""
        return self._pass(x, y, {}, None)

    def _pass(
        self, x: Tensor, y: Labels, layers_of: dict[int, list[int]], callback: Callable[[int, BlockOutput], None] | None
    ) -> FlowOutput:
        """Go through all blocks; `layers_of` has the layers of a block whose hiddens are returned."""
        self.check_images(x)
        self.check_labels(y, x.shape[0])
        tokens, log_det, latents, hiddens = self.patchify(x), 0.0, [], {}  # x^0
        for number, block in enumerate(self.blocks, 1):
            out = block(tokens, y, layers_of.get(number, ()))
            if callback is not None:
                callback(number, out)
            tokens = out.z  # x^i = f^i(x^(i-1))
            log_det = log_det + out.log_det
            latents.append(out.z)
            hiddens.update({(number, layer): h for layer, h in out.hiddens.items()})
        return FlowOutput(tokens, log_det, tuple(latents), hiddens)

    def log_prob(self, x: Float[Tensor, "b c h w"], y: Labels = None) -> Float[Tensor, " b"]:
        """Return log p(x | y) in nats, (b,): the density in pixel space, with pixels in [-1, 1].

        Args:
            x: images (b, c, h, w) in [-1, 1].
            y: labels, as in `forward`; default None, no class.

        Raises:
            ValueError: as `forward`.
            NotFinite: as `forward`.
        """
        out = self(x, y)
        nats = self.log_prior(out.z) + out.log_det
        if is_looked_at(nats, self.training):
            check_result(
                nats, "log_prob", advice="check for pixels far from [-1, 1]; with sound ones, the model has diverged"
            )
        return nats

    def log_prior(self, z: Float[Tensor, "b t d"]) -> Float[Tensor, " b"]:
        """Return log N(z; 0, prior_var) in nats, (b,), for z (b, t, d).

        prior_var is 1, except for volume-preserving flows, which learn it.
        """
        var = self.prior_var.to(z.dtype)
        return -0.5 * (z.square() / var + var.log() + math.log(2 * math.pi)).sum(dim=(1, 2))

    @torch.no_grad()
    def update_prior(self, z: Float[Tensor, "b t d"], rate: float = 0.1) -> None:
        """Move prior_var towards the mean square of z, with ml-tarflow's rule and rate; for training volume-preserving flows.

        The loss differs from ml-tarflow's: ours divides by this variance (`labcore.train.objectives.Likelihood`). The
        objective calls this once per micro-batch. So for these flows, accumulation changes the result by more than
        rounding.
        """
        self.prior_var.lerp_(z.square().mean(dim=0).to(self.prior_var.dtype), rate)

    def patchify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """Cut images (b, c, h, w) into tokens (b, t, d) in raster order."""
        return patchify(x, self.config.patch_size)

    def unpatchify(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b c h w"]:
        """Assemble images (b, c, h, w) from tokens (b, t, d) in raster order."""
        return unpatchify(tokens, self.config.patch_size, self.config.image_shape)

    @property
    def device(self) -> torch.device:
        return self.prior_var.device

    @property
    def dtype(self) -> torch.dtype:
        return self.prior_var.dtype

    @classmethod
    def from_apple(
        cls,
        source: str | Path | Mapping[str, Any],
        image_size: int | None,
        patch_size: int,
        head_dim: int = 64,
        noise_std: float | None = None,
        part: str | None = None,
    ) -> TarFlow:
        """Return a flow with the weights of an ml-tarflow checkpoint; see `labcore.flows.apple.load_apple`."""
        from labcore.flows.apple import load_apple

        return load_apple(cls, source, image_size, patch_size, head_dim, noise_std, part)

    def to_apple(self) -> dict[str, Tensor]:
        """Return this model's state dict with ml-tarflow's names and shapes; errors as `labcore.flows.apple.to_apple`."""
        from labcore.flows.apple import to_apple

        return to_apple(self)

    def check_images(self, x: Tensor) -> None:
        """Check that x is a floating batch of the model's image shape, and that the model has 32 bits or more.

        Looks only at shape and dtype. Raises ValueError.
        """
        shape = self.config.image_shape
        check_weights_format(self.dtype)
        if not x.is_floating_point():
            raise ValueError(
                f"images have dtype {x.dtype}; the flow takes floating images in [-1, 1]. "
                "Convert uint8 with labcore.data.to_float(x)"
            )
        if x.dtype != self.dtype:
            raise ValueError(
                f"images are {x.dtype} and the model is {self.dtype}; convert the images, as in x.to(flow.dtype)"
            )
        if x.ndim != 4 or x.shape[1:] != shape:
            raise ValueError(f"images have shape {tuple(x.shape)}; this model takes (b, {', '.join(map(str, shape))})")

    def check_labels(self, y: Tensor | None, batch: int, ranges: bool = False) -> None:
        """Check that y fits the model; ValueError otherwise. With `ranges`, values are read too, which waits for a GPU."""
        check_labels(y, batch, self.config.num_classes, ranges)
