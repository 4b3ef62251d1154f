"""Objectives: an objective takes the model and a clean `Batch`, and returns a scalar and detached scalars to log.

Noise, dequantisation and label dropout belong to the objective: the model is deterministic. Random numbers come from
`StepNoise`, so a step's noise does not depend on how the step is split.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labcore.data.transforms import dequantize
from labcore.flows.metablock import Labels
from labcore.flows.tarflow import TarFlow
from labcore.rng import StepNoise
from labcore.sites import Site
from labcore.types import NULL, Batch, FlowOutput

Logs = dict[str, Tensor]


class Likelihood(nn.Module):
    """Negative log-likelihood in nats per dimension (TARFlow, training objective).

    Equal to ml-tarflow's loss, 0.5 mean(z^2) + mean(log_scale), plus the constant 0.5 ln(2 pi) = 0.919, so the number in
    the log is the true density. Pixels are noised or dequantised as in the model's configuration. Labels are dropped with
    probability `label_dropout`. Logged: the loss, and the largest |log_scale| of any block, image and token.

    For volume-preserving flows the two losses differ. ml-tarflow minimises 0.5 mean(z^2), and uses the variance v that it
    learns for each value (`TarFlow.update_prior`) only for sampling. Ours is the likelihood under N(0, v),
    0.5 mean(z^2 / v) + 0.5 mean(ln v) + 0.919, whose gradient has a factor 1 / v.
    """

    def __init__(self, label_dropout: float = 0.1):
        super().__init__()
        self.label_dropout = label_dropout

    def forward(self, flow: nn.Module, batch: Batch, noise: StepNoise) -> tuple[Float[Tensor, ""], Logs]:
        x, y = noised(flow, batch.x, noise), drop_labels(batch.y, self.label_dropout, noise)
        out, peak = with_peak(flow, x, y)
        nats = self.nats(flow, out)
        return nats, {"nats_per_dim": nats.detach(), "max_log_scale": peak}

    def nats(self, flow: nn.Module, out: FlowOutput) -> Float[Tensor, ""]:
        """Return the loss of a forward pass; a volume-preserving flow's prior also learns from it."""
        if flow.config.volume_preserving and self.training:
            flow.update_prior(out.z)
        return -(flow.log_prior(out.z) + out.log_det).mean() / flow.config.dims


def with_peak(
    flow: nn.Module, x: Float[Tensor, "b c h w"], y: Labels, hidden_sites: Iterable[Site] = ()
) -> tuple[FlowOutput, Float[Tensor, ""]]:
    """Return the flow's output, and the largest |log_scale| of any block, image and token, without gradient."""
    ends: list[Tensor] = []
    out = flow(x, y, hidden_sites, lambda _, block: ends.extend(block.log_scale.detach().aminmax()))
    return out, torch.stack(ends).abs().amax()


def noised(flow: TarFlow, x: Float[Tensor, "b c h w"], noise: StepNoise) -> Float[Tensor, "b c h w"]:
    """Return the images that the flow is trained on: with Gaussian noise, or dequantised, by its configuration."""
    shape = tuple(x.shape[1:])
    if flow.config.noise == "uniform":
        return dequantize(x, noise.uniform("dequantisation", shape))
    return x + flow.config.noise_std * noise.normal("noise", shape)


def once_noised(flow: TarFlow, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return images with the same noise at every call, so that records of one run can be compared."""
    return noised(flow, x, StepNoise(0, 0, len(x), x.device))


def drop_labels(y: Int[Tensor, " b"] | None, probability: float, noise: StepNoise) -> Int[Tensor, " b"] | None:
    """Replace labels by NULL with the given probability."""
    if y is None or probability == 0:
        return y
    return torch.where(noise.uniform("label dropout") < probability, NULL, y)
