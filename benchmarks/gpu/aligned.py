"""Rows 25 and 26: what alignment adds to a training step, and features inside the generative pass with their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.align import token_by_token
from benchmarks.gpu.measure import Failed, in_turn
from benchmarks.gpu.setting import Setting, at_least, at_most, entry, times_as_fast
from benchmarks.gpu.steps import our_step
from labcore.align import features
from labcore.config import AlignConfig
from labcore.rng import StepNoise
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.types import Batch

LIMITS = {"forward": 1.05, "reverse": 1.4}


class Tokens:
    """An encoder's tokens that are at hand: random ones, of FlowBack's width."""

    about, width = "random", 768

    def __init__(self, images: int, tokens: int, device: torch.device):
        self.values = torch.randn(images, tokens, self.width, device=device)

    def __call__(self, batch: Batch) -> Tensor:
        return self.values


def step(s: Setting) -> list[dict[str, Any]]:
    """Row 25: a step with two aligned sites in each direction, by a plain one; all eager and without an optimizer."""
    images = s.sizes.batch
    ways = {"plain": our_step(s, s.flow, images), **{d: aligned_step(s, d, images) for d in LIMITS}}
    found = in_turn(ways, s.budget)
    entries = [entry("plain", found["plain"])]
    for direction, limit in LIMITS.items():
        taken = found[direction]
        if isinstance(taken, Failed):
            entries.append(entry(direction, None, reason=taken.reason))
        else:
            checks = (at_most("times plain", taken.seconds / found["plain"].seconds, limit),)
            entries.append(entry(direction, taken, checks=checks))
    return entries


def aligned_step(s: Setting, direction: str, images: int) -> Callable[[], None]:
    """Forward and backward pass of likelihood and alignment at the last two blocks, three quarters into their layers."""
    c = s.flow.config
    layer = max(3 * c.layers_per_block // 4, 1)
    config = AlignConfig(direction=direction, sites=((c.num_blocks - 1, layer), (c.num_blocks, layer)))
    targets = Tokens(images, c.tokens, s.device)
    objective = LikelihoodAndAlignment(config, c, targets, label_dropout=0.0).to(s.device)
    batch, noise = s.batch(images), StepNoise(0, 0, images, s.device)

    def step() -> None:
        with s.autocast("bf16"):
            loss, _ = objective(s.flow, batch, noise)
        loss.backward()
        s.flow.zero_grad(set_to_none=True)
        objective.zero_grad(set_to_none=True)

    return step


def pseudo_reverse(s: Setting) -> list[dict[str, Any]]:
    """Row 26: features of all blocks in the generative pass and their gradient, in parallel and token by token."""
    flow, images = s.mid, s.sizes.mid_batch
    z, y = s.noise(flow, images)
    x = flow.unpatchify(z)
    with torch.no_grad():
        states = flow(x, y)
    sites = [(block, flow.config.layers_per_block) for block in range(1, flow.config.num_blocks + 1)]

    def with_gradient(found: dict[Any, Tensor]) -> None:
        sum(h.square().mean() for h in found.values()).backward()
        flow.zero_grad(set_to_none=True)

    ways = {
        "reverse": lambda: with_gradient(features(flow, x, y, sites, "reverse", 0, states)),
        "token by token": lambda: with_gradient(token_by_token(flow, y, sites, states)),
    }
    others = torch.cuda.memory_allocated() if s.cuda else 0
    found = in_turn(ways, s.budget)
    ours, naive = found["reverse"], found["token by token"]
    if isinstance(naive, Failed):
        return [entry("reverse", ours), entry("token by token", None, reason=naive.reason)]
    memory = None
    if ours.peak_bytes and naive.peak_bytes and naive.peak_bytes > others:
        memory = (ours.peak_bytes - others) / (naive.peak_bytes - others)
    checks = (
        at_least("times token by token", times_as_fast(ours, naive), 50),
        at_most("share of its memory", memory, 0.1),
    )
    return [entry("reverse", ours, checks=checks, memory_share=memory), entry("token by token", naive)]
