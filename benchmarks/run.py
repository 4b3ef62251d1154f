"""`make bench`: the numbers that the lab promises, measured on this machine in one run.

    make bench                                      our own numbers
    make bench BENCH="--only fidelity"              one part of them: foundation, classification, fidelity, align, batch,
                                                    inversion, panels, speed, where or guess
    make bench BENCH="--reference FOLDER"           and ml-tarflow beside them (FOLDER: a clone of apple/ml-tarflow)

Speed is given as ratios of things timed alternately in the same run. The table is printed, and written as JSON to
benchmarks/results/ under the part's and the device's name where --save is given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import align, batch, compare_ml_tarflow, guess, inversion, measures, panels, speed, where
from labcore import TarFlow, TarFlowConfig, invert, provenance, zoo
from labcore.data import load
from labcore.data.transforms import to_float

RESULTS = Path(__file__).parent / "results"


def import_seconds(repeats: int = 3) -> dict[str, float]:
    """Median seconds of `import torch`, and of what labcore adds when its model and sampler are used."""

    def median(code: str) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    median("import torch")  # read the files once
    torch_alone = median("import torch")
    bare = median("import torch, labcore")
    used = median("import torch, labcore; labcore.TarFlow, labcore.sample")
    return {
        "import torch s": round(torch_alone, 2),
        "import labcore adds s": round(bare - torch_alone, 2),
        "with TarFlow and sample s": round(used - torch_alone, 2),
    }


@torch.no_grad()
def round_trip() -> list[dict]:
    """Largest |invert(forward(x)) - x|: the shipped model on test images, and a gently perturbed flow up to |x| = 20.

    A trained flow cannot be asked for the second: it has only seen [-1, 1], and sends values of 20 to infinity.
    """
    test = load("fashion-mnist-12k", "test")
    images, labels = to_float(test.images[:16]), test.labels[:16]
    torch.manual_seed(0)
    sizes = dict(image_size=28, channels=1, patch_size=4, width=128, num_blocks=4, layers_per_block=4)
    gentle = TarFlow(TarFlowConfig(**sizes, num_classes=10)).eval()
    for p in gentle.parameters():
        p.add_(torch.randn_like(p), alpha=0.005)
    rows = []
    for name, flow, x in (
        ("fashion-tarflow on test images", zoo.load("fashion-tarflow"), images),
        ("perturbed 4-128-4-4", gentle, torch.randn_like(images)),
        ("perturbed 4-128-4-4", gentle, 5 * torch.randn_like(images)),
    ):
        for dtype, allowed in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
            flow, x = flow.to(dtype), x.to(dtype)
            error = float((invert(flow, flow(x, labels).z, labels).x - x).abs().max())
            largest = round(float(x.abs().max()), 1)
            rows.append(
                {"flow": name, "dtype": str(dtype)[6:], "largest |x|": largest, "error": error, "allowed": allowed}
            )
        flow.float()
    return rows


def foundation(args: argparse.Namespace) -> dict:
    """Imports, round trips, and ml-tarflow beside ours where it is given."""
    record = {"import": import_seconds(), "round_trip": round_trip()}
    print("import     ", record["import"])
    for row in record["round_trip"]:
        print("round trip ", row)
    if args.reference:
        theirs = compare_ml_tarflow.perturbed(compare_ml_tarflow.load_reference(args.reference))
        ours = TarFlow.from_apple(theirs.state_dict(), image_size=28, patch_size=4)
        record["ml_tarflow"] = compare_ml_tarflow.compare(theirs, ours, args.repeats)
        compare_ml_tarflow.show(record["ml_tarflow"])
    return record


PARTS = {
    "foundation": foundation,
    "classification": lambda args: measures.classification(args.repeats),
    "fidelity": lambda args: measures.scoring(args.threads),
    "align": lambda args: align.align(args.repeats, args.threads),
    "batch": lambda args: batch.batch(args.repeats),
    "inversion": lambda args: inversion.inversion(args.repeats, args.reference),
    "panels": lambda args: panels.panels(),
    "speed": lambda args: speed.speed(args.repeats, args.reference),
    "where": lambda args: where.where(args.repeats),
    "guess": lambda args: guess.guess(),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--reference", type=Path, help="folder of a clone of apple/ml-tarflow")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write the records under benchmarks/results/")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for part, run in PARTS.items():
        if args.only not in (None, part):
            continue
        record = {**provenance.stamp(), "threads": args.threads, **run(args)}
        if args.save:
            save(part, record)
        if not all(row["error"] <= row["allowed"] for row in record.get("round_trip", ())):
            return 1
    return 0


def save(part: str, record: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    name = "".join(c if c.isalnum() else "-" for c in provenance.device_name().lower()).strip("-")
    path = RESULTS / f"{part}-{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    if part == "speed":
        speed.picture(record, path.with_suffix(".png"))
    print(f"record in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    sys.exit(main())
