"""Measures for a notebook's cell: in place with one process, in the background and streamed with several.

Images and features are stores on disk, so whatever was killed: the cell, run again, goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from labcore.evaluate.generate import Sampling
from labcore.runs import detached
from labcore.runs.background import show_line
from labcore.runs.evaluation import Data, check_file, evaluate_model
from labcore.runs.models import find_sampler
from labcore.store import process_device
from labcore.train.launch import Nodes, command, environment


def evaluate_streamed(
    model: Path,
    data: Data,
    metrics: Sequence[str],
    sampling: Sampling,
    out: Path,
    reference: str | Path | None = None,
    limit: int | None = None,
    num_processes: int = 1,
    show: Callable[[str], None] = show_line,
) -> dict[str, Any]:
    """`labcore.runs.evaluation.evaluate_model` of a run's folder or a saved model, on `num_processes` devices; the record.

    out: where the record goes; one of the same model is added to. The seed is the sampling's. show takes each line. Raises as
    `evaluate_model`, and RuntimeError with its last lines where several processes failed.
    """
    if num_processes == 1:
        said = lambda name, value: show(f"{name:24s} {value}")  # noqa: E731
        flow = find_sampler(model).to(process_device())
        return evaluate_model(flow, data, metrics, sampling, reference, limit, sampling.seed, out, say=said)
    words = _words(model, data, metrics, sampling, out, reference, limit)
    folder, env = out.with_suffix(""), environment(num_processes)
    check_file(folder / detached.RECORD)
    again = detached.running(folder)
    if again and detached.read(folder)["about"] != words:
        raise ValueError(f"another measuring runs in {folder}; wait for it, or give another folder")
    process = detached.start(folder, command("labcore.cli", words, num_processes, Nodes()), env, words)
    try:
        status = detached.Output(folder, again).stream(show)
    except KeyboardInterrupt:
        detached.ask_to_stop(folder)
        show("interrupted: what was drawn is kept; run the cell again to go on")
        raise
    finally:
        if process is not None:
            process.poll()
    if status:
        raise RuntimeError(f"measuring ended with status {status}. Its last lines:\n\n{detached.last_lines(folder)}")
    return json.loads(out.read_text())


def _words(
    model: Path,
    data: Data,
    metrics: Sequence[str],
    sampling: Sampling,
    out: Path,
    reference: str | Path | None,
    limit: int | None,
) -> list[str]:
    """The words of `lab evaluate` for the same."""
    s = sampling
    if s.solver != "sequential" or s.classes not in ("each", "none"):
        raise ValueError("several processes draw with the sequential solver and each class in turn, or none")
    folder = data.name == "folder"
    given = {
        "--metrics": ",".join(metrics),
        "--num-samples": s.num,
        "--data": data.path if folder else data.name,
        "--path": None if folder else data.path,
        "--crop": data.crop,
        "--reference": reference,
        "--limit": limit,
        "--classes": s.classes,
        "--guidance": s.guidance,
        "--schedule": s.guidance_schedule,
        "--attn-temp": s.attn_temp,
        "--noise-std": s.noise_std,
        "--seed": s.seed,
        "--batch-size": s.chunk,
        "--out": out.resolve(),
    }
    named = [[option, str(value)] for option, value in given.items() if value is not None]
    return ["evaluate", str(model.resolve() if model.exists() else model), *(word for pair in named for word in pair)]
