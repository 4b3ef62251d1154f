"""C code of the lab, compiled once on the machine that runs it and loaded through ctypes.

A library is kept in the cache folder. Its name has a digest of the source, the compiler, its flags and the processor, so that
another machine with the same home folder compiles its own. It also has a digest of the contents, so that a damaged library is
compiled again. Without a compiler, or if compiling fails, one message says so, and callers use plain code.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from labcore.files import cache_folder, sha256, write_atomic
from labcore.in_use import note_use

SOURCE = Path(__file__).with_name("token_loop.c")
FLAGS = (["-march=native"], ["-mcpu=native"], [])
"""Flags that are tried in order: for this processor (compilers have two names for that), then for all of its kind."""
ALWAYS = ["-O3", "-fPIC", "-shared"]
LIBRARIES = ["-lm", "-lpthread"]
LIMIT = 60.0  # seconds for one call of the compiler


class NoLibrary(RuntimeError):
    """Error for a missing compiled library; the message has the reason and says what to do."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library, or None after one message. The first call on a machine compiles it, in about a second."""
    try:
        found = load()
        found.digest.restype = ctypes.c_uint64
        return found
    except NoLibrary as error:
        logging.getLogger("labcore").warning("the exact inverse runs without compiled code: %s", error)
        return None


def load() -> ctypes.CDLL:
    """Load the library from the cache folder, after compiling it if it is missing. Raises NoLibrary."""
    words = compiler()
    name, folder = f"token-loop-{key(words)}", cache_folder() / "native"
    for file in sorted(folder.glob(f"{name}-*.so")):
        try:
            if file.name == _name_in_cache(name, file):
                library = ctypes.CDLL(str(file))
                note_use(file)
                return library
            logging.getLogger("labcore").warning("%s has changed since it was compiled; it is compiled again", file)
            file.unlink()
        except OSError:
            pass  # the file belongs to another system or cannot be read: compiled again below
    with tempfile.TemporaryDirectory(prefix="labcore-native-") as scratch:
        made = Path(scratch, f"{name}.so")
        build(words, made)
        try:
            library = ctypes.CDLL(str(made))
        except OSError as error:
            raise NoLibrary(f"the library that {words[0]} compiled cannot be loaded ({error})") from error
        keep(made, folder / _name_in_cache(name, made))
        return library


def _name_in_cache(name: str, file: Path) -> str:
    """Return a library's file name in the cache folder: its name with a digest of its contents."""
    return f"{name}-{sha256(file)[:16]}.so"


def compiler() -> list[str]:
    """Return the command of the C compiler: $CC, or the first of cc, gcc and clang. Raises NoLibrary."""
    given = shlex.split(os.environ.get("CC", ""))
    for words in [given] if given else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(words[0]):
            return words
    what = f"CC is {os.environ['CC']!r}, which is not a command on this machine" if given else "no C compiler was found"
    raise NoLibrary(f"{what}; install one (apt-get install gcc, or xcode-select --install on macOS)")


def build(words: list[str], to: Path) -> None:
    """Compile the source to the file `to`. Raises NoLibrary with the first line of the compiler's error."""
    reason = ""
    for flags in FLAGS:
        try:
            done = _run([*words, *ALWAYS, *flags, str(SOURCE), "-o", str(to), *LIBRARIES])
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoLibrary(f"{words[0]} failed ({error})") from error
        if done.returncode == 0 and to.is_file():
            return
        reason = next((line for line in done.stderr.splitlines() if "error" in line), f"status {done.returncode}")
    raise NoLibrary(f"{shlex.join(words)} failed: {reason}")


def keep(made: Path, file: Path) -> None:
    """Copy the library into the cache folder atomically, for later processes; do nothing if the folder cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, made.read_bytes())
    except OSError as error:
        logging.getLogger("labcore").info("compiled code was not kept: %s", error)


def key(words: list[str]) -> str:
    """Return a digest of everything that the compiled library depends on."""
    try:
        version = _run([*words, "--version"]).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibrary(f"{words[0]} failed ({error})") from error
    parts = [SOURCE.read_text(), shlex.join(words), version, repr((ALWAYS, FLAGS, LIBRARIES)), processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """Describe the processor and its instruction sets."""
    if sys.platform == "darwin":
        return platform.machine() + _run(["sysctl", "-n", "machdep.cpu.brand_string"]).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    telling = ("model name", "flags", "Features", "CPU part", "isa")
    return "\n".join([platform.machine(), *(line for line in lines if line.startswith(telling))])


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=LIMIT)
