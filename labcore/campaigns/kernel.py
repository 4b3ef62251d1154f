"""The process that runs a notebook's cells: an IPython kernel, started as a script, that does not outlive its starter.

On Linux the system kills it with the process that started it, however that ended. With LABCORE_KERNEL_LOCK it holds that
file while it lives and writes its process number there, so that two kernels never work on one run's folder: a new one
waits for an old one that is still going down.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

WAIT = 40  # seconds for an earlier kernel of the same run to end; starting one is given 120


def die_with_parent(number: int) -> None:
    """Let the system send this process signal `number` when the one that started it ends; nothing where it cannot."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG


def hold(path: str) -> int:
    """Lock a file for the life of this process and write our number there; the open file's descriptor."""
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    waited = 0.0
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if waited >= WAIT:
                sys.exit(f"an earlier kernel, process {os.read(handle, 20).decode()}, still holds {path}; end it")
            time.sleep(0.1)
            waited += 0.1
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle


def end(path: str | os.PathLike) -> None:
    """Kill the kernel that holds the lock at `path`, where one does."""
    import fcntl

    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if (number := os.read(handle, 20).decode()).isdigit():
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(int(number), signal.SIGKILL)
    finally:
        os.close(handle)


def main() -> None:
    """Become the kernel."""
    if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
        del sys.path[0]  # this folder's names are nobody's modules
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(os.environ.get("JPY_PARENT_PID", os.getppid())):
        sys.exit("the process that started this kernel has ended")
    lock = os.environ.pop("LABCORE_KERNEL_LOCK", None)
    if lock:
        hold(lock)
    sys.argv.append("--log-level=50")  # every kernel would warn that it listens on this machine without encryption
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


if __name__ == "__main__":
    main()
