"""Run one run in this process: `python -m labcore.campaigns.execute FOLDER`.

FOLDER has a run.json; see labcore.campaigns.state.

Exit status: 0 finished now or before, 1 failed, 75 another process runs it, 143 stopped by SIGTERM or Ctrl-C. The run writes

    result.json       the notebook's own record             log.txt           all printed lines of all attempts
    notebook.ipynb    as executed, and notebook.html        figures/NN.png    its pictures
    environment.txt   installed packages                    notebook-attempt-N.ipynb    of attempts that failed

and the files that the notebook saves in run_dir. That is ".", the folder itself, so no path of this machine gets into them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from labcore.campaigns import state as states
from labcore.campaigns.notebook import Stop, Stopped, execute_notebook, explain, write_figures
from labcore.campaigns.pages import web_page
from labcore.campaigns.state import RESULT, Busy, State
from labcore.files import write_atomic
from labcore.jsonfile import read_json
from labcore.processes import die_with_parent
from labcore.revision import git_revision
from labcore.terminal import show_any_character

DONE, FAILED, BUSY, STOPPED = 0, 1, 75, 143
NOTEBOOK, RUNNING, LOG = "notebook.ipynb", "notebook-running.ipynb", "log.txt"


def main(arguments: list[str] | None = None) -> int:
    """Run the folder that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m labcore.campaigns.execute", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a run's folder with its run.json")
    parser.add_argument("--parent", type=int, help="stop when this process, which started us, ends")
    given = parser.parse_args(arguments)
    show_any_character()
    stop = Stop(Path(states.KERNEL))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.wish)
    if hasattr(signal, "SIGUSR2"):  # batch systems send it to all processes of a job, and only submitit's answers it
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if given.parent is not None:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != given.parent:
            return STOPPED
    # jsonschema checks one exotic format with a grammar that takes seconds to build; notebooks have no such field
    sys.modules.setdefault("rfc3987_syntax", None)
    try:
        return run_folder(given.folder.resolve(), stop)
    except Busy as busy:
        print(f"{given.folder.name}: {busy}", file=sys.stderr)
        return BUSY
    except (ValueError, OSError) as error:
        print(f"{given.folder.name}: {error}", file=sys.stderr)
        return FAILED


def run_folder(folder: Path, stop: Stop) -> int:
    """Run the notebook of `folder` unless it is finished; return the exit status.

    Raises Busy if another process runs it, and ValueError for a folder without run.json.
    """
    if not folder.is_dir() or states.read(folder) is None:
        raise ValueError(f"{folder} has no {states.STATE}; `lab run SPEC` makes such folders")
    with states.lock_folder(folder):
        state = states.read(folder)
        if state.done:
            return DONE
        os.chdir(folder)
        return _attempt(state, stop)


def _attempt(state: State, stop: Stop) -> int:
    """Make one attempt, and record its outcome of any kind in run.json."""
    attempts = state.values["attempts"]
    _tidy(len(attempts))
    start = time.monotonic()
    attempt = {"started": states.now(), "status": "running", "pid": os.getpid(), "host": os.uname().nodename}
    attempt |= {"revision": git_revision(), "code": state.values.get("code"), "device": device()}
    attempts.append(attempt)
    state.values["status"] = "running"
    states.save(state)
    error: str | None = None
    try:
        _execute(state, stop)
        status, code = "done", DONE
    except BaseException as problem:  # also SystemExit and KeyboardInterrupt: an attempt always ends in run.json
        stopped = isinstance(problem, Stopped) or stop.wished.is_set()
        status, code = ("stopped", STOPPED) if stopped else ("failed", FAILED)
        error = "stopped by a signal" if stopped else explain(problem)
        with contextlib.suppress(OSError):
            if Path(RUNNING).exists():
                os.replace(RUNNING, f"notebook-attempt-{len(attempts)}.ipynb")
    attempt |= {"ended": states.now(), "seconds": round(time.monotonic() - start, 3), "status": status, "error": error}
    state.values["status"] = status
    with contextlib.suppress(OSError), open(LOG, "a", encoding="utf-8") as log:
        log.write(f"attempt {len(attempts)} {status} after {attempt['seconds']:.1f} s{f': {error}' if error else ''}\n")
    states.save(state)
    return code


def _execute(state: State, stop: Stop) -> None:
    """Execute the notebook, and write its files. Raises the error of the notebook."""
    values = state.values
    source = Path(values["source"])
    if not source.is_file():
        raise ValueError(f"the notebook {source.name} is not where it was; run `lab run` with the spec again")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(RESULT)  # only a result that this attempt writes counts
    import papermill  # noqa: F401  before the thread starts: two imports of the same modules at once break each other

    early = threading.Timer(5, _import_converter)  # while the notebook computes
    early.daemon = True
    early.start()
    changed = values.get("given", values["parameters"])  # all other parameters keep the notebook's values
    try:
        execute_notebook(source, Path(RUNNING), changed | {"run_dir": "."}, values["timeout"], Path(LOG), stop)
    finally:
        early.cancel()
    read_result(Path(RESULT))
    _without_machine(Path(RUNNING), source.name)
    write_figures(Path(RUNNING), Path("figures"))
    installed = {f"{package.name}=={package.version}" for package in importlib.metadata.distributions()}
    packages = sorted(installed, key=str.lower)
    write_atomic(Path("environment.txt"), "\n".join(packages) + "\n")
    os.replace(RUNNING, NOTEBOOK)
    web_page(Path(NOTEBOOK))


def _import_converter() -> None:
    """Import the converter of web pages, which takes a second, while the notebook computes."""
    import nbconvert.exporters  # noqa: F401


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json. Raises ValueError if it is missing, is no JSON mapping, or has numbers that are not finite."""
    try:
        result = read_json(path)
    except FileNotFoundError:
        raise ValueError(
            f"the notebook ended without writing {path.name}; its last cell must write it to run_dir"
        ) from None
    except ValueError as error:
        raise ValueError(f"{error}; run the notebook again, whose last cell writes it") from None
    if not isinstance(result, dict):
        raise ValueError(f"{path.name} holds a {type(result).__name__}; it needs names with values")
    if bad := _not_finite(result):
        raise ValueError(f"{path.name} has numbers that are not finite: {', '.join(bad[:5])}")
    return result


def _not_finite(value: Any, name: str = "") -> list[str]:
    if isinstance(value, dict):
        return [bad for key, item in value.items() for bad in _not_finite(item, f"{name}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [bad for i, item in enumerate(value) for bad in _not_finite(item, f"{name}[{i}]")]
    return [name] if isinstance(value, float) and not math.isfinite(value) else []


def _tidy(attempts: int) -> None:
    """Rename the notebook of an attempt that was killed, so that it is kept."""
    with contextlib.suppress(OSError):
        if Path(RUNNING).exists():
            os.replace(RUNNING, f"notebook-attempt-{attempts}.ipynb")


def device() -> str:
    """Name the device of runs here: the GPUs if the driver lists them, else the processor and the number of threads."""
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        if visible != "":
            words += ["-i", visible] if visible is not None else []
            names = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")
            return ", ".join(name.strip() for name in names if name.strip())
    except (OSError, subprocess.SubprocessError):
        pass
    threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    return f"{platform.machine()} CPU, {threads} threads"


def _without_machine(notebook: Path, source: str) -> None:
    """Replace the paths of this machine that papermill writes into a notebook."""
    content = read_json(notebook)
    content["metadata"].get("papermill", {}).update(input_path=source, output_path=NOTEBOOK)
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
