"""`make bench`: measure the numbers that the lab promises, on this machine in one run.

    make bench                                      all parts of labcore's own numbers
    make bench BENCH="--only fidelity"              one part: foundation, classification, fidelity, align, batch,
                                                    inversion, panels, exact-side, explorables, planned,
                                                    speed, where or guess
    make bench BENCH="--reference FOLDER"           the same, compared with ml-tarflow (FOLDER: a clone of apple/ml-tarflow)
    make bench BENCH="--only gpu --seconds 255"     the GPU's rows in at most 255 seconds; see `benchmarks.gpu`

Speed is given as a ratio of two times that were measured alternately in the same run. The numbers are printed. With --save,
they are also written as JSON to benchmarks/results/, or to the folder of --results, in a file named for part and device.
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

# part -> its module, which is imported when the part runs, and the call in that module
PARTS: dict[str, tuple[str, Callable[[Any, argparse.Namespace], dict]]] = {
    "foundation": ("foundation", lambda module, args: module.foundation(args.repeats, args.reference)),
    "classification": ("measures", lambda module, args: module.classification(args.repeats)),
    "fidelity": ("measures", lambda module, args: module.scoring(args.threads)),
    "align": ("align", lambda module, args: module.align(args.repeats, args.threads)),
    "batch": ("batch", lambda module, args: module.batch(args.repeats)),
    "inversion": ("inversion", lambda module, args: module.inversion(args.repeats, args.reference)),
    "panels": ("panels", lambda module, args: module.panels()),
    "exact-side": ("exact_side", lambda module, args: module.exact_side()),
    "explorables": ("explorables", lambda module, args: module.explorables()),
    "planned": ("planned", lambda module, args: module.planned()),
    "speed": ("speed", lambda module, args: module.speed(args.repeats, args.reference)),
    "where": ("where", lambda module, args: module.where(args.repeats)),
    "guess": ("guess", lambda module, args: module.guess()),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*PARTS, "gpu"], help="run only this part; gpu runs only if it is named here")
    parser.add_argument("--reference", type=Path, help="folder of a clone of apple/ml-tarflow")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch; default 2")
    parser.add_argument("--repeats", type=int, default=5, help="number of timed repeats; default 5")
    parser.add_argument("--save", action="store_true", help="write the records under benchmarks/results/")
    parser.add_argument("--results", type=Path, help="with --save: another folder for the records")
    parser.add_argument("--seconds", type=float, default=255.0, help="with --only gpu: end within this many seconds")
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
    """Run all parts except gpu, or the part of --only; return the exit status."""
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
