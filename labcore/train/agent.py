"""Torch's launcher with a graceful stop: `python -m labcore.train.agent` takes `torch.distributed.run`'s arguments.

Torch's launcher answers a SIGTERM by killing the processes after 30 seconds, saved or not, and by tracebacks. Here the
processes get the signal once, and the time that they need: SIGTERM asks them to stop, SIGINT orders it. A failed process
has printed its reason itself; nothing is printed over it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time

from labcore.train.signals import end_with_parent

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Run torch's launcher, and exit with the status of the first process that failed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the thread takes them, also while this one waits inside torch
    threading.Thread(target=_hand_on, daemon=True).start()
    end_with_parent()
    os.environ["LABCORE_PARENT"] = str(os.getpid())

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        run(parse_args(["--signals-to-handle=SIGQUIT", *sys.argv[1:]]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode == -signal.SIGKILL:
            print("a process was killed (out of memory?)", file=sys.stderr, flush=True)
        sys.exit(failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode)


def _hand_on() -> None:
    """Wait for a signal and pass it to the processes, also to those that start meanwhile; exit if there are none yet."""
    import psutil

    number = signal.sigwait(SIGNALS)
    notified: set[tuple[int, int]] = set()  # (process, signal)
    while True:
        children = psutil.Process().children()
        if not children and not notified:
            os._exit(143)
        for child in children:
            if (child.pid, number) not in notified:
                notified.add((child.pid, number))
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGKILL if number == signal.SIGINT else signal.SIGTERM)
        again = signal.sigtimedwait(SIGNALS, 0.2)
        if again is not None and again.si_signo == signal.SIGINT:
            number = signal.SIGINT
        time.sleep(0.05)


if __name__ == "__main__":
    main()
