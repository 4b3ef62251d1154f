"""SIGTERM and Ctrl-C as a wish to stop, which the loop grants after the step in hand."""

from __future__ import annotations

import signal
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
