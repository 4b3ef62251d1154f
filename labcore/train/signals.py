"""SIGTERM and Ctrl-C as a request to stop, which the loop grants after the current step; a launcher's death is one too."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import Any


class StopSignals:
    """While open, SIGTERM and SIGINT are noted in `came` instead of killing the process; a second SIGINT interrupts."""

    def __init__(self):
        self.came = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        if self.came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = True


def end_with_parent() -> None:
    """Send this process a SIGTERM when its parent, whose number is in LABCORE_PARENT, dies (on Linux).

    So a killed launcher leaves no processes behind: they save and stop.
    """
    parent = os.environ.get("LABCORE_PARENT")
    if parent is None or sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the line above
        os.kill(os.getpid(), signal.SIGTERM)
