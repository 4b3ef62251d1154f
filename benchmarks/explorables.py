"""Response times of an explorable: the student's page of the site in Chromium, from a static server on this machine.

The time to the first picture starts with opening the page. An answer is timed by the browser's own clock, from the slider's
event to the frame that shows the nine pictures. The site is built first, which takes minutes.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import jupyter_lab
from benchmarks.latency import Allowed, summary
from labcore.site import docs
from labcore.site.explorables import PLACE

SLIDERS = {"guidance": (0.0, 2.0, 0.1), "scale": (0.0, 1.5, 0.05), "seed": (0, 99, 1)}
"""Slider -> lowest value, highest value and step."""
ANSWERS = 40
"""Number of changes of a slider; our choice."""
ALLOWED = Allowed(3.0, 70.0, 120.0)

MOVE = """([name, value]) => new Promise(done => {
    const slider = document.querySelector(`[name=${name}]`), pictures = document.getElementById('pictures');
    const painted = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - moved)));
    const watcher = new MutationObserver(() => { watcher.disconnect(); painted(); });
    watcher.observe(pictures, { attributeFilter: ['aria-label'] });
    slider.value = value;
    const moved = performance.now();
    slider.dispatchEvent(new Event('input', { bubbles: true }));
})"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run a static server on `folder`, and yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def explorables() -> dict:
    """Measure the seconds to the first picture, and the milliseconds from a slider's change to its pixels.

    The record is None, with a printed reason, if Chromium or a part of the site is missing.
    """
    executable = jupyter_lab.chromium()
    if executable is None:
        print("explorables no Chromium here: not measured")
        return {"explorables": None}
    with tempfile.TemporaryDirectory() as folder:
        site = docs.build(Path(folder)).parent
        if not all((site / PLACE / part).is_dir() for part in ("runtime", "models")):
            print("explorables the site was built without its runtime or models: not measured")
            return {"explorables": None}
        with served(site) as address, jupyter_lab.browser(executable) as window:
            found = measured(window, address)
    print("explorables", json.dumps(found))
    return {"explorables": found}


def measured(window, address: str) -> dict:
    """Open the student's page, change its sliders, and return the summary of the times."""
    page = window.new_page(viewport=dict(width=1300, height=1000))
    started = time.perf_counter()
    page.goto(f"{address}/{PLACE}/student.html")
    page.wait_for_selector(".explorable.live")
    first = time.perf_counter() - started
    chances, answers, names = random.Random(0), [], list(SLIDERS)
    before = {name: None for name in names}
    while len(answers) < ANSWERS:
        name = names[len(answers) % len(names)]
        low, high, step = SLIDERS[name]
        value = round(low + step * chances.randint(1, round((high - low) / step)), 2)
        if value != before[name]:  # the same value would change no picture
            before[name] = value
            answers.append(page.evaluate(MOVE, [name, str(value)]))
    page.close()
    return summary(first, answers, ALLOWED)
