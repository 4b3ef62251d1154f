"""Measures along a run: each checkpoint's averaged weights, measured once and kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from labcore import provenance
from labcore.flows.tarflow import TarFlow
from labcore.jsonfile import read_json, write_json
from labcore.train import checkpoint

KEPT = "along.json"


def along(
    run: Path, measure: Callable[[TarFlow], dict[str, Any]], key: dict[str, Any], device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """[{"step": n, **measure(averaged weights at step n)}] of the run's checkpoints, in order.

    What `key` (JSON: how it is measured) has given for the same weights before is read from along.json, so that a killed
    notebook goes on. Measures of versions whose limits took the first images are not read.
    """
    path, points, key = run / KEPT, [], {**key, "limits": "spread"}
    known = _kept(path, key)
    for folder in sorted(checkpoint.folders(run)):
        step = checkpoint.read(folder).step
        flow = TarFlow.from_pretrained(folder / "ema")
        weights = provenance.weights_hash(flow)
        if weights not in known:
            flow = flow.to(device).eval().requires_grad_(False)
            known[weights] = {"step": step, **measure(flow)}
            write_json(path, {"key": key, "points": known})
        points.append(known[weights])
    return points


def _kept(path: Path, key: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Weights hash -> point of an earlier call with the same key; nothing where the file is damaged, with a warning."""
    if not path.is_file():
        return {}
    try:
        stored = read_json(path)
        points = {str(weights): {**point, "step": int(point["step"])} for weights, point in stored["points"].items()}
        return points if stored["key"] == key else {}
    except (ValueError, KeyError, TypeError, AttributeError):
        warnings.warn(f"{path} cannot be read; everything in it is measured again", stacklevel=3)
        return {}


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
