"""The folder of a project: the one that has papermill_runs/ with specs, claims, profiles, runs and results.

A project is a checkout of labcore, or a folder that `lab init` made.
"""

from __future__ import annotations

from pathlib import Path

from labcore.revision import ROOT

FOLDER = "papermill_runs"


def project_folders() -> list[Path]:
    """List every folder papermill_runs that a name may refer to: here, in the folders above, and in labcore's checkout.

    Some of them may not exist. An installed labcore is no checkout and adds none.
    """
    places = [Path.cwd(), *Path.cwd().parents]
    if (ROOT / "pyproject.toml").is_file():
        places.append(ROOT)
    return [place / FOLDER for place in places]


def project() -> Path | None:
    """Find the folder of the project: here, above, or labcore's checkout; None if there is none."""
    return next((folder.parent for folder in project_folders() if folder.is_dir()), None)
