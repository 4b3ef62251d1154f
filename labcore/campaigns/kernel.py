"""The process that runs a notebook's cells: an IPython kernel, started as a script, that does not outlive its starter.

On Linux the system kills it with the process that started it, however that ended. With LABCORE_KERNEL_LOCK it holds that
file while it lives and writes its process number there (`labcore.locks`), so that two kernels never work on one run's
folder: a new one waits for an old one that is still going down.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

WAIT = 40  # seconds for an earlier kernel of the same run to end; starting one is given 120


def hold(path: str) -> None:
    """Lock a file for the life of this process, after waiting for an earlier kernel; end this process if that one stays."""
    from labcore import locks

    try:
        locks.hold(path, WAIT)
    except locks.Held as held:
        sys.exit(f"an earlier kernel, {held.holder}, still holds {path}; end it")


def end(path: str | os.PathLike) -> None:
    """Kill the kernel that holds the lock at `path`, if there is one."""
    from labcore import locks

    holder = locks.holder(path)
    if holder is not None and holder.host == os.uname().nodename:
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            os.kill(holder.pid, signal.SIGKILL)


def main() -> None:
    """Become the kernel."""
    if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
        del sys.path[0]  # no module may be imported from this folder
    from labcore.processes import die_with_parent

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
