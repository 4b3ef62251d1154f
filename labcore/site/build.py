"""The notebooks, executed, as a site to browse: `python -m labcore.site.build FOLDER`.

Each runs with its own defaults (hours in all on a processor; `--smoke`: minutes), goes on where it was stopped, and is not run
again before it changes. MkDocs with mkdocs-jupyter makes the pages.

    FOLDER/runs/<notebook>/   the executed notebook and what it wrote
    FOLDER/docs/              what MkDocs reads: the notebooks with formulas as MathML, the three ways through them
    FOLDER/site/index.html    the site
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from labcore.campaigns.notebook import execute
from labcore.campaigns.pages import converted, with_mathml, without_net
from labcore.files import write_atomic
from labcore.portable import without_machine

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
INDEX = "README.md"
SETTINGS = {
    "site_name": "labcore",
    "theme": {"name": "material", "font": False, "features": ["navigation.footer", "toc.integrate"]},
    "plugins": ["search", {"mkdocs-jupyter": {"execute": False, "include_requirejs": False, "no_input": False}}],
    "markdown_extensions": ["tables", "fenced_code", "md_in_html"],
    "use_directory_urls": False,  # so that it can be opened as files
}


def build(folder: Path, smoke: bool = False, notebooks: Path = NOTEBOOKS) -> Path:
    """Execute what is not executed yet, and make the site; its index page. Raises as `execute`; ValueError for no notebooks."""
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise ValueError(f"no notebooks in {notebooks}")
    docs = folder.resolve() / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    for source in sources:
        executed = _executed(source, folder.resolve() / "runs" / source.stem, smoke)
        page = without_machine(converted(nbformat.read(executed, as_version=4)), [os.uname().nodename])
        nbformat.write(page, docs / source.name)
    index = with_mathml((notebooks / INDEX).read_text()) if (notebooks / INDEX).exists() else "# Notebooks\n"
    write_atomic(docs / "index.md", index)
    pages = [{"Three ways through": "index.md"}, *({_title(source): source.name} for source in sources)]
    settings = {**SETTINGS, "nav": pages, "docs_dir": "docs", "site_dir": "site"}
    write_atomic(folder / "mkdocs.yml", yaml.safe_dump(settings, sort_keys=False))
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--config-file",
        str(folder.resolve() / "mkdocs.yml"),
    ]
    subprocess.run(command, check=True, cwd=folder, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    for page in (folder / "site").glob("*.html"):
        page.write_text(without_net(page.read_text()))
    return folder / "site" / "index.html"


def _executed(source: Path, folder: Path, smoke: bool) -> Path:
    """The executed notebook: the one that is there where its code and size are the same, or a new one."""
    executed, stamp = folder / source.name, folder / "made-of.txt"
    made_of = f"smoke: {smoke}\n{source.read_text()}"
    if executed.exists() and stamp.exists() and stamp.read_text() == made_of:
        return executed
    folder.mkdir(parents=True, exist_ok=True)
    print(f"--- {source.name}", flush=True)
    execute(source, executed, {"smoke": smoke, "run_dir": "run"})
    write_atomic(stamp, made_of)
    return executed


def _title(source: Path) -> str:
    """The title of a notebook up to its colon."""
    first = nbformat.read(source, as_version=4).cells[0].source.splitlines()[0]
    return re.split(r"[:?]", first.removeprefix("# "))[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--smoke", action="store_true")
    print(build(**vars(parser.parse_args())))
