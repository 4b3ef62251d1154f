"""`make demo`: the quickstart notebook, executed and turned into HTML, with its numbers at the end.

Every call trains again in a new folder under outputs/demo/, so no number comes from an earlier run. An interrupted demo is not
resumed; the notebook itself resumes when it is run again with the same run_dir.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from labcore.campaigns.execute import read_result
from labcore.campaigns.notebook import execute_notebook, explain
from labcore.campaigns.pages import web_page
from labcore.campaigns.project import project
from labcore.terminal import seen_from_here

NOTEBOOK = Path("notebooks", "00_quickstart.ipynb")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return the exit status, 1 if it failed."""
    parser = argparse.ArgumentParser(prog="python -m labcore.cli.demo", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--smoke", action="store_true", help="train only a few steps, to check that everything runs here"
    )
    smoke = parser.parse_args(arguments).smoke
    root = project()
    if root is None or not (root / NOTEBOOK).is_file():
        print(
            f"the demo runs {NOTEBOOK}, and {root or Path.cwd()} has none; start in a checkout, or in a folder that "
            "`lab init FOLDER` made",
            file=sys.stderr,
        )
        return 1
    folder = new_folder(root / "outputs" / "demo")
    executed = folder / NOTEBOOK.name
    print(f"executing {NOTEBOOK}, {'a minute' if smoke else 'about 5 minutes on two cores'}")
    start = time.perf_counter()
    try:
        execute_notebook(root / NOTEBOOK, executed, {"smoke": smoke, "run_dir": "run"})
    except KeyboardInterrupt:
        print(f"stopped; the results so far are in {seen_from_here(folder)}", file=sys.stderr)
        return 1
    except Exception as error:
        print(
            f"the demo failed: {explain(error)}\nthe notebook up to there is {seen_from_here(executed)}",
            file=sys.stderr,
        )
        return 1
    html = web_page(executed)
    try:
        result = read_result(folder / "run" / "result.json")
    except (ValueError, OSError) as error:
        print(f"the demo failed: {error}", file=sys.stderr)
        return 1
    print(f"\n{summary(result)}\n{time.perf_counter() - start:.0f} seconds in all\n")
    for what, path in (("notebook", executed), ("web page", html), ("samples", folder / "run" / "samples.png")):
        print(f"{what:9} {seen_from_here(path)}")
    return 0


def new_folder(parent: Path) -> Path:
    """Make a new folder below `parent`, named by date and time."""
    name = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(100):
        folder = parent / (name + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"{parent} has a hundred folders {name}; remove some")


def summary(result: dict[str, Any]) -> str:
    """Describe the numbers of a quickstart's result.json in words."""
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


if __name__ == "__main__":
    sys.exit(main())
