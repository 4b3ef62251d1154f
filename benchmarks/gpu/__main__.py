"""`python -m benchmarks.gpu warm | rows | table`; see the package."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.card import card
from benchmarks.gpu.record import Record


def main(words: list[str] | None = None) -> int:
    """Run one of the commands; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    warm = commands.add_parser("warm", help="compile beforehand, untimed")
    warm.add_argument("--processes", type=int, default=4, help="how many programs are compiled beside each other")
    warm.add_argument("--task", help="compile this one alone, in this process")
    rows = commands.add_parser("rows", help="run the rows that a record lacks; `benchmarks.run --only gpu` starts this")
    rows.add_argument("--record", type=Path, required=True)
    rows.add_argument("--deadline", type=float, required=True, help="seconds since the epoch")
    rows.add_argument("--seconds", type=float, help="what was asked for, for the record")
    for command in (warm, rows):
        command.add_argument("--reference", type=Path, help="folder of a clone of apple/ml-tarflow")
    table = commands.add_parser("table", help="print a record as a Markdown table")
    table.add_argument("record", type=Path)
    args = parser.parse_args(words)
    try:
        return COMMANDS[args.command](args)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def run_warm(args: argparse.Namespace) -> int:
    """Compile one task, or all of them in processes; failures are printed and do not count, since rows compile as well."""
    from benchmarks.gpu.warm import warm, warm_one

    if args.task is not None:
        return warm_one(args.task, args.reference)
    warm(args.processes, args.reference)
    return 0


def run_rows(args: argparse.Namespace) -> int:
    """Run rows until the deadline; status 3 where the device became unusable."""
    from benchmarks.gpu.rows import ROWS, Broken, run
    from benchmarks.gpu.setting import TOY, Setting

    if args.record.exists():
        record = Record.read(args.record)
    else:
        record = Record.new(args.record, about(args.seconds, args.reference is not None))
    setting = Setting(record, args.reference)
    record.values |= {"toy": setting.sizes is TOY, "planned": [[row.n, row.name] for row in ROWS]}
    if setting.toy:
        print("toy size: torch sees no CUDA device; the numbers are meaningless", flush=True)
    try:
        run(setting, args.deadline)
    except Broken:
        return 3
    record.values["card at the end"] = card()
    record.write()
    return 0


def about(seconds: float | None, reference: bool) -> dict:
    """What made the record: versions, revision, card, TF32, and what was asked for."""
    from benchmarks.gpu.setting import tf32_state
    from labcore import provenance

    asked = {"seconds": seconds, "reference": reference}
    packages = ["triton"] if find_spec("triton") else []
    return {**provenance.stamp(*packages), "tf32": tf32_state(), "card": card(), **asked}


def run_table(args: argparse.Namespace) -> int:
    """Print the table of a record."""
    from benchmarks.gpu.table import table

    print(table(Record.read(args.record).values))
    return 0


COMMANDS = {"warm": run_warm, "rows": run_rows, "table": run_table}

if __name__ == "__main__":
    sys.exit(main())
