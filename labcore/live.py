"""Whether a person looks on: what decides between progress bars and lines, and between controls and still pictures."""

from __future__ import annotations

import os
import sys

HEADLESS = "LABCORE_HEADLESS"
"""The environment variable that says that nobody does, whoever started the kernel."""


def in_live_notebook() -> bool:
    """True under a kernel that a Jupyter server started. papermill and nbclient start theirs alone."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    in_kernel = bool(shell) and "IPKernelApp" in shell.config
    return in_kernel and "JPY_SESSION_NAME" in os.environ and not os.environ.get(HEADLESS)
