"""Toy projects for the tests of runs: a folder with a notebook of a few quick cells, and a spec for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import yaml

PARAMETERS = """
smoke = False  # fewer steps
seed = 0  # of the numbers
run_dir = "runs/toy"  # where things go
steps = 12  # how far it counts [size]
scale = 1.0  # of every number
name: "str | None" = None  # a text or nothing
sites: tuple[int, ...] = (1, 2)  # two numbers
"""
START = """
import json, os, random, signal, time
from pathlib import Path
if smoke:
    steps = 2
"""
COUNT = """
state = Path(run_dir) / "count.json"
done, total = json.loads(state.read_text()) if state.exists() else (0, 0.0)
stopping = []
before = signal.signal(signal.SIGINT, lambda *_: stopping.append(1))
while done < steps and not stopping:
    total += scale * random.Random(f"{seed} {done}").random()
    done += 1
    time.sleep(0.05)
    partial = state.with_suffix(".tmp")
    partial.write_text(json.dumps([done, total]))
    os.replace(partial, state)
    print(f"step {done}/{steps}", flush=True)
signal.signal(signal.SIGINT, before)
"""
RESULT = """
record = {"total": total, "steps": done, "deep": {"list": [1.5, 2.5]}}
(Path(run_dir) / "result.json").write_text(json.dumps(record))
"""
"""The toy counts with a checkpoint at every step, finishes its step on SIGINT as training does, and says what it summed."""

SPEC: dict[str, Any] = {
    "notebook": "notebooks/toy.ipynb",
    "about": "counts to a number",
    "parameters": {"steps": 6},
    "expected": {"cost": "seconds"},
    "table": {"columns": {"total": "total"}},
}


def notebook(*cells: str, parameters: str | None = PARAMETERS) -> nbformat.NotebookNode:
    """A notebook of code cells, the first tagged parameters."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    made.cells = [nbformat.v4.new_code_cell(source.strip()) for source in cells]
    if parameters is not None:
        made.cells.insert(0, nbformat.v4.new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]}))
    return made


def project(folder: Path, cells: tuple[str, ...] = (START, COUNT, RESULT), name: str = "toy", **changes: Any) -> Path:
    """A project with notebooks/toy.ipynb and papermill_runs/specs/<name>.yaml; the spec's path."""
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(*cells), folder / "notebooks" / "toy.ipynb")
    path = folder / "papermill_runs" / "specs" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**SPEC, **changes}, sort_keys=False))
    return path


def lab(*words: str | Path, **options: Any) -> subprocess.Popen:
    """The command line in a process group of its own, with its output as text."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "labcore.cli", *map(str, words)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
