"""All pages with the notebooks executed: `python -m labcore.site.build FOLDER`.

Each notebook runs with its own defaults (hours in all on a CPU; `--smoke`: minutes), resumes if it was stopped, and runs again
only after it has changed. `labcore.site.docs` makes the pages.

    FOLDER/runs/<notebook>/   the executed notebook and the files that it wrote
    FOLDER/site/index.html    the pages
"""

from __future__ import annotations

import argparse
from pathlib import Path

from labcore.campaigns.notebook import execute_notebook
from labcore.files import write_atomic
from labcore.site import docs
from labcore.site.records import CHECKOUT


def build(folder: Path, smoke: bool = False, checkout: Path = CHECKOUT) -> Path:
    """Execute the notebooks that have no current executed copy, and make all pages; return the index page.

    Raises as `execute_notebook`, and as `labcore.site.docs.build`.
    """
    return docs.build(folder, lambda source: _executed(source, folder.resolve(), smoke), checkout)


def _executed(source: Path, folder: Path, smoke: bool) -> Path:
    """Return the executed notebook: the existing copy if it has the same code and size, else a new one."""
    executed, stamp = docs.executed_paths(source, folder)
    made_of = docs.made_of(source, smoke)
    if executed.exists() and stamp.exists() and stamp.read_text() == made_of:
        return executed
    executed.parent.mkdir(parents=True, exist_ok=True)
    print(f"--- {source.name}", flush=True)
    execute_notebook(source, executed, {"smoke": smoke, "run_dir": "run"})
    write_atomic(stamp, made_of)
    return executed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m labcore.site.build", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--smoke", action="store_true")
    print(build(**vars(parser.parse_args())))
