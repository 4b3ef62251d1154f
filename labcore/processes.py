"""Facts about processes: device, share of a launch and cores of this process, the end of its parent, and identity of others."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_device() -> str:
    """Return this process's device: its own GPU in a launch, the first GPU outside of one, or the CPU without a GPU."""
    from labcore.driver import has_cuda  # imports torch, which the processes around a run do not need

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if has_cuda() else "cpu"


def process_share() -> tuple[int, int]:
    """Return (rank, world) of this process in a launch by torch's launcher; (0, 1) outside of one."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def is_first_process() -> bool:
    """Return whether this is the first process of its launch, which alone writes files and output; True outside of one."""
    return process_share()[0] == 0


def die_with_parent(number: int) -> None:
    """Let the system send signal `number` to this process when its parent ends; does nothing except on Linux."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG


def birth(pid: int) -> str | None:
    """Return boot and start time of a process, which differ for a later process of the same number; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if stat[0] in "ZX" else f"{boot} {stat[19]}"
