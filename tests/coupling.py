"""A flow of RealNVP-style couplings (arXiv 1605.08803) on tokens: another block that alignment must work with."""

from __future__ import annotations

import torch
from torch import nn

from labcore import TarFlow, TarFlowConfig
from labcore.flows.metablock import BlockOutput
from labcore.kernels.affine import affine_forward


class Coupling(nn.Module):
    """Half of each token's values, and every other token, stay; they give the affine parameters of the rest.

    Tokens are mixed in both directions, so nothing here is causal from token to token. It stays in raster order.
    """

    def __init__(self, tokens: int, token_dim: int, width: int, depth: int, odd: bool, num_classes: int):
        super().__init__()
        kept = (torch.arange(tokens)[:, None] + torch.arange(token_dim)) % 2 == odd
        self.register_buffer("kept", kept)
        self.inner = nn.Linear(token_dim, width)
        self.classes = nn.Embedding(num_classes + 1, width)  # row 0: no class
        self.mix = nn.ModuleList(nn.Linear(tokens, tokens) for _ in range(depth))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outer = nn.Linear(width, 2 * token_dim)

    def params(self, v, y, layers=()):
        """(log_scale, shift), 0 for what stays, and the hiddens asked for."""
        y = torch.full((len(v),), -1) if y is None else y
        h, hiddens = self.inner(v * self.kept) + self.classes(y + 1)[:, None], {}
        for number, (mix, layer) in enumerate(zip(self.mix, self.layers, strict=True), 1):
            h = h + torch.tanh(layer(mix(h.mT).mT))
            if number in layers:
                hiddens[number] = h
        log_scale, shift = (self.outer(h) * ~self.kept.repeat(1, 2)).chunk(2, dim=-1)
        return log_scale, shift, hiddens

    def forward(self, x, y=None, layers=()):
        log_scale, shift, hiddens = self.params(x, y, layers)
        z, log_det = affine_forward(x, log_scale, shift)
        return BlockOutput(z, log_det, log_scale, hiddens)

    def generate(self, z, y, stop: bool):
        """The inverse in two steps: what stayed, then the rest; `stop` cuts the gradient in between."""
        log_scale, shift, _ = self.params((z.detach() if stop else z) * self.kept, y)
        return z * log_scale.exp() + shift


def coupling_flow(seed: int = 0) -> TarFlow:
    """A TarFlow whose blocks are couplings, float64, with generous weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = TarFlowConfig(
            image_size=8, channels=3, patch_size=2, width=16, num_blocks=3, layers_per_block=2, head_dim=8
        )
        flow = TarFlow(config.replace(num_classes=5))
        sizes = (config.tokens, config.token_dim, config.width, config.layers_per_block)
        flow.blocks = nn.ModuleList(Coupling(*sizes, odd=bool(i % 2), num_classes=5) for i in range(3))
        return flow.double().eval()
