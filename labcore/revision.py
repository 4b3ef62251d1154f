"""The commit of labcore's source. This is separate from `labcore.provenance`, which imports torch."""

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
    """Return the commit of labcore's source ("+" if tracked files have changes).

    It comes from the checkout of labcore. Without a checkout, as in a copy or in another project's folder, it is the value of
    the environment variable LABCORE_REVISION; None if that is not set.
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
