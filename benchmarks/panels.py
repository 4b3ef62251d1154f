"""Response times of a panel, as a reader sees them: notebook 05 in real JupyterLab and Chromium.

The time to the first picture starts with opening the page. An answer is timed by the browser's own clock, from the release of
the mouse to the frame that shows the last picture. Sliders are dragged to new values, so that no picture comes from the
panel's memory. The time of `import torch` in a new process is added to the target of the first picture, because the lab cannot
shorten it. The time until JupyterLab shows the notebook and its kernel is idle is recorded too, and the time that the kernel
itself takes for a picture, from the line that the panel shows.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from benchmarks import jupyter_lab
from benchmarks.latency import Allowed, summary
from labcore.campaigns.parameters import EXPLORE

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "05_cfg_sliders.ipynb"
SLIDERS = ("w", "tau")
"""Sliders of the first panel, which draws 6 x 6 images by one pass of the learned inverse."""
ANSWERS = 40
"""Number of mouse releases; our choice."""
ALLOWED = Allowed(4.5, 150.0, 250.0)
"""Targets; the target of the first picture does not include `import torch`."""
IMPORTS = 5
"""Number of processes that import torch; the median is used. Our choice."""

WATCH = """image => {
    window.labReleased = 0;
    window.labShown = [];
    const painted = () => requestAnimationFrame(() => setTimeout(() => window.labShown.push(performance.now())));
    document.addEventListener('pointerup', () => { window.labReleased = performance.now(); window.labShown = []; }, true);
    image.addEventListener('load', painted);
}"""
ANSWER = "() => window.labShown.length ? window.labShown.at(-1) - window.labReleased : null"
NEXT = "() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')"


def panels() -> dict:
    """Measure the seconds to the first picture, and the milliseconds from each release to its pixels.

    The record is None, with a printed reason, if there is no Chromium.
    """
    executable = jupyter_lab.chromium()
    if executable is None:
        print("panels      no Chromium here: not measured")
        return {"panels": None}
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter_lab.serve(Path(folder), Path(folder) / "home") as address,
        jupyter_lab.browser(executable) as window,
    ):
        cells = _copied(Path(folder))
        started = time.perf_counter()
        notebook = jupyter_lab.Notebook(window, address, NOTEBOOK.name)
        opened = time.perf_counter() - started
        for _ in range(cells):
            notebook.page.evaluate(NEXT)
        notebook.page.locator("img.lab-picture").first.wait_for(state="visible", timeout=1000 * jupyter_lab.RUNNING)
        first = time.perf_counter() - started
        answers, drawn = _answers(notebook.panels()[0])
    imported = importing_torch()
    found = summary(first, answers, ALLOWED._replace(first_s=round(ALLOWED.first_s + imported, 2)))
    found |= {"page and kernel s": round(opened, 2), "import torch s": round(imported, 2)}
    found["drawing ms"] = round(1000 * statistics.median(drawn))
    print("panels     ", json.dumps(found))
    return {"panels": found}


def importing_torch() -> float:
    """Measure the median seconds of `import torch` in a new process, after the interpreter has started."""
    timed = "import time; started = time.perf_counter(); import torch; print(time.perf_counter() - started)"
    took = [
        subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
        for _ in range(IMPORTS)
    ]
    return statistics.median(float(one.stdout) for one in took)


def _copied(folder: Path) -> int:
    """Copy the notebook to the server's folder; return how many cells must run for the first picture."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += '\nrun_dir = "run"'
    nbformat.write(notebook, folder / NOTEBOOK.name)
    return next(i for i, cell in enumerate(notebook.cells, 1) if EXPLORE in cell.metadata.get("tags", ()))


def _answers(panel: jupyter_lab.Panel) -> tuple[list[float], list[float]]:
    """Move the sliders. Return milliseconds from each release to the last picture, and seconds of the kernel for it."""
    panel.place.locator("img.lab-picture").evaluate(WATCH)
    chances, found, drawn = random.Random(0), [], []
    while len(found) < ANSWERS:
        panel.drag(SLIDERS[len(found) % len(SLIDERS)], chances.random())
        panel.settled()
        answer = panel.page.evaluate(ANSWER)
        if answer is not None:  # None: the slider was released at its old value
            found.append(answer)
            drawn.append(float(re.search(r"drawn in ([\d.]+) s", panel.status)[1]))
    return found, drawn
