"""Third-party scripts of the pages: files of npm packages, which are copied when pages are built."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

PATIENCE = 300
"""Seconds to wait for npm."""


def fetch(package: str, integrity: str, members: Sequence[str], folder: Path) -> None:
    """Put files of an npm package into `folder`.

    Args:
        package: name and version, "name@1.0.0".
        integrity: SHA-512 of the package's archive in base64.
        members: paths in the package; files are stored under their last parts.
        folder: an existing folder.

    Raises:
        OSError, subprocess.SubprocessError: npm is missing or does not get the package.
        ValueError: the archive has another SHA-512.
    """
    with tempfile.TemporaryDirectory() as place:
        command = ["npm", "pack", package, "--silent", "--pack-destination", place]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
        (archive,) = Path(place).glob("*.tgz")
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != integrity:
            raise ValueError(f"the SHA-512 of npm's {package} is not {integrity}; try again, or check the package")
        with tarfile.open(archive) as files:
            for member in members:
                source = files.extractfile(f"package/{member}")
                assert source is not None  # the SHA-512 says what the package has
                (folder / Path(member).name).write_bytes(source.read())
