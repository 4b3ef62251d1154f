"""R-REPA: likelihood plus alignment of hidden features with tokens of a frozen encoder (FlowBack, equation 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labcore.align.features import features
from labcore.align.heads import Heads
from labcore.align.losses import LOSSES
from labcore.config import AlignConfig, TarFlowConfig
from labcore.data.loaders import Extra
from labcore.rng import StepNoise, seed_of
from labcore.sites import Site
from labcore.train.objectives import Likelihood, Logs, drop_labels, noised, with_peak
from labcore.train.stopwatch import Stopwatch
from labcore.train.targets import Targets
from labcore.types import Batch


class LikelihoodAndAlignment(Likelihood):
    """nats/dim + weight x mean over the sites of the loss between projected features and encoder tokens.

    The flow sees the noisy image, the encoder the clean one. The projectors are parameters of this objective, initialised
    from `seed`; the encoder is not part of it. Logged: both terms, the loss of each site, the largest |log_scale|, and
    the seconds of encoder, forward pass and rebuilt generative pass.
    """

    def __init__(
        self, config: AlignConfig, model: TarFlowConfig, targets: Targets, label_dropout: float = 0.1, seed: int = 0
    ):
        super().__init__(label_dropout)
        self.config, self.targets = config, targets
        hidden = config.projector_width or model.width
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(seed, "projectors"))
            self.heads = Heads(config.sites, model.width, hidden, targets.width, config.projectors)
        self._watch = Stopwatch()

    @property
    def extra(self) -> Extra | None:
        """Return what a loader reads with the images: the tokens that are stored on disk."""
        return getattr(self.targets, "read", None)

    def forward(self, flow: nn.Module, batch: Batch, noise: StepNoise) -> tuple[Float[Tensor, ""], Logs]:
        nats, losses, peak = self._terms(flow, batch, noise)
        align = torch.stack(list(losses.values())).mean()
        logs = {"nats_per_dim": nats.detach(), "align": align.detach(), "max_log_scale": peak}
        logs |= {f"align/block{block}-layer{layer}": loss.detach() for (block, layer), loss in losses.items()}
        logs |= {f"seconds/{part}": torch.full_like(nats, seconds) for part, seconds in self._watch.seconds().items()}
        return nats + self.config.weight * align, logs  # equation 5

    def terms(
        self, flow: nn.Module, batch: Batch, noise: StepNoise
    ) -> tuple[Float[Tensor, ""], dict[tuple[int, int], Float[Tensor, ""]]]:
        """Return nats/dim, and the alignment loss at each site; both with their graphs."""
        return self._terms(flow, batch, noise)[:2]

    def _terms(self, flow: nn.Module, batch: Batch, noise: StepNoise) -> tuple[Tensor, dict[Site, Tensor], Tensor]:
        """Return the terms of equation 5 (nats/dim and the alignment loss at each site), and the largest |log_scale|."""
        c, watch = self.config, self._watch
        watch.start(batch.x.device)
        with watch.part("encoder"):
            target = self.targets(batch)
        x, y = noised(flow, batch.x, noise), drop_labels(batch.y, self.label_dropout, noise)
        with watch.part("forward"):
            out, peak = with_peak(flow, x, y, c.sites if c.direction == "forward" else ())
        with watch.part("features"):
            hiddens = features(flow, x, y, c.sites, c.direction, c.adjoint_sweeps, states=out)
        loss = LOSSES[c.loss]
        projected = self.heads(hiddens)
        losses = {site: loss(p, target).mean() for site, p in projected.items()}  # equation 4, of each site
        return self.nats(flow, out), losses, peak
