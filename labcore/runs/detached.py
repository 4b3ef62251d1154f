"""A command in the background that outlives the process that started it, and can be found again by its folder.

    train.json   the command, the process that supervises it, and at the end the exit status; replaced atomically
    train.out    the output of all attempts, in order
    train.lock   locked by the supervising process until that ends, for any reason

Only the lock shows whether the command runs. Signals are sent to a process that is identified by host, number, start time and
boot, because numbers are reused.
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
"""Seconds in which a new attempt replaces the record of a killed one. If the lock is held for longer and the recorded process
is not on this machine, the process runs in another container with the same host name."""
SHOWN = 200
"""Number of earlier output lines that are shown when a running command is found again."""


def start(
    folder: Path,
    command: Sequence[str],
    env: Mapping[str, str],
    about: Any,
    prepare: Callable[[], object] = lambda: None,
) -> subprocess.Popen | None:
    """Start `command` in its own session, with its output in train.out; return None if a command runs in `folder` already.

    about: a JSON value, which `read` returns. prepare: called while the folder is locked; writes the files that the command
    reads. Raises OSError if the folder's disk has no file locks.
    """
    folder = folder.resolve()
    try:
        with locked(folder / LOCK, wait=0.5) as lock:  # `running` may hold it for an instant
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
    """Start the command. The child inherits the lock's descriptor, so the lock stays held when this process closes it."""
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
    """Return the record of the newest attempt: command, about, host, pid, offset, began, and status (None until it ends).

    Returns None if there is no record, or a damaged one.
    """
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return None
    return record if _is_record(record) else None


def _is_record(values: Any) -> bool:
    """Return whether JSON values are a record of `start` or of the supervising process."""
    if not isinstance(values, dict) or not {"about", "host", "pid", "offset", "status"} <= values.keys():
        return False
    numbers = isinstance(values["offset"], int) and isinstance(values["status"], int | None)
    return numbers and (values["pid"] is None or (isinstance(values["pid"], int) and "birth" in values))


def running(folder: Path) -> bool:
    """Return whether the newest attempt is running, on any machine: its process holds the folder's lock until it ends.

    The process's number is no proof: a copy of the folder has it too, and in another container it may be another process's.
    """
    record = read(folder)
    return record is not None and record["status"] is None and holder(folder / LOCK) is not None


def ask_to_stop(folder: Path) -> bool:
    """Send a SIGTERM, after which a training saves and stops; return False if none runs. OSError if it runs elsewhere."""
    until = time.monotonic() + WAIT
    while running(folder):
        record = read(folder)
        pid, elsewhere = record["pid"], record["host"] != socket.gethostname()
        known = not elsewhere and pid is not None  # otherwise it was just started and has not written its number yet
        if known and birth(pid) == record["birth"]:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(pid, signal.SIGTERM)
                return True
        elif elsewhere or (known and time.monotonic() > until):
            raise OSError(f"the training in {folder} runs on {record['host']}; stop process {pid} there")
        time.sleep(0.05)
    return False


def stop(folder: str | Path, timeout: int | float = 600) -> bool:
    """Ask a run in `folder` to save and stop, and wait for its end; return whether one ran.

    Raises TimeoutError after `timeout` seconds.
    """
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
    """Output of the newest attempt in `folder`, line by line. again: show only the last of the lines that exist already."""

    def __init__(self, folder: Path, again: bool = False):
        self.folder, self.position, self.again = folder, _offset(folder), again

    def stream(self, show: Callable[[str], None]) -> int | None:
        """Show each line until the attempt ends; return its exit status, or None if it was killed before it wrote one."""
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
        """Return the new lines; an unfinished line only with `everything`."""
        with open(self.folder / OUTPUT, "rb") as file:
            file.seek(self.position)
            new = file.read()
        complete_lines = new if everything else new[: new.rfind(b"\n") + 1]
        self.position += len(complete_lines)
        return complete_lines.decode(errors="replace").splitlines()


def last_lines(folder: Path, count: int = 20) -> str:
    """Return the last lines of the newest attempt's output."""
    with open(folder / OUTPUT, "rb") as file:
        file.seek(_offset(folder))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])


def _offset(folder: Path) -> int:
    """Return the bytes of train.out from earlier attempts; 0 if train.json is damaged, so that all output is shown."""
    return (read(folder) or {}).get("offset", 0)


def _look_after(folder: Path, lock: int) -> None:
    """Run the recorded command to its end and record its exit status. lock: the lock's descriptor, which `start` opened."""
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
