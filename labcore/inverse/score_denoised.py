"""A student whose images are denoised by the score of the flow that it inverts (BiFlow, the ablation of denoising)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labcore import provenance
from labcore.flows.tarflow import TarFlow
from labcore.inverse.denoise import denoise
from labcore.inverse.sample import OnePass


class ScoreDenoised(nn.Module):
    """`model` gives the noisy image x^0 in one pass, and the score of `flow` denoises it: x^0 + noise_std^2 grad log p(x^0).

    model: a student without a denoising block. flow: the flow that it inverts; noise_std is its training noise.
    Images are drawn from it as from `model`: only `model` uses the guidance, and both use the label. Raises ValueError if
    `model` denoises by itself, and if the images of the two have different shapes.
    """

    def __init__(self, model: OnePass, flow: TarFlow):
        super().__init__()
        drawn, taken = tuple(model.config.image_shape), tuple(flow.config.image_shape)
        if model.config.denoiser:
            raise ValueError("this student has a denoising block; the score is for one without such a block")
        if drawn != taken:
            raise ValueError(f"the student gives images of {drawn}, the flow takes {taken}; both need the same")
        self.model, self.flow, self.config = model, flow, model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @torch.no_grad()
    def forward(self, z: Tensor, y: Tensor | None = None, guidance: Any = 0.0) -> Any:
        """Return the output of `model` with denoised images x, not clipped; its states are unchanged. Raises as `denoise`."""
        out = self.model(z, y, guidance)
        return out._replace(x=denoise(self.flow, out.x, y))

    def check_labels(self, y: Tensor | None, batch: int, ranges: bool = False) -> None:
        """Raises as the student does."""
        self.model.check_labels(y, batch, ranges)

    def denoised_by(self) -> dict[str, Any]:
        """Return what the denoising depends on, as JSON values: a hash of the flow's weights, and its configuration."""
        return {"score_of": provenance.weights_hash(self.flow), **self.flow.config.computation()}
