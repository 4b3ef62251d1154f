"""`make demo`: the quickstart notebook, executed and turned into HTML, with its numbers at the end.

Every call trains anew, in a folder of its own under outputs/demo/, so that no number is left over from an earlier run. An
interrupted demo is not resumed; the notebook itself resumes when it is run again with the same run_dir.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "00_quickstart.ipynb"


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit status, 1 where it failed."""
    parser = argparse.ArgumentParser(prog="python -m labcore.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a few training steps only: does everything run here?")
    smoke = parser.parse_args(arguments).smoke
    if not NOTEBOOK.is_file():
        print(
            f"the demo runs {NOTEBOOK.name} from a checkout of the repository, and {ROOT} is not one; clone the "
            "repository and call `make demo` in it",
            file=sys.stderr,
        )
        return 1
    folder = new_folder(ROOT / "outputs" / "demo")
    executed = folder / NOTEBOOK.name
    print(f"executing {NOTEBOOK.relative_to(ROOT)}, {'a minute' if smoke else 'about 5 minutes on two cores'}")
    start = time.perf_counter()
    try:
        execute(NOTEBOOK, executed, {"smoke": smoke, "run_dir": "run"})
    except KeyboardInterrupt:
        print(f"stopped; what was done so far is in {_short(folder)}", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"the demo failed: {explain(error)}\nthe notebook up to there is {_short(executed)}", file=sys.stderr)
        return 1
    html = to_html(executed)
    result = json.loads((folder / "run" / "result.json").read_text())
    print(f"\n{summary(result)}\n{time.perf_counter() - start:.0f} seconds in all\n")
    for what, path in (("notebook", executed), ("web page", html), ("samples", folder / "run" / "samples.png")):
        print(f"{what:9} {_short(path)}")
    return 0


def new_folder(parent: Path) -> Path:
    """A new folder named by date and time below `parent`."""
    name = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(100):
        folder = parent / (name + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"{parent} has a hundred folders {name}; remove some")


def execute(notebook: Path, executed: Path, parameters: dict[str, Any]) -> None:
    """Run `notebook` with `parameters` in the folder of `executed`, by this interpreter, its printed lines shown as they come.

    Raises papermill's PapermillExecutionError where a cell fails.
    """
    import papermill

    with tempfile.TemporaryDirectory() as kernels:
        spec = Path(kernels) / "kernels" / "python3" / "kernel.json"
        spec.parent.mkdir(parents=True)
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        env = {"LABCORE_HEADLESS": "1"}  # the training loop prints lines, no progress bar
        spec.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python", "env": env}))
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (kernels, before)))
        try:
            papermill.execute_notebook(
                notebook,
                executed,
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                stdout_file=sys.stdout,
                cwd=executed.parent,
            )
        finally:
            os.environ.pop("JUPYTER_PATH")
            if before is not None:
                os.environ["JUPYTER_PATH"] = before


def to_html(notebook: Path) -> Path:
    """A web page of an executed notebook beside it; pictures are inside the page."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_filename(str(notebook))
    path = notebook.with_suffix(".html")
    path.write_text(page, encoding="utf-8")
    return path


def explain(error: Exception) -> str:
    """What went wrong, in which cell; the end of the cell's traceback without colours."""
    if not hasattr(error, "ename"):
        return f"{type(error).__name__}: {error}"
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).strip().splitlines()
    message = f"{error.ename}: {error.evalue}"
    return "\n".join([f"cell [{error.exec_count}] raised {message}", *(f"    {line}" for line in trace[-25:])])


def summary(result: dict[str, Any]) -> str:
    """The numbers of a quickstart's result.json in words."""
    nats, right, trip = result["nats_per_dim"], result["bayes_accuracy"], result["round_trip_error"]
    return "\n".join(
        (
            f"training    {result['steps']} steps in {result['training_seconds']:.0f} s, seed {result['seed']}",
            f"likelihood  {nats['mean']:.4f} +- {nats['standard_error']:.4f} nats/dim at sigma {result['sigma']:g}, "
            f"{nats['n']} test images",
            f"classifying {right['accuracy']:.1%} right ({right['low']:.1%} to {right['high']:.1%}), "
            f"{right['n']} test images",
            f"inversion   largest error {trip['float32']:.1e} in float32, {trip['float64']:.1e} in float64",
        )
    )


def _short(path: Path) -> str:
    """A path as seen from the working directory, where it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


if __name__ == "__main__":
    sys.exit(main())
