"""`lab init`: a folder with the notebooks, specs, claims and profiles of the installed version.

They are package data: labcore/starter links to the checkout's own folders, and a wheel holds what the links lead to.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

STARTER = Path(__file__).resolve().parents[1] / "starter"
KINDS = ("*.ipynb", "*.yaml", "*.md")
"""The files that are copied, as pyproject.toml lists them; folders of notebooks may also hold checkpoints and outputs."""


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the command."""
    app.command("init")(plain_errors(init))


def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Make a folder with the notebooks and the specs of campaigns, to work in without a checkout."""
    from labcore.terminal import printable

    count = write_project(folder)
    typer.echo(
        printable(f"{folder} has {count} files: notebooks/, papermill_runs/ and README.md, which says what to do next")
    )
    typer.echo(printable(f"try  cd {folder} && lab run 00_quickstart --smoke"))


def write_project(folder: Path) -> int:
    """Copy the starter's files into `folder`; return their number.

    Raises ValueError if `folder` holds anything, FileExistsError if it is a file, FileNotFoundError if the installed package
    has no notebooks, OSError if it cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"FOLDER was {folder}, which is not empty; give a new or empty folder, and copy files from there "
            "to update an older one"
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"FOLDER was {folder}, which is a file; give a new or empty folder")
    files = starter_files()
    if not any(file.suffix == ".ipynb" for file in files):
        raise FileNotFoundError(f"{STARTER} has no notebooks; install labcore again from a wheel, or use a checkout")
    for file in files:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(STARTER / file, target)
    return len(files)


def starter_files() -> list[Path]:
    """List the starter's files, relative to it."""
    folders = (".", "notebooks", *(f"papermill_runs/{name}" for name in ("specs", "claims", "profiles")))
    found = [path for each in folders for kind in KINDS for path in (STARTER / each).glob(kind)]
    return sorted(path.relative_to(STARTER) for path in found)
