"""The commit that labcore's source is at. It stands apart from provenance so that asking costs no import of torch."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
VARIABLE = "LABCORE_REVISION"
"""Environment variable with the commit of a copy that has no .git."""


@lru_cache(maxsize=1)
def git_revision() -> str | None:
    """The commit that labcore's source is at ("+" where tracked files have changes).

    A checkout of labcore itself is asked first. Without one, in a copy or in another project's folder, the environment's
    LABCORE_REVISION counts, as it is; None without that either.
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ("git", *words), cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    given = os.environ.get(VARIABLE, "").strip() or None
    if not (ROOT / ".git").exists():
        return given
    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return given
