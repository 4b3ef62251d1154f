"""Time of a picture of notebook 05's second panel, of the student and of the exact inverse, with and without compiled C code.

The notebook's own cells are run up to that panel, and then the panel's function is called, without JupyterLab. So the numbers
hold for the notebook's models, images, guidance and threads.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import nbformat
import torch

from benchmarks.panels import NOTEBOOK
from labcore.kernels import dispatch
from labcore.timing import alternate

DRAWS = "def both("
"""Start of the cell that defines the panel's function."""
REPEATS = 20
"""Number of pictures of each kind; our choice."""


def exact_side() -> dict:
    """Return the number of images, and the milliseconds of a picture with compiled C code ("native") and without ("torch")."""
    threads = torch.get_num_threads()
    try:
        cells = _cells()
        ways = {choice: _drawn(cells, choice) for choice in ("native", "torch")}
        took = alternate(ways, REPEATS, warmup=2)
    finally:
        torch.set_num_threads(threads)  # the notebook leaves one core to the browser
    found = {"images": cells["compared"], **{f"{name} ms": round(1000 * one.seconds, 1) for name, one in took.items()}}
    print("exact side ", json.dumps(found))
    return {"exact_side": found}


def _cells() -> dict:
    """Run the notebook's code up to the second panel, and return its variables."""
    names: dict = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            if cell.source.startswith(DRAWS):
                return names
    raise ValueError(f"{NOTEBOOK.name} has no cell that starts with {DRAWS!r}")


def _drawn(cells: dict, choice: dispatch.Choice) -> Callable[[], None]:
    """Return the drawing of the panel's first picture by one implementation of the kernels."""
    start = {name: control.value for name, control in cells["moved"].items()}

    def draw() -> None:
        with dispatch.use(choice):
            cells["both"](**start)

    return draw
