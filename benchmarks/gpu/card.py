"""Which card there is, its driver and clocks, as nvidia-smi says; torch is not needed."""

from __future__ import annotations

import subprocess

FACTS = (
    "name",
    "driver_version",
    "memory.total",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "temperature.gpu",
)


def card() -> dict[str, str] | None:
    """Facts of the first GPU, as text with units; None where there is no nvidia-smi or no GPU."""
    try:
        words = ["nvidia-smi", f"--query-gpu={','.join(FACTS)}", "--format=csv,noheader"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.strip().splitlines()
    return dict(zip(FACTS, (part.strip() for part in lines[0].split(",")), strict=True)) if lines else None
