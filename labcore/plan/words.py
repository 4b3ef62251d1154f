"""The sentences in which `lab plan` and `lab rehearse` say a plan."""

from __future__ import annotations

from labcore.plan.machine import Machine
from labcore.plan.step import Estimate, Plan

SMALL_STEP = 0.01
"""Seconds of a step below which a GPU's time is not that of arithmetic; our choice."""
IMAGENET = 1_281_167
"""Training images of ImageNet, for which sizes on disk are said where no data are given."""


def sizes(plan: Plan) -> list[str]:
    """Parameters, arithmetic, memory and length of a run, a sentence each."""
    frozen = f", {plan.frozen / 1e9:,.1f} GFLOPs of them in frozen networks" if plan.frozen else ""
    return [
        f"{plan.parameters:,} parameters ({plan.trained:,} trained), {plan.tokens:,} tokens an image",
        f"{plan.flops / 1e9:,.1f} GFLOPs and {size(plan.activations)} of activations an image and step{frozen}",
        f"{size(plan.held)} of weights, gradients, AdamW and averaged weights on each device",
        f"{plan.steps:,} steps of {plan.batch_size:,} images",
    ]


def on_machines(who: str, e: Estimate) -> str:
    """Time and memory of a run on some devices of a kind, which `who` names."""
    if not e.micro_batch:
        return f"{who} too small: one image takes {size(e.memory)}"
    again = f" (train.accumulation={e.accumulation})" if e.accumulation > 1 else ""
    return (
        f"{who} {e.duration:>14s}, {step(e.seconds_per_step)} a step, {e.tokens:,.0f} tokens/s, "
        f"{e.micro_batch} images at a time in {size(e.memory)}{again}"
    )


def of_small_steps(estimates: list[Estimate]) -> str | None:
    """A warning about runs whose steps are shorter than a GPU can be told to make them; None for larger ones."""
    if not any(e.seconds_per_step < SMALL_STEP for e in estimates):
        return None
    return (
        f"steps of less than {1000 * SMALL_STEP:.0f} ms on a GPU are lower bounds: starting a step's kernels takes longer "
        "than their arithmetic, and is not counted"
    )


def peaks(machine: Machine) -> str:
    """Where the FLOP/s of this machine are from."""
    if machine.known:
        return f"{machine.name}: {machine.known} in the table, with the vendor's peak"
    half, single = (f"{peak / 1e12:.2g}" for peak in machine.gpu[:2])
    if half == single:
        measured = f"{single} TFLOP/s"
    else:
        measured = f"{half} TFLOP/s in bfloat16, {single} in float32"
    return f"{machine.name}: {measured}, measured now on a matrix product; an estimate"


def step(seconds: int | float) -> str:
    """The time of a step, in seconds or milliseconds."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1000 * seconds:.3g} ms" if seconds >= 1e-3 else "under 1 ms"


def size(count: int | float) -> str:
    """Bytes in kB, MB, GB or TB."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:,.{1 if count < 10 * length else 0}f} {unit}"
    return f"{count / 1e3:,.1f} kB"
