"""Settings and GPUs with which a run would fit that does not fit on this machine."""

from __future__ import annotations

from typing import Any

from labcore.config import BaseRunConfig, TarFlowConfig
from labcore.plan import GPUS, Estimate, Machine, Plan, duration, estimate, plan, words
from labcore.plan.step import Gpu

NEEDED = 2
"""Number of steps for which a rehearsal needs time; our choice."""


def micro_batch(config: BaseRunConfig, processes: int) -> int:
    """Return the number of images that a device takes at a time."""
    return config.train.batch_size // (processes * config.train.accumulation)


def memory_of(plan: Plan, images: int) -> int:
    """Return the planned memory of a device in bytes, with this number of images at a time."""
    return plan.held + images * plan.activations


def too_large(
    config: BaseRunConfig, plan: Plan, machine: Machine, expected: Estimate, processes: int, seconds: int | float
) -> str | None:
    """Return the reason why a trial is not started on a CPU, too little memory or time; None if it can be started.

    With too little memory the system would kill the process. On a GPU the trial is always started, because a GPU reports
    that its memory is full.
    """
    if machine.kind != "cpu":
        return None
    needed = memory_of(plan, micro_batch(config, processes))
    if needed > machine.gpu.memory:
        return f"a step needs {words.size(needed)} by the plan, and {words.size(machine.gpu.memory)} are free here"
    if NEEDED * expected.seconds_per_step > seconds:
        return (
            f"a step takes about {duration(expected.seconds_per_step)} here by the plan; the limit is {seconds:.0f} s"
        )
    return None


def what_fits(
    config: BaseRunConfig, flow: TarFlowConfig | None, plan_: Plan, machine: Machine, processes: int, tried: bool
) -> list[str]:
    """List settings and GPUs with which the run would fit, one phrase each, the cheapest first.

    processes: number of processes that share a batch. tried: the run was out of memory with its present number of images at
    a time, even if the plan says that they fit.
    """
    now, found = micro_batch(config, processes), []
    most = now - 1 if tried else now
    if (fewer := _accumulating(config, plan_, machine.gpu, processes, most)) is not None:
        found.append(fewer)
    if not config.train.recompute:
        again = config.replace(train=config.train.replace(recompute=True).model_dump())
        cheaper = plan(again, flow)
        line = _accumulating(again, cheaper, machine.gpu, processes, now, " --set train.recompute=true")
        if line is not None:
            found.append(line)
    found += _on_gpus(plan_, now, processes)
    return found


def _accumulating(
    config: BaseRunConfig, plan_: Plan, gpu: Gpu, processes: int, most: int, also: str = ""
) -> str | None:
    """Return the options with which at most `most` images at a time fit, in words; None if not even one image fits."""
    share = plan_.batch_size // processes
    room = estimate(plan_, gpu, processes).micro_batch
    images = max((d for d in range(1, min(most, room) + 1) if share % d == 0), default=0)
    if not images:
        return None
    options = f"--set train.accumulation={share // images}{also}"
    if share // images == config.train.accumulation:
        options = also.strip()
    return f"{options}: {images} images at a time in {words.size(memory_of(plan_, images))}" if options else None


def _on_gpus(plan_: Plan, now: int, processes: int) -> list[str]:
    """List the GPUs of the table on which the run fits as it is, or else with fewer images at a time."""
    room = {kind: estimate(plan_, gpu, processes).micro_batch for kind, gpu in GPUS.items()}
    whole_run = [kind for kind, images in room.items() if images >= now]
    if whole_run:
        return [f"the same settings on {_or(whole_run)}"]
    some = [f"{kind} ({images} images at a time)" for kind, images in room.items() if images]
    return [f"with train.accumulation on {_or(some)}"] if some else []


def _or(names: list[Any]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
