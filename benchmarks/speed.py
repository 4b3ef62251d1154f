"""Time of forward pass, training step and inverses at 49, 256 and 1,024 tokens, of labcore and ml-tarflow, and its growth.

Targets on two CPU cores at 49 tokens: a speed-up over ml-tarflow's inverse of 5 for one image (8 with guidance), 2.5 for 16
images, 2.5 for 100 images (3 with guidance), and at most twice the lower bound for 100 images; at 256 tokens, a speed-up of 8
for one image.

The flows of 4 blocks with 4 layers of width 128 are perturbed by N(0, 0.01^2). They are measured without solvers that sweep,
because their fixed points are easier to find than the fixed points of trained flows. The shipped flow is measured with all
solvers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.align import make_flow
from labcore import zoo
from labcore.experiments.bench import COMPILED, FORWARD, INVERSE, NATIVE, OURS, THEIRS, Cases, Row, bench, described
from labcore.viz.speed import growth

DEPTH = dict(patch_size=4, width=128, layers_per_block=4, num_classes=10, channels=1)
GUIDANCE = 1.5
STD = 0.01
PLAIN = (THEIRS, OURS, NATIVE, COMPILED)
CASES = (
    dict(image_size=28, num_blocks=4, batches=(1, 16, 100), guidances=(0.0, GUIDANCE), precisions=("fp32", "bf16")),
    dict(image_size=64, num_blocks=4, batches=(1, 16), guidances=(0.0, GUIDANCE), precisions=("fp32",)),
    dict(image_size=128, num_blocks=4, batches=(1,), guidances=(0.0,), precisions=("fp32",)),
    dict(image_size=28, num_blocks=2, batches=(1,), guidances=(0.0,), precisions=("fp32",)),
    dict(image_size=28, num_blocks=8, batches=(1,), guidances=(0.0,), precisions=("fp32",)),
)
WANTED = {
    (49, 1, 0.0): 5.0,
    (49, 1, GUIDANCE): 8.0,
    (49, 16, 0.0): 2.5,
    (49, 100, 0.0): 2.5,
    (49, 100, GUIDANCE): 3.0,
    (256, 1, 0.0): 8.0,
}
"""(tokens, batch, guidance) -> target of the speed-up over ml-tarflow."""


def speed(repeats: int, reference: Path | None, limit: float = 10.0) -> dict:
    """Measure the rows of perturbed flows and of the shipped flow, and compare them with the targets; return the record."""
    device, rows = "cuda" if torch.cuda.is_available() else "cpu", []

    def show(row: Row) -> None:
        print(f"{row.tokens:5d} tokens  {row.task}, batch {row.batch}, {row.way}: {row.ms:.4g} ms")

    for case in CASES:
        flow = make_flow(DEPTH | {key: case[key] for key in ("image_size", "num_blocks")}, STD).to(device)
        cases = Cases(case["batches"], case["guidances"], case["precisions"], PLAIN)
        rows += bench(flow, cases, reference, repeats, limit, show)
    flow = zoo.load("fashion-tarflow").to(device)
    shipped = bench(flow, Cases((1, 16), (0.0, 1.0)), reference, repeats, limit, show)
    print("perturbed flows\n\n" + described(rows) + "\nthe shipped flow\n\n" + described(shipped))
    found = {"perturbed": [row._asdict() for row in rows], "shipped": [row._asdict() for row in shipped]}
    return {**found, "targets": targets(rows)}


def targets(rows: list[Row]) -> list[dict]:
    """Return each target with the result of our fastest exact way."""
    found = []
    for (tokens, batch, g), wanted in WANTED.items():
        case = inverses(rows, tokens=tokens, blocks=4, precision="fp32", batch=batch, guidance=g)
        theirs, ours = (
            [r for r in case if r.way == THEIRS],
            min((r for r in case if r.way != THEIRS), key=lambda r: r.ms),
        )
        row = {"tokens": tokens, "batch": batch, "guidance": g, "way": ours.way, "by the floor": round(ours.floor, 2)}
        if theirs:
            row |= {"times as fast": round(theirs[0].ms / ours.ms, 2), "wanted": wanted}
        found.append(row)
        print("target     ", row)
    return found


def inverses(rows: Iterable[Row], **fixed: object) -> list[Row]:
    return [r for r in rows if r.task == INVERSE and all(getattr(r, key) == value for key, value in fixed.items())]


def picture(record: dict, path: Path) -> None:
    """Draw the growth of the cost in a record as a PNG."""
    rows = [Row(**row) for row in record["perturbed"] if row["precision"] == "fp32" and not row["guidance"]]
    panels = {}
    for label, key, fixed in (
        ("images", "batch", dict(tokens=49, blocks=4)),
        ("tokens", "tokens", dict(batch=1, blocks=4)),
        ("blocks", "blocks", dict(batch=1, tokens=49)),
    ):
        lines: dict[str, list] = {}
        for row in rows:
            if all(getattr(row, k) == v for k, v in fixed.items()) and (row.task == INVERSE or row.way == OURS):
                name = {INVERSE: row.way, FORWARD: "lower bound: forward pass"}.get(row.task)
                if name is not None:
                    lines.setdefault(name, []).append((getattr(row, key), row.ms))
        panels[label] = lines
    growth(panels, "Time of one inverse: 1 image, 49 tokens and 4 blocks, each varied in turn").savefig(path)
