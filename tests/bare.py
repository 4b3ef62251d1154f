"""A bare machine for the tests: imported first, it hides what this machine's user has installed, downloaded or set.

The home folder, the folders of data, weights and caches, and the variables that change libraries are replaced before any
library reads them, so that processes which a test starts see a bare machine as well. Compilers keep their caches.
One thread a process: the tests' tensors are tiny, and two threads take several times as long as one.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HIDDEN = ("LABCORE_", "ACCELERATE_", "HF_", "HUGGINGFACE_", "TORCH_HOME", "XDG_", "JUPYTER_", "IPYTHON", "FSDP_")
"""Beginnings of the names of variables that a user may have set."""
KEPT = ("LABCORE_FAULT_SEED", "LABCORE_SLURM", "LABCORE_TEST_DEVICE", "LABCORE_REVISION")
"""What these name is for the tests themselves."""
REAL_SHARE = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
"""Where this machine's packages put data."""


def hide() -> None:
    """Make the environment of this process, and of those that it starts, a bare machine's."""
    user = Path.home()
    safe = _safe_directories()
    for name in [name for name in os.environ if name.startswith(HIDDEN) and name not in KEPT]:
        del os.environ[name]
    bare = Path(tempfile.mkdtemp(prefix="labcore-bare-"))
    atexit.register(shutil.rmtree, bare, ignore_errors=True)
    (bare / "home").mkdir()
    (bare / "home" / ".gitconfig").write_text("".join(f'[safe]\n\tdirectory = "{each}"\n' for each in safe))
    os.environ.setdefault("TRITON_CACHE_DIR", str(user / ".triton" / "cache"))
    os.environ["MPLCONFIGDIR"] = str(Path(tempfile.gettempdir(), f"labcore-tests-matplotlib-{os.getuid()}"))
    os.environ |= {
        "HOME": str(bare / "home"),
        "XDG_DATA_DIRS": str(bare / "share"),
        "LABCORE_CACHE": str(bare / "cache"),
        "OMP_NUM_THREADS": "1",
    }


def _safe_directories() -> list[str]:
    """The repositories that git may read although another user owns them."""
    words = ["git", "config", "--global", "--get-all", "safe.directory"]
    try:
        return subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        return []


hide()
