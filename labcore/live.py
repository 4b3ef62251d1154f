"""How somebody watches this process: in a live notebook, in a stored one, in a terminal, or in a log."""

from __future__ import annotations

import contextlib
import os
import sys

HEADLESS = "LABCORE_HEADLESS"
"""The environment variable that says that nobody watches the kernel, whoever started it."""
PROGRESS = "LABCORE_PROGRESS"
"""The environment variable that names a file for lines of progress, which are to be seen now and stored in no notebook."""


def in_kernel() -> bool:
    """True in the kernel of a notebook, where what a cell displays can be updated."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return bool(shell) and "IPKernelApp" in shell.config


def in_live_notebook() -> bool:
    """True under a kernel that a Jupyter server started. papermill and nbclient start their kernels without a server."""
    return in_kernel() and "JPY_SESSION_NAME" in os.environ and not os.environ.get(HEADLESS)


def tell_progress(line: str) -> None:
    """Add a line to the file that `PROGRESS` names; nothing where it names none, or where the file cannot be written."""
    if path := os.environ.get(PROGRESS):
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
