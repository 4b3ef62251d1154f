"""TARFlow: a normalizing flow of autoregressive transformer blocks (Zhai et al., arXiv 2412.06329).

An image becomes t tokens of d values; T blocks, alternating between raster and reversed order, turn them into noise. The
log-likelihood is exact:

    log p(x | y) = log N(z; 0, I) + log |det dz/dx|,   x^0 = patchify(x),  x^i = f^i(x^(i-1)),  z = x^T

The model only maps data to noise. Inverting it is the business of `labcore.inverse`.
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
from labcore.types import FlowOutput, Site


class TarFlow(Pretrained, nn.Module):
    """TARFlow with the architecture that `config` says; `blocks[0]` touches the image, `blocks[-1]` touches z."""

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
        """Images in [-1, 1] (plus whatever noise training adds) to noise, deterministic in every mode.

        y: int64 (b,), NULL = -1 for "no class"; rows of class probabilities (b, k); or None, no class for all.
        hidden_sites: 1-based (block, layer) pairs whose activations are wanted. callback(block, BlockOutput) sees every
        block as it is computed. Raises ValueError for images or labels that do not fit the model, and in eval mode
        `labcore.finite.NotFinite` where z or log-determinant are not finite; that module has the rule.
        """
        out = self.unchecked(x, y, hidden_sites, callback)
        check_states(self, "the flow's pass", out.latents, out.log_det)
        return out

    def unchecked(
        self,
        x: Float[Tensor, "b c h w"],
        y: Labels = None,
        hidden_sites: Iterable[Site] = (),
        callback: Callable[[int, BlockOutput], None] | None = None,
    ) -> FlowOutput:
        """`forward` without the look at the result's values: for training steps, diagnoses and CUDA graphs."""
        self.check_images(x)
        self.check_labels(y, x.shape[0])
        layers_of = self._layers_by_block(hidden_sites)
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
        """log p(x | y) in nats, the density in pixel space with pixels in [-1, 1]. Raises as the flow itself."""
        out = self(x, y)
        nats = self.log_prior(out.z) + out.log_det
        if is_looked_at(nats, self.training):
            check_result(
                nats, "log_prob", advice="check for pixels far from [-1, 1]; with sound ones, the model has diverged"
            )
        return nats

    def log_prior(self, z: Float[Tensor, "b t d"]) -> Float[Tensor, " b"]:
        """log N(z; 0, prior_var) in nats; prior_var is 1 except for volume-preserving flows, which learn it."""
        var = self.prior_var.to(z.dtype)
        return -0.5 * (z.square() / var + var.log() + math.log(2 * math.pi)).sum(dim=(1, 2))

    @torch.no_grad()
    def update_prior(self, z: Float[Tensor, "b t d"], rate: float = 0.1) -> None:
        """Move prior_var towards the mean square of z, in training of volume-preserving flows, by ml-tarflow's rule and rate.

        The loss is not ml-tarflow's: ours divides by this variance (`labcore.train.objectives.Likelihood`).
        The objective calls it once per micro-batch, so for these flows accumulation is not only rounding.
        """
        self.prior_var.lerp_(z.square().mean(dim=0).to(self.prior_var.dtype), rate)

    def patchify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """Images to tokens in raster order."""
        return patchify(x, self.config.patch_size)

    def unpatchify(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b c h w"]:
        """Tokens in raster order to images."""
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
        """A flow with the weights of an ml-tarflow checkpoint; see `labcore.flows.apple`."""
        from labcore.flows.apple import load_apple

        return load_apple(cls, source, image_size, patch_size, head_dim, noise_std, part)

    def to_apple(self) -> dict[str, Tensor]:
        """The state dict of the same model in ml-tarflow's names and shapes, every key; see `labcore.flows.apple`."""
        from labcore.flows.apple import to_apple

        return to_apple(self)

    def check_images(self, x: Tensor) -> None:
        """ValueError unless x is a floating batch of the model's image shape, and the model of 32 bits or more.

        Looks at shape and dtype only.
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
        """ValueError unless y fits the model. `ranges` looks at the values on a GPU too, which waits for it."""
        check_labels(y, batch, self.config.num_classes, ranges)

    def _layers_by_block(self, sites: Iterable[Site]) -> dict[int, list[int]]:
        c, layers_of = self.config, {}
        for block, layer in sites:
            if not (1 <= block <= c.num_blocks and 1 <= layer <= c.layers_per_block):
                raise ValueError(
                    f"site ({block}, {layer}) is outside the model: blocks are 1..{c.num_blocks}, "
                    f"layers 1..{c.layers_per_block}, both counted from 1"
                )
            layers_of.setdefault(block, []).append(layer)
        return layers_of
