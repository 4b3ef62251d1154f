"""Output of `lab run`: a table of the runs that stays in place on a terminal, otherwise a line for every change of status;
and the lines that the runs print, each with its run's name in front."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

ORDER = ("running", "elsewhere", "failed", "stopped", "killed", "new", "done")
SHOWN = 20  # rows of the live table; running and failed runs come first


class ProgressTable:
    """Shows the states of runs by name, and their logs."""

    def __init__(self, names: list[str], live: bool | None = None):
        self.status = dict.fromkeys(names, "new")
        self._since: dict[str, float] = {}
        self._note: dict[str, str] = {}
        self._logs: dict[str, tuple[Path, int, bytes]] = {}
        self._live: Any = None
        if sys.stdout.isatty() if live is None else live:
            from rich.live import Live

            self._live = Live(get_renderable=self._table, refresh_per_second=2)
            self._live.start()

    def close(self) -> None:
        """Stop updating the table."""
        if self._live is not None:
            self._live.stop()

    def set(self, name: str, status: str, note: str = "", quiet: bool = False) -> None:
        """Change the status of a run, and print a line unless `quiet`."""
        self.status[name], self._note[name] = status, note
        if status == "running":
            self._since[name] = time.monotonic()
        if not quiet:
            ended = status in ("done", "failed", "stopped", "killed") and name in self._since
            took = f" after {self._seconds(name)}" if ended else ""
            self.say(f"{name}: {status}{took}{f', {note}' if note else ''}")
        if status != "running":
            self._since.pop(name, None)

    def say(self, text: str) -> None:
        """Print a line."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def follow(self, name: str, log: Path) -> None:
        """Show the lines that are added to a log from now on."""
        self._logs[name] = (log, log.stat().st_size if log.exists() else 0, b"")

    def drain(self, name: str, last: bool = False) -> None:
        """Show the new lines of a run's log. last: show an unfinished line too, and stop following the log."""
        log, position, rest = self._logs[name]
        try:
            with open(log, "rb") as file:
                file.seek(position)
                new = file.read()
        except OSError:
            new = b""
        *lines, rest = (rest + new).split(b"\n")
        if last and rest:
            lines.append(rest)
        for line in lines:
            text = line.decode(errors="replace").split("\r")[-1]
            self.say(f"[{name}] {text}")
        self._logs[name] = (log, position + len(new), rest)
        if last:
            del self._logs[name]

    def counts(self) -> str:
        """Count the runs by status: "3 done, 1 failed"."""
        found = {status: list(self.status.values()).count(status) for status in reversed(ORDER)}
        return ", ".join(f"{n} {'waiting' if status == 'new' else status}" for status, n in found.items() if n)

    def _seconds(self, name: str) -> str:
        return f"{time.monotonic() - self._since[name]:.0f} s" if name in self._since else ""

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(title=self.counts(), title_justify="left")
        for title in ("run", "status", "time", ""):
            table.add_column(title, justify="right" if title == "time" else "left")
        names = sorted(self.status, key=lambda name: ORDER.index(self.status[name]))
        for name in names[:SHOWN]:
            status = "waiting" if self.status[name] == "new" else self.status[name]
            table.add_row(name, status, self._seconds(name), self._note.get(name, "").split("\n")[0][:60])
        return table
