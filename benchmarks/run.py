"""`make bench`: the numbers that the lab promises, measured on this machine in one run.

    make bench                                      our own numbers
    make bench BENCH="--only fidelity"              one part of them: foundation, classification, fidelity, align, batch,
                                                    inversion, panels, speed, where or guess
    make bench BENCH="--reference FOLDER"           and ml-tarflow beside them (FOLDER: a clone of apple/ml-tarflow)
    make bench BENCH="--only gpu --seconds 255"     the rows of a GPU within so many seconds; see `benchmarks.gpu`

Speed is given as ratios of things timed alternately in the same run. The table is printed, and written as JSON to
benchmarks/results/, or to the folder of --results, under the part's and the device's name where --save is given.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import file_name
from benchmarks.gpu.supervise import gpu

RESULTS = Path(__file__).parent / "results"

# part: its module, which is imported when it runs, and what is called there
PARTS: dict[str, tuple[str, Callable[[Any, argparse.Namespace], dict]]] = {
    "foundation": ("foundation", lambda module, args: module.foundation(args.repeats, args.reference)),
    "classification": ("measures", lambda module, args: module.classification(args.repeats)),
    "fidelity": ("measures", lambda module, args: module.scoring(args.threads)),
    "align": ("align", lambda module, args: module.align(args.repeats, args.threads)),
    "batch": ("batch", lambda module, args: module.batch(args.repeats)),
    "inversion": ("inversion", lambda module, args: module.inversion(args.repeats, args.reference)),
    "panels": ("panels", lambda module, args: module.panels()),
    "speed": ("speed", lambda module, args: module.speed(args.repeats, args.reference)),
    "where": ("where", lambda module, args: module.where(args.repeats)),
    "guess": ("guess", lambda module, args: module.guess()),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*PARTS, "gpu"], help="one part; gpu runs only where it is asked for")
    parser.add_argument("--reference", type=Path, help="folder of a clone of apple/ml-tarflow")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write the records under benchmarks/results/")
    parser.add_argument("--results", type=Path, help="with --save: the folder for the records instead")
    parser.add_argument("--seconds", type=float, default=255.0, help="with --only gpu: end before so many seconds")
    args = parser.parse_args()
    if args.results is not None and not args.save:
        parser.error("--results was given without --save; add --save, or leave --results out")
    if args.only == "gpu":
        try:
            return gpu(args.reference, args.seconds, args.results, args.save)
        except (ValueError, OSError) as error:
            parser.error(str(error))
    return run(args)


def run(args: argparse.Namespace) -> int:
    """All parts but gpu, or one of them; the exit status."""
    import torch

    from labcore import provenance

    torch.set_num_threads(args.threads)
    for part, (name, call) in PARTS.items():
        if args.only not in (None, part):
            continue
        found = call(importlib.import_module(f"benchmarks.{name}"), args)
        record = {**provenance.stamp(), "threads": args.threads, **found}
        if args.save:
            save(part, record, args.results or RESULTS)
        if not all(row["error"] <= row["allowed"] for row in record.get("round_trip", ())):
            return 1
    return 0


def save(part: str, record: dict, folder: Path) -> None:
    """Write a part's record, and the picture of "speed"."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(part, record["device"])
    path.write_text(json.dumps(record, indent=2) + "\n")
    if part == "speed":
        from benchmarks import speed

        speed.picture(record, path.with_suffix(".png"))
    print(f"record in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    sys.exit(main())
