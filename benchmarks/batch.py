"""Time that `lab run` adds to a notebook's own work. Targets: 5 s for one run, and 2 s to skip 200 finished runs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import yaml

from labcore.campaigns import state
from labcore.campaigns.spec import load_spec, resolve

WORK = 10  # seconds of the notebook's own work
CELLS = (
    'smoke = False\nseed = 0\nrun_dir = "runs/idle"',
    f'import json, time\nfrom pathlib import Path\ntime.sleep({WORK})\n(Path(run_dir) / "result.json").write_text("{{}}")',
)
KERNEL = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel()
manager.shutdown_kernel(now=True)
"""


def batch(repeats: int) -> dict:
    """Measure the seconds that a run adds to its cells, that a kernel takes to start, and that skipping 200 runs takes."""
    with tempfile.TemporaryDirectory() as folder:
        one, many = project(Path(folder), "one", 1), project(Path(folder), "many", 200)
        finish(many)
        words = {"help": ["--help"], "skip": ["run", str(many)], "run": ["run", str(one)]}
        times: dict[str, list[float]] = {name: [] for name in [*words, "kernel"]}
        for number in range(repeats):
            for name, given in words.items():
                fresh = ["--root", f"{folder}/{number}"] if name == "run" else []
                times[name].append(seconds([sys.executable, "-m", "labcore.cli", *given, *fresh]))
            times["kernel"].append(seconds([sys.executable, "-c", KERNEL]))
    median = {name: statistics.median(found) for name, found in times.items()}
    row = {
        "run beyond its cells s": round(median["run"] - WORK, 2),
        "allowed": 5,
        "of which a bare kernel s": round(median["kernel"], 2),
        "200 done, skipped s": round(median["skip"] - median["help"], 2),
        "allowed to skip": 2,
        "lab --help s": round(median["help"], 2),
    }
    print("batch      ", row, flush=True)
    return {"batch": row}


def project(folder: Path, name: str, seeds: int) -> Path:
    """Write a notebook that only waits, and its spec with `seeds` random seeds; return the spec's path."""
    for place in ("notebooks", "papermill_runs/specs"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), folder / "notebooks" / "idle.ipynb")
    spec = {
        "notebook": "notebooks/idle.ipynb",
        "about": "waits",
        "seeds": list(range(seeds)),
        "expected": {"cost": "s"},
    }
    path = folder / "papermill_runs" / "specs" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def finish(path: Path) -> None:
    """Write the files of finished runs for all runs of a spec."""
    spec = load_spec(path)
    for run in resolve(spec):
        found = state.prepare_run_folder(run, spec.project / "papermill_runs" / "executed")
        attempt = {"status": "done", "seconds": 1.0, "error": None}
        state.save(found._replace(values=found.values | {"status": "done", "attempts": [attempt]}))
        (found.folder / state.RESULT).write_text(json.dumps({}))


def seconds(words: list[str]) -> float:
    """Run a command that must succeed, and return its wall time in seconds."""
    start = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - start
