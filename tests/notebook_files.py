"""The notebooks, those that this commit's browser tests run, and what their results have to be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from in_turn import share

from labcore.campaigns.parameters import EXPLORE

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def explored(path: Path) -> int:
    """How many cells show something to move, without explorers: a run of a few steps draws the same at each checkpoint."""
    cells = json.loads(path.read_text())["cells"]  # nbformat would validate it, in every process that collects tests
    return sum(
        EXPLORE in cell["metadata"].get("tags", ()) and "labcore.explore(" not in "".join(cell["source"])
        for cell in cells
    )


WITH_PANELS = [path for path in NOTEBOOKS if explored(path)]
IN_BROWSER = share(WITH_PANELS, 2)
"""Notebooks that this commit runs in JupyterLab."""
BY_PAPERMILL = [path for path in NOTEBOOKS if path not in IN_BROWSER]


def check_result(file: Path) -> None:
    """Raise AssertionError unless the result is of the smoke size, has a measurement, and all its numbers are finite."""
    result = json.loads(file.read_text())
    assert result["smoke"] is True
    assert has_a_measurement(result)
    assert non_finite(result) == []


def non_finite(value: Any, name: str = "result") -> list[str]:
    """Names of the numbers in nested dictionaries and lists that are not finite."""
    if isinstance(value, dict):
        return [bad for key, item in value.items() for bad in non_finite(item, f"{name}.{key}")]
    if isinstance(value, list):
        return [bad for i, item in enumerate(value) for bad in non_finite(item, f"{name}[{i}]")]
    return [name] if isinstance(value, float) and not math.isfinite(value) else []


def has_a_measurement(value: Any) -> bool:
    """Whether there is a float anywhere outside the configuration."""
    if isinstance(value, dict):
        return any(has_a_measurement(item) for key, item in value.items() if key not in ("config", "parameters"))
    return isinstance(value, float)
