"""This machine as a `Gpu` of the plan's table: with the vendor's numbers if its name is known, else with measured ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import torch

from labcore.plan.step import GPUS, STARTED_ON_CPU, Gpu

SECONDS = 0.2
"""Seconds for measuring a matrix product, in each number format; our choice."""
SIDE = {"cpu": 1024, "mps": 2048, "cuda": 4096}
"""Rows and columns of the matrices; our choice."""


class Machine(NamedTuple):
    """A device for training.

    Attributes:
        kind: "cuda", "mps" or "cpu".
        name: name that the driver reports.
        count: number of devices of this kind on this machine.
        gpu: peak FLOP/s, and the memory in bytes that a run can use.
        known: key of `GPUS` for this name; None if the peaks were measured.
    """

    kind: str
    name: str
    count: int
    gpu: Gpu
    known: str | None = None


def device_kind() -> str:
    """Return the kind of the device on which training runs here: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def machine(kind: str | None = None) -> Machine:
    """Return the device on which training runs here, or this machine's device of `kind`. Measuring takes half a second."""
    kind = device_kind() if kind is None else kind
    if kind == "cuda":
        name = torch.cuda.get_device_name()
        memory = float(torch.cuda.mem_get_info()[0])
        known = known_as(name, torch.cuda.get_device_properties(0).total_memory)
        peaks = GPUS[known][:2] if known else _peaks(kind)
        return Machine(kind, name, torch.cuda.device_count(), Gpu(*peaks, memory), known)
    if kind == "mps":
        return Machine(kind, "Apple GPU", 1, Gpu(*_peaks(kind), float(torch.mps.recommended_max_memory())))
    threads = torch.get_num_threads()
    name = f"CPU with {threads} thread{'s' if threads > 1 else ''}"
    return Machine(kind, name, 1, Gpu(*_peaks(kind), available_memory(), STARTED_ON_CPU))


def known_as(name: str, memory: float) -> str | None:
    """Return the key of `GPUS` for a card, by its driver's name and its memory in bytes; None if the table lacks it."""
    words = name.lower().replace("-", " ").split()
    if "4090" in words:
        return "rtx-4090"
    if "a100" in words:
        return "a100" if memory > 60e9 else "a100-40"
    return next((kind for kind in ("h200", "h100", "l40s") if kind in words), None)


def available_memory() -> float:
    """Return the bytes of memory that a process can still get on this machine; infinity if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), float("inf"))


def flops_per_second(kind: str, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a product of two square matrices on a device of this kind: the best of several tries."""
    side = SIDE[kind]
    a, b = (torch.ones(side, side, device=kind, dtype=dtype) for _ in "ab")
    a @ b
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        best = min(best, _seconds_of_product(a, b))
    return 2 * side**3 / best


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor) -> float:
    _wait(a.device.type)
    start = time.perf_counter()
    a @ b
    _wait(a.device.type)
    return time.perf_counter() - start


def _wait(kind: str) -> None:
    if kind != "cpu":
        torch.accelerator.synchronize()


def _peaks(kind: str) -> tuple[float, float]:
    """Return FLOP/s of mixed precision and of float32, as training uses them: mixed only if it is faster, and not on mps."""
    single = flops_per_second(kind, torch.float32)
    half = single if kind == "mps" else max(single, flops_per_second(kind, torch.bfloat16))
    return half, single
