"""Score denoising: one step of Tweedie's formula with the flow's own density (TARFlow, score based denoising; FlowBack eq. 7).

A flow trained on y = x + noise_std * eps models the density of noisy images. Its posterior mean is

    E[x | y] = y + noise_std^2 * grad_y log p(y)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.finite import check_result, require_finite
from labcore.flows.metablock import Labels
from labcore.flows.slopes import slopes
from labcore.flows.tarflow import TarFlow


def denoise(
    flow: TarFlow, x: Float[Tensor, "b c h w"], y: Labels = None, noise_std: float | None = None
) -> Float[Tensor, "b c h w"]:
    """Return x + noise_std^2 * score, detached and not clipped.

    Uses the label but no guidance, as ml-tarflow does. Works inside no_grad and inference_mode. The result does not
    depend on the batch, which is split if its activations are large.

    Args:
        flow: the flow whose score denoises.
        x: noisy images (b, c, h, w).
        y: labels, as in the flow; default None, no class.
        noise_std: standard deviation of the noise, 0 to 100; default None, the flow's training noise. 0 returns x.

    Raises:
        ValueError: x does not fit the flow or is not finite, or noise_std is out of range.
        NotFinite: the score is not finite.
    """
    std = noise_level(flow, noise_std)
    if std == 0:
        return x
    flow.check_images(x)
    flow.check_labels(y, len(x))
    require_finite(x, "x", "check what made it (guidance too high is a common cause)")

    def denoised(rows: slice) -> Tensor:
        leaf = x[rows].detach().clone().requires_grad_()
        labels = None if y is None else y[rows].detach().clone()
        out = flow.unchecked(leaf, labels)
        (score,) = torch.autograd.grad((flow.log_prior(out.z) + out.log_det).sum(), leaf)
        return leaf.detach() + std**2 * score

    clean = slopes(flow, denoised, len(x))
    advice = "x is far from the images that the flow has seen: give less guidance, or noise_std=0 to skip denoising"
    check_result(clean, "denoise", given=f"noise_std was {std:g}", advice=advice)
    return clean


def noise_level(flow: TarFlow, noise_std: float | None) -> float:
    """Return `noise_std`, or the flow's training noise if it is None; ValueError unless it is in 0 to 100."""
    std = flow.config.noise_std if noise_std is None else noise_std
    if not 0 <= std <= 100:
        raise ValueError(f"noise_std was {std}; it is a standard deviation in units of pixels in [-1, 1]: 0 to 100")
    return std
