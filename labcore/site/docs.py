"""The pages of README and docs, without running a notebook: `python -m labcore.site.docs FOLDER`.

MkDocs makes them from a mirror of the checkout: a page lies where its file lies, so links between files stay as they are.
Files that pages link to are copied too. mkdocstrings reads the API reference from docstrings. Notebooks that
`labcore.site.build` has executed are shown as executed, all others without outputs.

    FOLDER/docs/              the mirror, which MkDocs reads; formulas are MathML
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
from labcore.files import write_atomic
from labcore.portable import without_machine
from labcore.site.records import CHECKOUT

SECTIONS: dict[str, tuple[str, ...]] = {
    "Start": ("docs/getting-started.md", "docs/own-pictures.md", "docs/runs.md", "docs/troubleshooting.md"),
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
STYLE = ".md-typeset table code { word-break: normal; }\n.md-typeset table:not([class]) th { min-width: 4rem; }\n"
"""Names in tables are not broken within a word."""
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
    write_atomic(mirror / "pages.css", STYLE)
    _render(folder, _navigation(checkout, notebooks), checkout)
    return folder / "site" / "index.html"


def latest(folder: Path) -> Callable[[Path], Path]:
    """For a notebook: its executed copy in `folder` if that is of the same code, of either size; else the notebook itself."""

    def shown(source: Path) -> Path:
        executed, stamp = executed_paths(source, folder)
        current = stamp.exists() and stamp.read_text() in (made_of(source, False), made_of(source, True))
        return executed if current and executed.exists() else source

    return shown


def executed_paths(source: Path, folder: Path) -> tuple[Path, Path]:
    """Where the executed copy of a notebook is, and the file that says what it was made of."""
    place = folder / "runs" / source.stem
    return place / source.name, place / "made-of.txt"


def made_of(source: Path, smoke: bool) -> str:
    """What identifies an executed notebook: its size and its code."""
    return f"smoke: {smoke}\n{source.read_text()}"


def title(source: Path) -> str:
    """The title of a notebook up to its colon or question mark."""
    first = nbformat.read(source, as_version=4).cells[0].source.splitlines()[0]
    return re.split(r"[:?]", first.removeprefix("# "))[0]


def _navigation(checkout: Path, notebooks: list[Path]) -> list[dict[str, Any]]:
    """MkDocs' navigation, of the pages that the checkout has."""
    sections = {name: [file for file in files if (checkout / file).is_file()] for name, files in SECTIONS.items()}
    ways = ["notebooks/README.md"] if (checkout / "notebooks" / "README.md").is_file() else []
    pages = [*ways, *({title(source): f"notebooks/{source.name}"} for source in notebooks)]
    return [
        {"Overview": "README.md"},
        *({name: files} for name, files in sections.items() if files),
        {"Notebooks": pages},
    ]


def _linked(checkout: Path) -> list[Path]:
    """Every page, and every file of the checkout that a page links to; relative to the checkout. Notebooks are left out."""
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
    """The files that a Markdown page links to, whether or not they exist; addresses of the net are left out."""
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


def _render(folder: Path, navigation: list[dict[str, Any]], checkout: Path) -> None:
    """Run MkDocs on the mirror, and take out of the pages what a browser would load from other addresses."""
    notebooks = {"execute": False, "include_requirejs": False, "no_input": False, "include": ["*.ipynb"]}
    api = {"handlers": {"python": {**API, "paths": [str(checkout)]}}}
    plugins = ["search", {"mkdocs-jupyter": notebooks}, {"mkdocstrings": api}]
    settings = {**SETTINGS, "plugins": plugins, "nav": navigation, "docs_dir": "docs", "site_dir": "site"}
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
