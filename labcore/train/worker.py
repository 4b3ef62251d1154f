"""One process of a launch: `python -m labcore.train.worker MODULE ARGUMENTS` is `python -m MODULE ARGUMENTS`, and ends with its
launcher. Only the first process writes to standard output; errors come from each.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

from labcore.train.signals import end_with_parent

COMMON = (None, 0, 143)
"""Statuses with which all processes end together: finished, or stopped and saved."""


def main() -> None:
    """Run the module that the command line names as the main program."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # the agent blocks them for itself
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it ends with the process)
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        _leave_the_group()
    except SystemExit as end:  # a command's usual end
        if end.code in COMMON:
            _leave_the_group()
        raise
    except Exception as error:
        if not _lost_another(error):
            raise
        print(f"process {os.environ['RANK']} ends too: it has lost another process", file=sys.stderr, flush=True)
        sys.exit(1)


def _leave_the_group() -> None:
    """End the exchange with the other processes before the interpreter ends.

    A process was once seen to abort at its exit, after all of its work, with "terminate called without an active exception":
    a thread of the exchange was alive. All processes call this, since NCCL waits for the others; one that fails does not.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _lost_another(error: Exception) -> bool:
    """Return whether an exchange failed because another process is gone, which has printed its reason itself."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (type(error) is RuntimeError and "gloo" in str(error))


if __name__ == "__main__":
    main()
