"""Measures along a run: each checkpoint's averaged weights, measured once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from labcore.flows.tarflow import TarFlow
from labcore.runs.evaluation import write_json
from labcore.train import checkpoint

KEPT = "along.json"


def along(
    run: Path, measure: Callable[[TarFlow], dict[str, Any]], key: dict[str, Any], device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """[{"step": n, **measure(averaged weights at step n)}] of the run's checkpoints, in order.

    What `key` (JSON: how it is measured) has given before is read from along.json, so that a killed notebook goes on.
    """
    path = run / KEPT
    kept = json.loads(path.read_text()) if path.is_file() else {}
    known = {point["step"]: point for point in kept.get("points", ())} if kept.get("key") == key else {}
    for folder in sorted(checkpoint.folders(run)):
        step = checkpoint.Checkpoint(folder, checkpoint.read_state(folder)).step
        if step not in known:
            flow = TarFlow.from_pretrained(folder / "ema").to(device).eval().requires_grad_(False)
            known[step] = {"step": step, **measure(flow)}
            write_json(path, {"key": key, "points": list(known.values())})
    return [known[step] for step in sorted(known)]


def steps_to_reach(points: Sequence[dict[str, Any]], name: str, value: float, higher: bool) -> float | None:
    """The first step at which a curve reaches `value`, between checkpoints on a straight line; None where it never does."""
    before = None
    for point in points:
        now = point[name]
        if now >= value if higher else now <= value:
            if before is None or now == before[name]:
                return float(point["step"])
            share = (value - before[name]) / (now - before[name])
            return before["step"] + share * (point["step"] - before["step"])
        before = point
    return None
