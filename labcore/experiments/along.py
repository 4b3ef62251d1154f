"""Measures during a run: those of each checkpoint's averaged weights, computed once and stored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labcore import provenance
from labcore.flows.tarflow import TarFlow
from labcore.jsonfile import read_json, write_json
from labcore.nn.pretrained import WEIGHTS, load_strictly, read_tensors
from labcore.train import checkpoint

KEPT = "along.json"


def along(
    run: Path, measure: Callable[[TarFlow], dict[str, Any]], key: dict[str, Any], device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """Return [{"step": n, **measure(averaged weights at step n)}] of the run's checkpoints, in order.

    Results are stored in along.json by weights and `key`, JSON values that describe the measurement, so a killed notebook can
    resume. Results of versions whose limits took the first images are not used.
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


def with_weights_of_each(
    run: Path, model: nn.Module, objective: nn.Module, device: torch.device | str
) -> Iterator[int]:
    """Load the current weights of each checkpoint of a run, and not the averaged ones, in order; yield its step.

    model, objective: made as for the run's training, on `device`. Projectors and the like belong to the current weights.
    """
    for folder in sorted(checkpoint.folders(run)):
        stored = checkpoint.read(folder)
        load_strictly(model, read_tensors(folder / "model" / WEIGHTS), folder)
        objective.load_state_dict(checkpoint.read_training(stored, torch.device(device))["objective"])
        yield stored.step


def _kept(path: Path, key: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return {hash of weights: point} of earlier calls with the same key; {} for a damaged file, with a warning."""
    if not path.is_file():
        return {}
    try:
        stored = read_json(path)
        points = {str(weights): {**point, "step": int(point["step"])} for weights, point in stored["points"].items()}
        return points if stored["key"] == key else {}
    except (ValueError, KeyError, TypeError, AttributeError):
        warnings.warn(f"{path} cannot be read; its measurements are repeated", stacklevel=3)
        return {}


def steps_to_reach(points: Sequence[dict[str, Any]], name: str, value: float, higher: bool) -> float | None:
    """Return the first step at which a curve reaches `value`, interpolated between checkpoints; None if it never does."""
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
