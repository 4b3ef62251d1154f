"""Sentences that describe a plan, for `lab plan` and `lab rehearse`."""

from __future__ import annotations

from labcore.plan.machine import Machine
from labcore.plan.step import STARTED, STARTED_ON_CPU, Estimate, Plan

IMAGENET = 1_281_167
"""Number of training images of ImageNet; sizes on disk are given for these if there are no data."""


def sizes(plan: Plan) -> list[str]:
    """List parameters, arithmetic, memory and length of a run, one sentence each."""
    frozen = f", {gflops(plan.frozen)} of them in frozen networks" if plan.frozen else ""
    return [
        f"{plan.parameters:,} parameters ({plan.trained:,} trained), {plan.tokens:,} tokens an image",
        f"{gflops(plan.flops)} and {size(plan.activations)} of activations an image and step{frozen}",
        f"{size(plan.held)} of weights, gradients, AdamW and averaged weights on each device",
        f"{plan.steps:,} steps of {plan.batch_size:,} images",
    ]


def on_machines(who: str, e: Estimate) -> str:
    """Describe time and memory of a run on some devices of one kind, which `who` names."""
    if not e.micro_batch:
        return f"{who} too small: one image takes {size(e.memory)}"
    again = f" (train.accumulation={e.accumulation})" if e.accumulation > 1 else ""
    return (
        f"{who} {e.duration:>14s}, {step(e.seconds_per_step)} a step, {e.tokens:,.0f} tokens/s, "
        f"{e.micro_batch} images at a time in {size(e.memory)}{again}"
    )


def of_small_steps(plan: Plan, estimates: list[Estimate]) -> str | None:
    """Return a note if starting the operators of a step takes longer than their arithmetic on some device; else None."""
    if not any(e.by_starting for e in estimates):
        return None
    return (
        f"a small model: the time above is mostly that of starting the {plan.operators:,} operators of a step, at an assumed "
        f"{1e6 * STARTED:.0f} microseconds each on a GPU and {1e6 * STARTED_ON_CPU:.0f} on a CPU; more GPUs do not help"
    )


def peaks(machine: Machine) -> str:
    """Say where the FLOP/s of this machine come from."""
    if machine.known:
        return f"{machine.name}: {machine.known} in the table, with the vendor's peak"
    half, single = (f"{peak / 1e12:.2g}" for peak in machine.gpu[:2])
    if half == single:
        measured = f"{single} TFLOP/s"
    else:
        measured = f"{half} TFLOP/s in bfloat16, {single} in float32"
    return f"{machine.name}: {measured}, measured now on a matrix product; an estimate"


def step(seconds: int | float) -> str:
    """Write the time of a step in seconds or milliseconds."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1000 * seconds:.3g} ms" if seconds >= 1e-3 else "under 1 ms"


def gflops(count: int | float) -> str:
    """FLOPs in GFLOPs, with two digits at least."""
    return f"{count / 1e9:,.1f} GFLOPs" if count >= 1e10 else f"{count / 1e9:.2g} GFLOPs"


def size(count: int | float) -> str:
    """Write bytes in kB, MB, GB or TB."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:,.{1 if count < 10 * length else 0}f} {unit}"
    return f"{count / 1e3:,.1f} kB"
