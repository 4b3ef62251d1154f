"""The pages of README and docs, without running a notebook: `python -m labcore.site.docs FOLDER`.

MkDocs makes them from a mirror of the checkout: a page has the path of its file, so links between files need no change.
Files that pages link to are copied too. mkdocstrings reads the API reference from docstrings. Notebooks that
`labcore.site.build` has executed are shown as executed, all others without outputs. The search works over http. Where npm is
there, it also works when pages are opened as files: the theme's plugin "offline" writes the index as a script, and a script
from npm takes the place of web workers, which browsers do not allow there.

    FOLDER/docs/              the mirror, which MkDocs reads; formulas are MathML
    FOLDER/explore/           files that `labcore.site.explorables` adds, kept for the next build
    FOLDER/site/index.html    the pages
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import yaml

from labcore.campaigns.pages import CODE, converted, with_mathml, without_net
from labcore.files import making_folder, write_atomic
from labcore.portable import without_machine
from labcore.site import explorables, npm, slides
from labcore.site.records import CHECKOUT
from labcore.site.teaching import title

SECTIONS: dict[str, tuple[str, ...]] = {
    "Start": (
        "docs/start.md",
        "docs/getting-started.md",
        "docs/own-pictures.md",
        "docs/runs.md",
        "docs/troubleshooting.md",
    ),
    "Explore": tuple(
        f"docs/explore/{name}.md" for name in ("index", "student", "edit", "interpolate", "sweeps", "spiral")
    ),
    "Teach": tuple(f"docs/teaching/{name}.md" for name in ("index", "predictions", "answers")),
    "Methods": ("docs/alignment.md", "docs/learned-inverse.md", "docs/solvers.md", "docs/latents.md"),
    "Experiments": (
        *("docs/campaigns.md", "docs/measures.md", "docs/data.md", "docs/full-size.md", "docs/presets.md"),
        "papermill_runs/README.md",
    ),
    "Results": ("docs/findings.md", "docs/speed.md"),
    "Code": (
        "docs/api.md",
        "docs/settings.md",
        "docs/diffusers.md",
        "docs/extending.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ),
}
"""The pages in the order of the navigation; README comes before them, notebooks after them."""
LINK = re.compile(r"\]\(\s*<?([^)\s>#]+)(?:#[^)\s>]*)?>?[^)]*\)")
"""A Markdown link or picture, and the address without its anchor."""
STYLE = """\
.md-typeset table code { word-break: normal; }
.md-typeset table:not([class]) th { min-width: 4rem; }
.answer { height: 4.5rem; margin-bottom: 1.2rem; }
.answer { background: repeating-linear-gradient(transparent 0 1.4rem, #9993 1.4rem 1.45rem); print-color-adjust: exact; }
@media print { .answer ~ h2 { break-before: page; } p:has(+ .answer) { break-after: avoid; } }
"""
"""Names in tables are not broken within a word. Questions have lines to write on; each meeting starts a new sheet."""
WORKER = "iframe-worker@1.0.4"
"""npm package that replaces web workers on pages opened as files; by default the theme downloads it when a page is opened."""
WORKER_INTEGRITY = "roeaaI+Lg1LJNfgpCjoRe/+WzEjy9+Z08LoEvu85MCPbBjwm+qXz8Ag5U05lHa6V1CysZyGzE0SOkAtSUA5q7Q=="
"""SHA-512 of the package, in base64."""
WORKER_FILE, WORKER_SCRIPT = "shim/index.js", "iframe-worker.js"
"""The file in the package, and its name in the pages."""
NOT_EXECUTED = "*This notebook is shown without outputs. `make site` executes it.*"


def _palette(scheme: str, media: str, icon: str, other: str) -> dict[str, Any]:
    toggle = {"icon": f"material/{icon}", "name": f"switch to {other} mode"}
    return {"media": f"(prefers-color-scheme: {media})", "scheme": scheme, "primary": "indigo", "toggle": toggle}


API = {
    "paths": ["."],
    "options": {
        "show_root_heading": True,
        "show_root_full_path": True,
        "show_source": False,
        "heading_level": 3,
        "docstring_style": "google",
        "show_if_no_docstring": True,
        "filters": ["!^_"],
        "members_order": "source",
        "show_symbol_type_heading": True,
        "separate_signature": True,
        "show_signature_annotations": True,
        "line_length": 100,
    },
}
SETTINGS: dict[str, Any] = {
    "site_name": "labcore",
    "theme": {
        "name": "material",
        "font": False,
        "features": ["navigation.footer", "navigation.top", "toc.integrate", "search.highlight", "content.code.copy"],
        "palette": [
            _palette("default", "light", "weather-night", "dark"),
            _palette("slate", "dark", "weather-sunny", "light"),
        ],
    },
    "markdown_extensions": [
        "tables",
        "fenced_code",
        "md_in_html",
        "attr_list",
        "pymdownx.highlight",
        "pymdownx.superfences",
        {"toc": {"toc_depth": "2-3"}},
    ],
    "extra_css": ["pages.css"],
    "use_directory_urls": False,  # so that pages can be opened as files
    "validation": {"links": {"anchors": "warn", "unrecognized_links": "warn"}},
}


def build(folder: Path, shown: Callable[[Path], Path] | None = None, checkout: Path = CHECKOUT) -> Path:
    """Make the pages; return the index page.

    shown: the file to show for a notebook of the checkout; None shows those that were executed in `folder` before. Raises
    ValueError if the checkout has no notebooks, or if MkDocs finds a dead link or another fault.
    """
    folder = folder.resolve()
    notebooks = sorted((checkout / "notebooks").glob("*.ipynb"))
    if not notebooks:
        raise ValueError(f"no notebooks in {checkout / 'notebooks'}; build the pages from a checkout")
    mirror = folder / "docs"
    shutil.rmtree(mirror, ignore_errors=True)
    for source in notebooks:
        _copy_notebook(source, (shown or latest(folder))(source), mirror / "notebooks" / source.name)
    for file in _linked(checkout):
        _copy(checkout / file, mirror / file)
    explorables.add(mirror, folder / "explore", checkout)
    slides.add(mirror, folder / "explore", checkout, shown or latest(folder))
    write_atomic(mirror / "pages.css", STYLE)
    offline = _add_worker(mirror, folder / "explore" / WORKER.replace("@", "-"))
    _render(folder, _navigation(checkout, notebooks), checkout, offline)
    return folder / "site" / "index.html"


def latest(folder: Path) -> Callable[[Path], Path]:
    """Return a function that finds a notebook's executed copy in `folder`, of either size, or else the notebook itself.

    A copy counts only if it was made from the same code.
    """

    def shown(source: Path) -> Path:
        executed, stamp = executed_paths(source, folder)
        current = stamp.exists() and stamp.read_text() in (made_of(source, False), made_of(source, True))
        return executed if current and executed.exists() else source

    return shown


def executed_paths(source: Path, folder: Path) -> tuple[Path, Path]:
    """Return the paths of a notebook's executed copy, and of the file that identifies its source."""
    place = folder / "runs" / source.stem
    return place / source.name, place / "made-of.txt"


def made_of(source: Path, smoke: bool) -> str:
    """Return the text that identifies an executed notebook: its size and a hash of its code."""
    return f"smoke: {smoke}\n{source.read_text()}"


def _navigation(checkout: Path, notebooks: list[Path]) -> list[dict[str, Any]]:
    """Return MkDocs' navigation, with the pages that the checkout has."""
    sections = {name: [file for file in files if (checkout / file).is_file()] for name, files in SECTIONS.items()}
    ways = ["notebooks/README.md"] if (checkout / "notebooks" / "README.md").is_file() else []
    pages = [*ways, *({title(source): f"notebooks/{source.name}"} for source in notebooks)]
    return [
        {"Overview": "README.md"},
        *({name: files} for name, files in sections.items() if files),
        {"Notebooks": pages},
    ]


def _linked(checkout: Path) -> list[Path]:
    """List every page, and every file of the checkout that a page links to, relative to the checkout; without notebooks."""
    start = ["README.md", "notebooks/README.md", *(file for files in SECTIONS.values() for file in files)]
    waiting = [Path(file) for file in start if (checkout / file).is_file()]
    found: dict[Path, None] = {}
    while waiting:
        file = waiting.pop()
        if file in found or file.suffix == ".ipynb":
            continue
        found[file] = None
        if file.suffix == ".md":
            waiting += [target.relative_to(checkout) for target in targets(checkout / file) if target.is_file()]
    return list(found)


def targets(page: Path) -> Iterator[Path]:
    """Yield the files that a Markdown page links to, whether or not they exist; web addresses are left out."""
    for address in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", address):
            yield Path(os.path.normpath(page.parent / address))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".md":
        write_atomic(target, with_mathml(source.read_text(encoding="utf-8")))
    else:
        shutil.copyfile(source, target)


def _copy_notebook(source: Path, shown: Path, target: Path) -> None:
    """Copy a notebook as a page without the net; one that was not executed says so below its title."""
    target.parent.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(shown, as_version=4)
    if shown == source:
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(NOT_EXECUTED))
    nbformat.write(without_machine(converted(notebook), [os.uname().nodename]), target)


def _add_worker(mirror: Path, kept: Path) -> bool:
    """Put the script that the search of opened files needs into the mirror; return whether it is there.

    kept: folder where the script stays for the next build.
    """
    try:
        if not kept.is_dir():
            with making_folder(kept) as new:
                npm.fetch(WORKER, WORKER_INTEGRITY, [WORKER_FILE], new)
        shutil.copyfile(kept / Path(WORKER_FILE).name, mirror / WORKER_SCRIPT)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"the search of the pages works over http alone: {error}")
        return False
    return True


def _render(folder: Path, navigation: list[dict[str, Any]], checkout: Path, offline: bool) -> None:
    """Run MkDocs on the mirror, and remove from the pages all that a browser would load from other addresses.

    offline: whether the search works on opened files.
    """
    notebooks = {"execute": False, "include_requirejs": False, "no_input": False, "include": ["*.ipynb"]}
    api = {"handlers": {"python": {**API, "paths": [str(checkout)]}}}
    plugins = ["search", *(["offline"] if offline else []), {"mkdocs-jupyter": notebooks}, {"mkdocstrings": api}]
    extra = {"polyfills": [WORKER_SCRIPT]} if offline else {}
    settings = {
        **SETTINGS,
        "extra": extra,
        "plugins": plugins,
        "nav": navigation,
        "docs_dir": "docs",
        "site_dir": "site",
    }
    config = folder / "mkdocs.yml"
    write_atomic(config, yaml.safe_dump(settings, sort_keys=False))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    made = subprocess.run(
        command, cwd=folder, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    if made.returncode:
        raise ValueError(f"MkDocs did not make the pages; correct the pages that it names:\n{made.stderr}{made.stdout}")
    for page in (folder / "site").rglob("*.html"):
        page.write_text(without_net(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m labcore.site.docs", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    print(build(parser.parse_args().folder))
