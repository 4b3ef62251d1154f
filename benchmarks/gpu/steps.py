"""Rows 5 to 10: training steps, the update of weights, and the plan beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.bounds import step_flops, update_bytes
from benchmarks.gpu.measure import free_memory, in_turn, one
from benchmarks.gpu.record import Check
from benchmarks.gpu.setting import Setting, at_least, at_most, entry, times_as_fast, twin
from labcore.config import RunConfig, TrainConfig
from labcore.memory import peak_of
from labcore.nn.bidirectional import BidirectionalLayer
from labcore.nn.layer import TransformerLayer
from labcore.plan import GPUS, estimate, plan
from labcore.rng import StepNoise
from labcore.train.objectives import Likelihood
from labcore.train.optim import Ema, make_optimizer
from labcore.train.precision import try_compile
from labcore.train.recompute import recompute_layers
from labcore.types import Batch

UPDATE = TrainConfig(steps=2, lr=1e-12, min_lr=0.0, weight_decay=0.0)
"""An optimizer that leaves the weights as they are."""


def our_step(s: Setting, flow: nn.Module, images: int, parts: int = 1) -> Callable[[], None]:
    """Forward and backward pass of the likelihood in bfloat16 autocast, in equal parts whose gradients are summed."""
    batch, objective = s.batch(images), Likelihood(label_dropout=0.0)
    noise, size = StepNoise(0, 0, images, s.device), images // parts

    def step() -> None:
        for first in range(0, images, size):
            rows = slice(first, first + size)
            with s.autocast("bf16"):
                loss, _ = objective(flow, Batch(*(each[rows] for each in batch)), noise.share(rows))
            (loss / parts).backward()
        flow.zero_grad(set_to_none=True)

    return step


def their_step(s: Setting, theirs: nn.Module, images: int) -> Callable[[], None]:
    """The same step of ml-tarflow."""
    batch, std = s.batch(images), s.flow.config.noise_std

    def step() -> None:
        with s.autocast("bf16"):
            z, _, log_det = theirs(batch.x + std * torch.randn_like(batch.x), batch.y)
            loss = theirs.get_loss(z, log_det)
        loss.backward()
        theirs.zero_grad(set_to_none=True)

    return step


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The transformer layers, which are compiled one by one: one program serves all of them."""
    return [module for module in model.modules() if isinstance(module, TransformerLayer | BidirectionalLayer)]


def compiled_flow(s: Setting, flow: nn.Module, images: int) -> nn.Module:
    """The flow with its layers compiled. Raises RuntimeError where that fails."""
    if not try_compile(layers_of(flow), our_step(s, flow, images)):
        raise RuntimeError("the training step could not be compiled; its warning says why")
    return flow


def compiled_theirs(s: Setting) -> nn.Module | None:
    """ml-tarflow's layers compiled one by one, as ours are."""
    if s.theirs is None:
        return None
    found = twin(s.theirs)
    for block in found.blocks:
        for layer in block.attn_blocks:
            layer.compile()
    return found


def plain(s: Setting) -> list[dict[str, Any]]:
    """Row 5: the step as it is, both eager."""
    ways, images = {"ours": our_step(s, s.flow, s.sizes.batch)}, s.sizes.batch
    if s.theirs is not None:
        ways["theirs"] = their_step(s, s.theirs, images)
    found = in_turn(ways, s.budget)
    ours, theirs = found["ours"], found.get("theirs")
    checks = [at_most("ms", 1000 * ours.seconds, 205)]
    if theirs is not None:
        checks.append(at_least("times ml-tarflow", times_as_fast(ours, theirs), 1.1))
    return [entry("plain", ours, step_floor(s, images), theirs, tuple(checks))]


def compiled(s: Setting) -> list[dict[str, Any]]:
    """Row 6: the step compiled, and ml-tarflow's compiled and eager beside it."""
    ways = {"ours": our_step(s, compiled_flow(s, twin(s.flow), s.sizes.batch), s.sizes.batch)}
    if s.theirs is not None:
        ways["theirs"] = their_step(s, compiled_theirs(s), s.sizes.batch)
    found = in_turn(ways, s.budget)
    ours, theirs = found["ours"], found.get("theirs")
    eager = s.record.seconds(5, of="theirs")
    checks = [at_most("ms", 1000 * ours.seconds, 165)]
    if theirs is not None:
        checks.append(at_least("times ml-tarflow eager", eager and eager / ours.seconds, 1.35))
        checks.append(at_least("times ml-tarflow compiled", times_as_fast(ours, theirs), 1.1))
    return [entry("compiled", ours, step_floor(s, s.sizes.batch), theirs, tuple(checks))]


def in_parts(s: Setting) -> list[dict[str, Any]]:
    """Row 7: a batch of `parts` times the images, in as many compiled parts."""
    images = s.sizes.parts * s.sizes.batch
    flow = compiled_flow(s, twin(s.flow), s.sizes.batch)
    ours = one(our_step(s, flow, images, s.sizes.parts), s.budget)
    return [
        entry("in parts", ours, step_floor(s, images), checks=(at_most("ms", 1000 * ours.seconds, 660),), images=images)
    ]


def recomputed(s: Setting) -> list[dict[str, Any]]:
    """Row 8: the same batch at once, with layers that compute their activations again; compiled, as `train` does both."""
    images, flow = s.sizes.parts * s.sizes.batch, twin(s.flow)
    recompute_layers(flow)
    others = held_by_others(s)
    ours = one(our_step(s, compiled_flow(s, flow, images), images), s.budget)
    by, peak = s.record.seconds(7), ours.peak_bytes and ours.peak_bytes - others
    checks = (
        at_most("times row 7", by and ours.seconds / by, 1.35),
        at_most("GB at the peak", peak and peak / 1e9, 40),
    )
    return [entry("recomputed", ours, step_floor(s, images), checks=checks, images=images, own_peak_bytes=peak)]


def update(s: Setting) -> list[dict[str, Any]]:
    """Row 9: clipping, AdamW and the average of the weights."""
    flow = s.flow
    optimizer, average = make_optimizer(flow.parameters(), UPDATE), Ema(flow, UPDATE.ema_decay)
    for p in flow.parameters():
        p.grad = torch.full_like(p, 1e-6)

    def updated() -> None:
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        average.update(flow, 1000)

    try:
        ours = one(updated, s.budget)
    finally:
        flow.zero_grad(set_to_none=True)
    floor = s.bounds.traffic(update_bytes(sum(p.numel() for p in flow.parameters())))
    return [entry("update", ours, floor, checks=(at_most("ms", 1000 * ours.seconds, 20),))]


def planned(s: Setting) -> list[dict[str, Any]]:
    """Row 10: seconds of a whole step and its peak of memory, by what `labcore.plan` says of this card."""
    images = s.sizes.batch
    config = RunConfig(model=s.flow.config, train=TrainConfig(steps=2, batch_size=images, precision="bf16"))
    card = "h200" if "H200" in s.record.values.get("device", "") else "h100"
    said = estimate(plan(config), GPUS[card], 1)
    step = [s.record.seconds(6) or s.record.seconds(5), s.record.seconds(9)]
    seconds = None if None in step else sum(step)
    peak = whole_step_bytes(s, images)
    checks = (
        Check("seconds, measured / planned, 0.8 to 1.25", seconds and seconds / said.seconds_per_step, 0.8, 1.25),
        Check("memory, measured / planned, 0.85 to 1.15", peak and peak / said.memory, 0.85, 1.15),
    )
    more = {"planned_s": said.seconds_per_step, "measured_s": seconds, "planned_bytes": said.memory}
    return [entry("plan", None, checks=checks, measured_bytes=peak, card=card, **more)]


def whole_step_bytes(s: Setting, images: int) -> int | None:
    """The peak of one step with optimizer and average, on top of what other rows hold; None where it is not known."""
    flow, others = s.flow, held_by_others(s)
    optimizer, average = make_optimizer(flow.parameters(), UPDATE), Ema(flow, UPDATE.ema_decay)
    batch, objective, noise = s.batch(images), Likelihood(label_dropout=0.0), StepNoise(0, 0, images, s.device)

    def step() -> None:
        with s.autocast("bf16"):
            loss, _ = objective(flow, batch, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        average.update(flow, 1000)
        flow.zero_grad(set_to_none=True)

    step()  # the optimizer's moments are there from here on
    if not s.cuda:
        return peak_of(step)
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - others


def held_by_others(s: Setting) -> int:
    """Bytes on the device that are no weights of the flow; 0 on a CPU."""
    free_memory()
    own = sum(p.numel() * p.element_size() for p in s.flow.parameters())
    return torch.cuda.memory_allocated() - own if s.cuda else 0


def step_floor(s: Setting, images: int) -> float | None:
    """Lower bound of a training step in bfloat16."""
    return s.bounds.arithmetic(images * step_flops(s.flow), "bf16")
