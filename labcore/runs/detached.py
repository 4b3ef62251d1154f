"""A command that outlives whoever started it, and that anyone can find again by its folder.

    train.json   the command, the process that looks after it, and at its end its exit status; replaced whole
    train.out    what it writes, attempt after attempt
    train.lock   locked by that process as long as it lives, however it ends

Whether it runs, the lock alone says. Signals go to a process known by host, number, start time and boot, since numbers are
used again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labcore.jsonfile import read_json, write_json
from labcore.locks import Held, holder, locked, sign
from labcore.processes import birth

RECORD, OUTPUT, LOCK = "train.json", "train.out", "train.lock"
WAIT = 10.0
"""Seconds that a new attempt has to replace the record of a killed one. After them, a recorded process that is not on this
machine while the lock is held runs in another container with the same host name."""
SHOWN = 200
"""Lines of a run found again that are shown of what it has written so far."""


def start(
    folder: Path,
    command: Sequence[str],
    env: Mapping[str, str],
    about: Any,
    prepare: Callable[[], object] = lambda: None,
) -> subprocess.Popen | None:
    """Start `command` in its own session, its output in train.out; None where one runs in `folder` already.

    about: anything JSON that `read` gives back. prepare: writes what the command reads, once nobody else can start here.
    OSError where the folder's disk has no file locks.
    """
    folder = folder.resolve()
    try:
        with locked(folder / LOCK, wait=0.5) as lock:  # `running` may have it for an instant
            return _start(folder, command, env, about, prepare, lock)
    except Held:
        return None


def _start(
    folder: Path,
    command: Sequence[str],
    env: Mapping[str, str],
    about: Any,
    prepare: Callable[[], object],
    lock: int,
) -> subprocess.Popen:
    """`start` with the lock's descriptor, which the child inherits: the lock stays locked when it is closed here."""
    prepare()
    output = folder / OUTPUT
    record = dict(
        command=list(command),
        about=about,
        host=socket.gethostname(),
        pid=None,
        offset=output.stat().st_size if output.exists() else 0,
        began=time.time(),
        status=None,
    )
    write_json(folder / RECORD, record)
    with open(output, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "labcore.runs.detached", str(folder), str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**env, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            pass_fds=(lock,),
        )


def read(folder: Path) -> dict[str, Any] | None:
    """The record of the newest attempt, or None: command, about, host, pid, offset, began, and status (None till it ends)."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return None
    return record if _is_record(record) else None


def _is_record(values: Any) -> bool:
    """Whether JSON values are what `start` and the process that looks after the command write."""
    if not isinstance(values, dict) or not {"about", "host", "pid", "offset", "status"} <= values.keys():
        return False
    numbers = isinstance(values["offset"], int) and isinstance(values["status"], int | None)
    return numbers and (values["pid"] is None or (isinstance(values["pid"], int) and "birth" in values))


def running(folder: Path) -> bool:
    """Whether the newest attempt still runs: its process holds the folder's lock as long as it lives, on whatever machine.

    The process's number proves nothing: a copy of the folder has it too, and in another container it is another process's.
    """
    record = read(folder)
    return record is not None and record["status"] is None and holder(folder / LOCK) is not None


def ask_to_stop(folder: Path) -> bool:
    """Send a SIGTERM, on which a training saves and stops; False where nothing runs. OSError where it runs elsewhere."""
    until = time.monotonic() + WAIT
    while running(folder):
        record = read(folder)
        pid, elsewhere = record["pid"], record["host"] != socket.gethostname()
        known = not elsewhere and pid is not None  # otherwise it has been started and has not said yet who it is
        if known and birth(pid) == record["birth"]:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(pid, signal.SIGTERM)
                return True
        elif elsewhere or (known and time.monotonic() > until):
            raise OSError(f"the training in {folder} runs on {record['host']}; stop process {pid} there")
        time.sleep(0.05)
    return False


def stop(folder: str | Path, timeout: int | float = 600) -> bool:
    """Have a run in `folder` save and stop, and wait for it; True where one ran. TimeoutError after `timeout` seconds."""
    folder, until = Path(folder), time.monotonic() + timeout
    if not ask_to_stop(folder):
        return False
    while running(folder):
        if time.monotonic() > until:
            raise TimeoutError(
                f"the training in {folder} has not stopped after {timeout:g} s; process {read(folder)['pid']}"
            )
        time.sleep(0.1)
    return True


class Output:
    """What the newest attempt in `folder` writes, line by line. again: only the last lines of what is there already."""

    def __init__(self, folder: Path, again: bool = False):
        self.folder, self.position, self.again = folder, _offset(folder), again

    def stream(self, show: Callable[[str], None]) -> int | None:
        """Show each line until the attempt ends; its exit status, or None where it was killed and could not say."""
        while True:
            going = running(self.folder)
            lines = self._lines(everything=not going)
            if self.again and len(lines) > SHOWN:
                show(f"... {len(lines) - SHOWN} earlier lines in {self.folder / OUTPUT}")
                lines = lines[-SHOWN:]
            self.again = False
            for line in lines:
                show(line)
            if not going:
                return (read(self.folder) or {}).get("status")
            time.sleep(0.2)

    def _lines(self, everything: bool) -> list[str]:
        """New lines; one without an end only when `everything` is asked for."""
        with open(self.folder / OUTPUT, "rb") as file:
            file.seek(self.position)
            new = file.read()
        complete_lines = new if everything else new[: new.rfind(b"\n") + 1]
        self.position += len(complete_lines)
        return complete_lines.decode(errors="replace").splitlines()


def last_lines(folder: Path, count: int = 20) -> str:
    """The end of what the newest attempt wrote."""
    with open(folder / OUTPUT, "rb") as file:
        file.seek(_offset(folder))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])


def _offset(folder: Path) -> int:
    """Bytes of train.out that earlier attempts wrote; 0 where train.json is damaged, so that all of the output is shown."""
    return (read(folder) or {}).get("offset", 0)


def _look_after(folder: Path, lock: int) -> None:
    """Run the recorded command to its end and record how it ended. lock: the lock's descriptor, which `start` opened."""
    from labcore.train.launch import wait_for

    sign(lock)
    record = {**read(folder), "pid": os.getpid(), "birth": birth(os.getpid())}
    status = 1
    try:
        status = wait_for(record["command"], os.environ, lambda: write_json(folder / RECORD, record))
    finally:
        write_json(folder / RECORD, {**record, "status": status, "ended": time.time()})


if __name__ == "__main__":
    _look_after(Path(sys.argv[1]), int(sys.argv[2]))
