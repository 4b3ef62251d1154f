"""JupyterLab in a real browser, for tests and benchmarks: a server, Debian's Chromium, panels moved by mouse and keyboard."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
STARTING, RUNNING, DRAWING = 120, 900, 180  # timeouts in seconds: a server or page, all cells, a picture

IDLE = """async () => {
    const widget = window.jupyterapp.shell.currentWidget;
    if (!widget || !widget.sessionContext) return false;
    await widget.sessionContext.ready;
    return widget.sessionContext.session?.kernel?.status === 'idle';
}"""
RUN_ALL = """async () => {
    const panel = window.jupyterapp.shell.currentWidget;
    window.labcoreDone = false;
    window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.labcoreDone = true; });
}"""


def chromium() -> str | None:
    """Find a Chromium on this machine, and return its path; None if there is none."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


@contextlib.contextmanager
def serve(root: Path, home: Path, *more: str) -> Iterator[str]:
    """Run a JupyterLab server on `root`, with its own settings in `home` and further options, and yield its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folders = {
        f"JUPYTER{name}_DIR": str(home / name)
        for name in ("_CONFIG", "_DATA", "_RUNTIME", "LAB_SETTINGS", "LAB_WORKSPACES")
    }
    spec = home / "_DATA" / "kernels" / "python3" / "kernel.json"  # a kernel of this interpreter
    spec.parent.mkdir(parents=True)
    spec.write_text(
        f'{{"argv": ["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"],'
        ' "display_name": "Python 3", "language": "python"}'
    )
    quiet = home / "LAB_SETTINGS" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # no notification that hides the pictures
    options = [
        f"--port={port}",
        "--ip=127.0.0.1",
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        f"--ServerApp.root_dir={root}",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        *more,
    ]
    with open(home / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={k: v for k, v in os.environ.items() if k != "LABCORE_HEADLESS"} | folders,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(f"{address}/api"), STARTING, "the server does not answer")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@contextlib.contextmanager
def browser(executable: str) -> Iterator:
    """Run Chromium without a window, and yield it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        window = play.chromium.launch(
            executable_path=executable, headless=True, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield window
        window.close()


class Notebook:
    """A notebook open in JupyterLab; `errors` holds the error messages of the page."""

    def __init__(self, window, address: str, name: str):
        self.errors: list[str] = []
        self.page = window.new_page(viewport=dict(width=1300, height=1000))
        self.page.set_default_timeout(1000 * STARTING)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.goto(f"{address}/lab/workspaces/{Path(name).stem}/tree/{name}?reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        self.page.wait_for_function(IDLE)

    def run(self) -> None:
        """Run all cells. Raises AssertionError with the text of the first error if a cell fails."""
        self.page.evaluate(RUN_ALL)
        self.page.wait_for_function("window.labcoreDone", timeout=1000 * RUNNING)
        failed = self.page.locator(
            ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr'] .ansi-red-fg"
        )
        broken = self.page.locator("[data-mime-type='application/vnd.jupyter.error']")
        assert not broken.count(), broken.first.inner_text()[-2000:]
        assert not failed.count(), failed.first.inner_text()[-2000:]

    def panels(self) -> list[Panel]:
        """Return all panels, after scrolling each into view so that the page draws it."""
        found = self.page.locator(".lab-panel")
        for number in range(found.count()):
            found.nth(number).scroll_into_view_if_needed()
            found.nth(number).locator("img").wait_for(state="visible")
        return [Panel(self.page, found.nth(number)) for number in range(found.count())]


class Panel:
    """A panel as a reader sees it: controls and a picture."""

    def __init__(self, page, place):
        self.page, self.place = page, place

    @property
    def controls(self) -> list[str]:
        """Names of the controls."""
        classes = self.place.locator("[class*='lab-control-']").evaluate_all("all => all.map(one => one.className)")
        return [word.removeprefix("lab-control-") for c in classes for word in c.split() if "lab-control-" in word]

    def control(self, name: str):
        return self.place.locator(f".lab-control-{name}")

    @property
    def status(self) -> str:
        return self.place.locator(".lab-status").inner_text()

    def picture(self) -> str:
        """Return a hash of the pixels that the page shows."""
        return pixels_of(self.place.locator("img.lab-picture"))

    def changes(self, before: str, by: str) -> str:
        """Wait until the control `by` has changed the picture and drawing has ended; return the new picture's hash."""
        wait_for(
            lambda: "drawn in" in self.status and self.picture() != before,
            DRAWING,
            lambda: f"{by} does not change the picture: {self.status!r}, {self.control(by).inner_text()!r}",
        )
        return self.picture()

    def settled(self) -> None:
        """Scroll the panel into view, as the page hides distant ones, and wait until it has not drawn for half a second."""
        self.place.scroll_into_view_if_needed()
        seen, since = self.status, time.monotonic()
        while time.monotonic() < since + 0.5:
            time.sleep(0.05)
            if self.status != seen or "drawing" in seen:
                seen, since = self.status, time.monotonic()

    def press(self, name: str, key: str, times: int = 1) -> None:
        """Press a key on a slider's handle, a menu or a checkbox."""
        target = self.control(name).locator(".noUi-handle, select, input[type=checkbox]").first
        target.scroll_into_view_if_needed()
        target.focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def drag(self, name: str, share: float, moves: int = 12) -> None:
        """Drag a slider's first handle with the mouse to `share` of its range, and release it."""
        bar, handle = (self.control(name).locator(f".noUi-{part}").first for part in ("base", "handle"))
        handle.scroll_into_view_if_needed()
        whole, here = bar.bounding_box(), handle.bounding_box()
        x, y = here["x"] + here["width"] / 2, here["y"] + here["height"] / 2
        if whole["width"] > whole["height"]:
            goal = (whole["x"] + share * whole["width"], y)
        else:
            goal = (x, whole["y"] + (1 - share) * whole["height"])
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for i in range(1, moves + 1):
            self.page.mouse.move(x + (goal[0] - x) * i / moves, y + (goal[1] - y) * i / moves)
        self.page.mouse.up()


def pixels_of(image) -> str:
    """Return a hash of the pixels of an image on the page."""
    pixels = image.evaluate(
        """async image => {
            for (let tries = 20; ; tries--) {  // a newer picture interrupts decode() of this one
                try { await image.decode(); break; } catch (error) { if (!tries) throw error; }
            }
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext('2d').drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
    )
    return hashlib.sha256(pixels.encode()).hexdigest()


def wait_for(true: Callable[[], bool], seconds: float, otherwise: str | Callable[[], str]) -> None:
    """Wait until `true()`. Raises AssertionError with the text `otherwise` if this takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(0.02)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5)
    except (urllib.error.URLError, OSError):
        return False
    return True
