"""Estimates for a training run before it starts: parameters, FLOPs, memory, and days on each kind of GPU."""

from labcore.plan.frozen import Frozen, frozen
from labcore.plan.machine import Machine, machine
from labcore.plan.step import (
    BYTES_PER_PARAMETER,
    EFFICIENCY,
    GPUS,
    Estimate,
    Gpu,
    Plan,
    duration,
    estimate,
    on_disk,
    plan,
)

__all__ = [
    "BYTES_PER_PARAMETER",
    "EFFICIENCY",
    "GPUS",
    "Estimate",
    "Frozen",
    "Gpu",
    "Machine",
    "Plan",
    "duration",
    "estimate",
    "frozen",
    "machine",
    "on_disk",
    "plan",
]
