"""The viewer of this process's output: a live notebook, a stored notebook, a terminal, or a log."""

from __future__ import annotations

import contextlib
import os
import sys

HEADLESS = "LABCORE_HEADLESS"
"""The environment variable that says that the kernel has no viewer, independent of its starter."""
PROGRESS = "LABCORE_PROGRESS"
"""The environment variable that names a file for lines of progress, which are shown at once and not stored in the notebook."""


def in_kernel() -> bool:
    """Return whether this is the kernel of a notebook, where a cell's output can be updated."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return bool(shell) and "IPKernelApp" in shell.config


def in_live_notebook() -> bool:
    """Return whether a Jupyter server started this kernel. papermill and nbclient start kernels without a server."""
    return in_kernel() and "JPY_SESSION_NAME" in os.environ and not os.environ.get(HEADLESS)


def tell_progress(line: str) -> None:
    """Add a line to the file that `PROGRESS` names; do nothing if it names none, or if the file cannot be written."""
    if path := os.environ.get(PROGRESS):
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
