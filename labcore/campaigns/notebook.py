"""Headless execution of a notebook with papermill: this interpreter as its kernel, live output, stops and time limits.

papermill's own report of a run is not reliable: after a dead kernel or a timeout it marks every cell as completed, and
`sys.exit(0)` in a cell counts as success. `execute` raises in all these cases.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from labcore import locks
from labcore.campaigns import kernel
from labcore.campaigns.parameters import EXPLORE
from labcore.jsonfile import read_object
from labcore.live import HEADLESS, PROGRESS

STARTS = 3  # attempts to start a kernel: parallel starts can pick the same port
START = 120  # seconds that a kernel may take to start, by a monotonic clock
NEVER = 10**9  # seconds; jupyter_client counts them by the time of day
SETTLED = 0.5  # seconds of a cell in which it is not interrupted: the kernel would lose its reply
AGAIN = 60  # seconds until a cell that continues after an interrupt is interrupted again


class Stopped(Exception):
    """The notebook was stopped by a signal before its end."""


class Unfinished(RuntimeError):
    """The notebook ended before its end without an error of its own: `sys.exit()` in a cell."""


class Stop:
    """A request to stop a running notebook: its running cell gets Ctrl-C, so that training saves, and no later cell starts."""

    def __init__(self, kernel: Path | None = None):
        self.kernel = kernel  # the lock that the kernel holds
        self.wished, self.interrupted = threading.Event(), False
        self._cell: int | None = None
        self._began = 0.0
        self._over = threading.Event()

    def wish(self, *_) -> None:
        """Request the stop; can be used as a signal handler."""
        self.wished.set()

    def starts(self, cell, cell_index: int) -> None:
        if self.wished.is_set():
            raise Stopped("stopped before its end")

    def runs(self, cell, cell_index: int) -> None:
        self._began = time.monotonic()  # first, since `_watch` looks at both
        self._cell = cell_index

    def ran(self, cell, cell_index: int, execute_reply) -> None:
        self._cell = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While open, a requested stop interrupts the kernel."""
        self._over.clear()
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        last = None
        while not self._over.wait(0.1):
            now = time.monotonic()
            due = now - self._began > SETTLED and (last is None or now - last > AGAIN)
            if self.wished.is_set() and self._cell is not None and due and self._interrupt():
                last = now

    def _interrupt(self) -> bool:
        """Send SIGINT to the kernel's processes, if it listens already; return whether it was sent."""
        try:
            holder = locks.holder(self.kernel) if self.kernel else None
            if holder is None or holder.pid is None or _ignores_interrupts(holder.pid):
                return False
            os.killpg(holder.pid, signal.SIGINT)
        except OSError:
            return False
        self.interrupted = True
        return True


def execute_notebook(
    notebook: Path,
    executed: Path,
    parameters: dict[str, Any],
    timeout: float | None = None,
    log: Path | None = None,
    stop: Stop | None = None,
) -> None:
    """Run `notebook` with `parameters` in the folder of `executed`, by this interpreter, and show its lines as they come.

    Lines of a training's progress are shown too; the executed notebook does not hold them.

    A cell tagged both "explore" and "raises-exception" may fail: a line reports it, and the notebook continues.

    timeout: seconds that a cell may take. log: a file to which the lines are added too, with those of stderr.

    Raises papermill's PapermillExecutionError if another cell fails, Stopped if `stop` was requested, Unfinished after
    sys.exit(), and nbclient's DeadKernelError and CellTimeoutError.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it calls annotated parameters unknown
    stop = stop or Stop()
    with _Lines(log) as lines, _progress(lines) as progress, _kernel(stop.kernel, progress), stop.watching():
        for attempt in range(1, STARTS + 1):
            begun: list[int] = []
            patience = threading.Timer(START, kernel.end, [stop.kernel])
            patience.daemon = True

            def starts(cell, cell_index: int, begun: list[int] = begun, patience: threading.Timer = patience) -> None:
                patience.cancel()
                begun.append(cell_index)
                stop.starts(cell, cell_index)

            try:
                if stop.kernel is not None:
                    patience.start()
                result = papermill.execute_notebook(
                    _literally(notebook),
                    _literally(executed),
                    parameters,
                    kernel_name="python3",
                    language="python",
                    progress_bar=False,
                    stdout_file=lines,
                    stderr_file=None if log is None else lines,
                    cwd=executed.parent,
                    execution_timeout=timeout,
                    start_timeout=START if stop.kernel is None else NEVER,
                    on_cell_start=starts,
                    on_cell_execute=stop.runs,
                    on_cell_executed=stop.ran,
                )
                break
            except PapermillExecutionError as error:
                result = nbformat.read(executed, as_version=4)
                if _cut_short(result):
                    raise
                lines.write(
                    f"a cell that only shows something failed ({error.ename}: {error.evalue}); the notebook continued\n"
                )
                break
            except (RuntimeError, DeadKernelError) as error:
                if begun or stop.wished.is_set() or attempt == STARTS:
                    raise
                lines.write(f"the kernel did not start ({error}); trying again\n")
                time.sleep(attempt)
            finally:
                patience.cancel()
    if stop.interrupted:
        raise Stopped("stopped in its last cell")
    if index := _cut_short(result):
        raise Unfinished(f"cell [{index}] ended the notebook with sys.exit(); a run must reach its last cell")


def write_figures(notebook: Path, folder: Path) -> list[Path]:
    """Write the images of an executed notebook as 01.png, 02.png, ... to `folder`, in order; return their paths."""
    cells = read_object(notebook, "run the notebook again", needs=["cells"])["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    if pictures:
        folder.mkdir(exist_ok=True)
    written = []
    for number, picture in enumerate(pictures, 1):
        base64_text = picture if isinstance(picture, str) else "".join(picture)
        path = folder / f"{number:02d}.png"
        path.write_bytes(base64.b64decode(base64_text))
        written.append(path)
    return written


def explain(error: BaseException) -> str:
    """Describe an error: its cell, its message, and the end of the traceback without colours."""
    if not hasattr(error, "ename"):
        text = str(error).strip().splitlines()
        return (
            str(error) if isinstance(error, Stopped | Unfinished) else f"{type(error).__name__}: " + "\n".join(text[:3])
        )
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).strip().splitlines()
    message = f"{error.ename}: {error.evalue}"
    return "\n".join([f"cell [{error.exec_count}] raised {message}", *(f"    {line}" for line in trace[-25:])])


class _Lines:
    """Output of a notebook to stdout and a log file. Neither can fail the run: with a full disk the log stays incomplete."""

    def __init__(self, path: Path | None):
        self._path = path
        self._sinks: list[TextIO] = []

    def __enter__(self) -> _Lines:
        self._sinks = [sys.stdout]
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._sinks.append(open(self._path, "a", encoding="utf-8"))
        return self

    def __exit__(self, *_) -> None:
        for sink in self._sinks[1:]:
            with contextlib.suppress(OSError):
                sink.close()

    def write(self, text: str) -> None:
        for sink in self._sinks:
            with contextlib.suppress(OSError):
                sink.write(text)
                sink.flush()

    def flush(self) -> None:
        """Written text is flushed already."""


def _literally(path: Path) -> str:
    """Escape braces in a path, which papermill would take for parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextlib.contextmanager
def _progress(lines: _Lines) -> Iterator[Path]:
    """Make a file for lines of progress, which are passed to `lines` as they come and are not part of the notebook."""
    over = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "progress"
        path.touch()

        def follow() -> None:
            with open(path, encoding="utf-8", errors="replace") as file:
                while True:
                    last = over.wait(0.2)
                    if text := file.read():
                        lines.write(text)
                    if last:
                        return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            over.set()
            thread.join()


@contextlib.contextmanager
def _kernel(lock: Path | None, progress: Path) -> Iterator[None]:
    """Make this interpreter the kernel "python3", independent of the machine's kernels; see labcore.campaigns.kernel."""
    with tempfile.TemporaryDirectory() as kernels:
        spec = Path(kernels) / "kernels" / "python3" / "kernel.json"
        spec.parent.mkdir(parents=True)
        command = [sys.executable, str(Path(__file__).with_name("kernel.py")), "-f", "{connection_file}"]
        env = {HEADLESS: "1", PROGRESS: str(progress)}
        if lock is not None:
            env["LABCORE_KERNEL_LOCK"] = str(lock)
        spec.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python", "env": env}))
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (kernels, before)))
        try:
            yield
        finally:
            os.environ.pop("JUPYTER_PATH")
            if before is not None:
                os.environ["JUPYTER_PATH"] = before


def _cut_short(notebook: Any) -> int | None:
    """Number of the first cell that failed, exited or was not executed, without cells tagged "explore"; None if all ended."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for number, cell in enumerate(code, 1):
        if EXPLORE in cell.metadata.get("tags", ()) and cell.execution_count is not None:
            continue
        exited = any(output.output_type == "error" for output in cell.outputs)
        if exited or cell.execution_count is None:
            return cell.execution_count or number
    return None


def _ignores_interrupts(process: int) -> bool:
    """Whether a process ignores SIGINT now, as a kernel does between cells; False if that cannot be determined."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    ignored = re.search(r"^SigIgn:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(ignored) and bool(int(ignored[1], 16) >> (signal.SIGINT - 1) & 1)
