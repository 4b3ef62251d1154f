"""Every notebook with panels in real JupyterLab: run, each control moved by keyboard and mouse, the picture seen to change.

Pictures of what a reader sees are kept in browser-screenshots/. Values are drawn anew for each run; PYTEST_SEED repeats them.
"""

import json
import os
import random
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from in_turn import unless
from notebook_files import BY_PAPERMILL, WITH_PANELS, check_result, explored

from benchmarks import jupyter_lab
from benchmarks.jupyter_lab import DRAWING, STARTING, Notebook, wait_for

ROOT = Path(__file__).parent.parent
SCREENSHOTS = ROOT / "browser-screenshots"
SMOKE = {"smoke": True, "run_dir": "run"}
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    with jupyter_lab.serve(root, tmp_path_factory.mktemp("jupyter")) as found:
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


@pytest.mark.parametrize("path", unless(WITH_PANELS, BY_PAPERMILL), ids=lambda path: path.stem)
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
    check_result(root / path.stem / "run" / "result.json")
    assert notebook.errors == []
    notebook.page.close()


def test_every_control_of_an_explorer_moves_its_picture(root, address, window, chances):
    folder = root / "explorer"
    folder.mkdir()
    cell = nbformat.v4.new_code_cell('import labcore\n\nlabcore.explore("fashion-biflow", images=4)')
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=KERNELSPEC), folder / "explorer.ipynb")
    notebook = Notebook(window, address, "explorer/explorer.ipynb")
    notebook.run()
    (panel,) = notebook.panels()
    for name in ("guidance", "seed", "kind"):  # the class last: guidance does nothing without one
        move(panel, name, chances)
    panel.place.screenshot(path=SCREENSHOTS / "explorer.png")
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


KERNELSPEC = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
SHADES = """import torch
from labcore.viz import controls
from labcore.viz.panel import Panel
from labcore.viz.sheet import grid_png

brightness = 0.0


def draw(shade, kind, known, **scales):
    x = torch.full((8, 1, 28, 28), shade + brightness) + torch.linspace(-0.2, 0.2, 8)[:, None, None, None]
    return grid_png(x, 4, 3, image_names=[f"class {i}" for i in range(8)])


moved = {"shade": controls.number("shade", -1.0, 1.0, 0.0, 0.05), "kind": controls.choice("class", ["bag", "boot"], "bag")}
moved |= {"known": controls.span("known rows", 1, 7, (1, 3))}
moved |= {f"x{i}": controls.number(f"x{i}", 0.0, 2.0, 0.0, upright=True) for i in range(9)}
Panel(draw, moved, caption="eight grey squares")"""
OLD, WAITING, STOPPED = "lab-old", "lab-waiting", "jupyter-widgets-disconnected"
RUN_CELL = """async number => {
    const app = window.jupyterapp;
    app.shell.currentWidget.content.activeCellIndex = number;
    await app.commands.execute('notebook:run-cell');
}"""
KERNEL = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.id"
NAMES = """panel => [...panel.querySelectorAll('.noUi-handle, img')].map(one =>
    one.getAttribute('aria-label') ?? document.getElementById(one.getAttribute('aria-labelledby')).textContent.trim())"""
WIDER = "panel => panel.scrollWidth - panel.clientWidth"


def shown(notebook: Notebook) -> tuple[jupyter_lab.Panel, list[str]]:
    """The first panel, and the classes that it has."""
    panel = notebook.panels()[0]
    return panel, panel.place.get_attribute("class").split()


def saved(notebook: Notebook, file: Path) -> str:
    """What JupyterLab writes when it saves the notebook now."""
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    return file.read_text()


def kill_kernel(name: str) -> None:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if name in (folder / "cmdline").read_text():
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            continue


def end_sessions(address: str) -> None:
    """End all kernels of the server, so that a notebook opened next gets a new one."""

    def ended() -> bool:
        with urllib.request.urlopen(f"{address}/api/sessions") as answer:
            sessions = json.load(answer)
        for session in sessions:
            request = urllib.request.Request(f"{address}/api/sessions/{session['id']}", method="DELETE")
            try:
                urllib.request.urlopen(request).close()
            except urllib.error.HTTPError:  # refused while the server starts a killed kernel again
                continue
        return not sessions

    wait_for(ended, STARTING, "the server does not end its kernels")


def test_a_panel_says_when_its_picture_is_old_and_a_saved_notebook_shows_it(root, address, window):
    cells = [nbformat.v4.new_code_cell(source) for source in (SHADES, "brightness = 0.5")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNELSPEC), root / "shades.ipynb")
    notebook = Notebook(window, address, "shades.ipynb")
    notebook.page.evaluate(RUN_CELL, 0)
    panel, classes = shown(notebook)
    assert not {OLD, WAITING, STOPPED} & set(classes)
    assert panel.place.evaluate(NAMES)[:4] == ["shade", "known rows, from", "known rows, to", "x0"]
    assert panel.place.evaluate(NAMES)[-1].startswith("eight grey squares (shade 0.0, class bag, known rows (1, 3)")
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    for width in (1400, 800, 390):
        notebook.page.set_viewport_size(dict(width=width, height=1000))
        wait_for(lambda: panel.place.evaluate(WIDER) <= 0, DRAWING, f"the panel is too wide at {width} pixels")
    notebook.page.set_viewport_size(dict(width=1300, height=1000))

    before = panel.picture()
    panel.press("shade", "ArrowRight", 3)
    wait_for(lambda: "shade 0.15" in panel.place.evaluate(NAMES)[-1], DRAWING, "the third step is not drawn")
    panel.settled()
    assert panel.picture() != before
    before = panel.picture()
    notebook.page.evaluate(RUN_CELL, 1)
    wait_for(lambda: OLD in shown(notebook)[1], DRAWING, lambda: f"not marked as old: {panel.status}")
    assert "brightness changed after it was drawn" in panel.status and panel.picture() == before
    panel.press("shade", "ArrowRight")
    last = panel.changes(before, "shade")
    assert OLD not in shown(notebook)[1] and "shade 0.2" in panel.place.inner_text()

    panel.settled()
    wait_for(lambda: "shade 0.2" in saved(notebook, root / "shades.ipynb"), DRAWING, "the last picture is not saved")
    kill_kernel(notebook.page.evaluate(KERNEL))
    panel.press("shade", "ArrowLeft")
    wait_for(lambda: {WAITING, STOPPED} & set(shown(notebook)[1]), DRAWING, "a dead kernel is not seen")
    wait_for(
        lambda: panel.place.locator(".lab-notice:visible").count() == 1, DRAWING, "no notice that the picture is old"
    )
    notebook.page.close()
    end_sessions(address)

    again = Notebook(window, address, "shades.ipynb")
    picture = again.page.locator("figure img")
    picture.wait_for(state="visible")
    assert "Error displaying" not in "".join(again.page.locator(".jp-OutputArea-child:visible").all_inner_texts())
    assert "shade 0.2" in again.page.locator("figcaption").inner_text()
    assert jupyter_lab.pixels_of(picture) == last
    again.page.close()

    elsewhere = nbformat.read(root / "shades.ipynb", as_version=4)
    elsewhere.cells.append(nbformat.v4.new_markdown_cell("of another person"))  # no signature fits: not trusted
    nbformat.write(elsewhere, root / "elsewhere.ipynb")
    foreign = Notebook(window, address, "elsewhere.ipynb")
    picture = foreign.page.locator("figure img")
    picture.wait_for(state="visible")
    assert "Error displaying" not in "".join(foreign.page.locator(".jp-OutputArea-child:visible").all_inner_texts())
    assert jupyter_lab.pixels_of(picture) == last
    foreign.page.close()


def test_a_tracked_notebook_is_saved_without_outputs_while_the_page_shows_them(tmp_path, window):
    folder, home = tmp_path / "checkout", tmp_path / "jupyter"
    folder.mkdir()
    home.mkdir()
    cells = [nbformat.v4.new_code_cell("print('a result:', 6 * 7)")]
    file = folder / "answers.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNELSPEC), file)
    before = file.read_bytes()
    (folder / ".gitignore").write_text(".outputs/\n.ipynb_checkpoints/\n")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "a notebook"]):
        subprocess.run([*git, *words], check=True)
    with jupyter_lab.serve(folder, home, *saving()) as address:
        notebook = Notebook(window, address, file.name)
        notebook.page.evaluate(RUN_CELL, 0)
        output = notebook.page.locator(".jp-OutputArea-output", has_text="a result: 42")
        output.wait_for(state="visible")
        saved(notebook, file)
        assert output.is_visible() and "a result: 42" in (folder / ".outputs" / file.name).read_text()
        assert file.read_bytes() == before and not subprocess.check_output([*git, "status", "--short"])
        assert notebook.errors == []
        notebook.page.close()


def saving() -> list[str]:
    """The options of `make lab` that say how notebooks are saved."""
    found = re.findall(r"--ServerApp\.contents_manager_class=\S+", (ROOT / "Makefile").read_text())
    assert len(found) == 1
    return found
