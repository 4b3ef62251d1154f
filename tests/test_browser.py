"""Every notebook with panels in real JupyterLab: run, each control moved by keyboard and mouse, the picture seen to change.

Pictures of what a reader sees are kept in browser-screenshots/. Values are drawn anew for each run; PYTEST_SEED repeats them.
"""

import json
import os
import random
import shutil
from pathlib import Path

import nbformat
import pytest

from benchmarks import jupyter_lab
from benchmarks.jupyter_lab import Notebook
from labcore.campaigns.parameters import EXPLORE

ROOT = Path(__file__).parent.parent
SCREENSHOTS = ROOT / "browser-screenshots"
SMOKE = {"smoke": True, "run_dir": "run"}
pytestmark = pytest.mark.browser


def explored(path: Path) -> int:
    """How many cells show something to move."""
    cells = json.loads(path.read_text())["cells"]  # nbformat would validate it, in every process that collects tests
    return sum(EXPLORE in cell["metadata"].get("tags", ()) for cell in cells)


NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if explored(path)]


@pytest.fixture(scope="module")
def chances() -> random.Random:
    seed = os.environ.get("PYTEST_SEED") or str(random.SystemRandom().randrange(10**6))
    print(f"PYTEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    with jupyter_lab.serve(root, tmp_path_factory.mktemp("jupyter")) as found:
        yield found


@pytest.fixture(scope="module")
def window():
    executable = next(filter(None, map(shutil.which, jupyter_lab.CHROMIUM)), None)
    if executable is None:
        pytest.fail("no Chromium here; `make test-browser` installs Debian's")
    with jupyter_lab.browser(executable) as found:
        yield found


def copied(path: Path, root: Path) -> str:
    """A copy at the smoke size in a folder of its own, by its path from the server's root."""
    notebook = nbformat.read(path, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += "".join(f"\n{name} = {value!r}" for name, value in SMOKE.items())
    folder = root / path.stem
    folder.mkdir()
    nbformat.write(notebook, folder / path.name)
    return f"{path.stem}/{path.name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_control_moves_its_picture(path, root, address, window, chances):
    notebook = Notebook(window, address, copied(path, root))
    notebook.run()
    panels = notebook.panels()
    assert len(panels) == explored(path)
    SCREENSHOTS.mkdir(exist_ok=True)
    for number, panel in enumerate(panels, 1):
        assert panel.controls
        for name in panel.controls:
            move(panel, name, chances)
        panel.settled()
        panel.place.screenshot(path=SCREENSHOTS / f"{path.stem}-{number}.png")
    assert notebook.errors == []
    notebook.page.close()


def move(panel: jupyter_lab.Panel, name: str, chances: random.Random) -> None:
    """One control by the keyboard, and a slider by the mouse too; each time the picture has to change."""
    panel.settled()  # or a late drawing of the last control would pass for this one's
    control, before = panel.control(name), panel.picture()
    if control.locator(".noUi-handle").count():
        handle = control.locator(".noUi-handle").first
        at_start = float(handle.get_attribute("aria-valuenow")) <= float(handle.get_attribute("aria-valuemin"))
        panel.press(name, "ArrowRight" if at_start else "Home")
        panel.changes(before, name)
        panel.settled()
        before = panel.picture()
        panel.drag(name, chances.uniform(0.6, 1.0))
        panel.changes(before, name)
    elif control.locator("select").count():
        select = control.locator("select")
        others = set(range(select.locator("option").count())) - {select.evaluate("select => select.selectedIndex")}
        select.select_option(index=chances.choice(sorted(others)))
        panel.changes(before, name)
    else:
        panel.press(name, "Space")
        panel.changes(before, name)
