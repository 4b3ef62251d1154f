"""How soon a panel answers, as a reader sees it: notebook 05 in real JupyterLab and Chromium.

The first picture is timed from opening the page, an answer from the release of the mouse to the frame that shows the last
picture, by the browser's own clock. Sliders are drawn to places that nobody has been to, so that nothing is remembered.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import nbformat

from benchmarks import jupyter_lab
from labcore.campaigns.parameters import EXPLORE

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "05_cfg_sliders.ipynb"
SLIDERS = ("w", "tau")
"""Of the first panel: one pass of the learned inverse for a grid of 6 x 6 images."""
ANSWERS = 40
"""Releases of the mouse; our choice."""
FIRST_S, MEDIAN_MS, SLOWEST_MS = 10.0, 150.0, 300.0
"""What is allowed: seconds to the first picture, milliseconds at the median and at the 95th percentile."""

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
    """Seconds to the first picture, and milliseconds from release to pixels; says so where there is no Chromium."""
    executable = next(filter(None, map(shutil.which, jupyter_lab.CHROMIUM)), None)
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
        for _ in range(cells):
            notebook.page.evaluate(NEXT)
        notebook.page.locator("img.lab-picture").first.wait_for(state="visible", timeout=1000 * jupyter_lab.RUNNING)
        first = time.perf_counter() - started
        answers = _answers(notebook.panels()[0])
    found = _summary(first, answers)
    print("panels     ", json.dumps(found))
    return {"panels": found}


def _copied(folder: Path) -> int:
    """Copies the notebook to where the server looks; returns how many cells lead to the first picture."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += '\nrun_dir = "run"'
    nbformat.write(notebook, folder / NOTEBOOK.name)
    return next(i for i, cell in enumerate(notebook.cells, 1) if EXPLORE in cell.metadata.get("tags", ()))


def _answers(panel: jupyter_lab.Panel) -> list[float]:
    """Milliseconds from each release to the last picture that follows."""
    panel.place.locator("img.lab-picture").evaluate(WATCH)
    chances, found = random.Random(0), []
    while len(found) < ANSWERS:
        panel.drag(SLIDERS[len(found) % len(SLIDERS)], chances.random())
        panel.settled()
        answer = panel.page.evaluate(ANSWER)
        if answer is not None:  # None: the slider was released where it had stood
            found.append(answer)
    return found


def _summary(first: float, answers: list[float]) -> dict:
    slowest = statistics.quantiles(answers, n=20)[-1]
    return {
        "first picture s": round(first, 2),
        "first picture allowed s": FIRST_S,
        "answers": len(answers),
        "median ms": round(statistics.median(answers), 1),
        "median allowed ms": MEDIAN_MS,
        "95th percentile ms": round(slowest, 1),
        "95th percentile allowed ms": SLOWEST_MS,
    }
