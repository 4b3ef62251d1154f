"""Foundation: time of imports, errors of round trips, and a comparison with ml-tarflow."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import compare_ml_tarflow
from labcore import TarFlow, TarFlowConfig, invert, zoo
from labcore.data import load
from labcore.data.transforms import to_float


def import_seconds(repeats: int = 3) -> dict[str, float]:
    """Measure the median seconds of `import torch`, and the seconds that labcore adds, without and with model and sampler."""

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
    """Return the largest |invert(forward(x)) - x| of the shipped model on test images, and of a perturbed flow up to |x| = 20.

    The flow for |x| = 20 is only gently perturbed. A trained flow has seen values in [-1, 1] alone, and maps 20 to infinity.
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


def foundation(repeats: int, reference: Path | None) -> dict:
    """Measure imports, round trips and, if `reference` is given, compare with ml-tarflow; return the record."""
    record = {"import": import_seconds(), "round_trip": round_trip()}
    print("import     ", record["import"])
    for row in record["round_trip"]:
        print("round trip ", row)
    if reference:
        theirs = compare_ml_tarflow.perturbed(compare_ml_tarflow.load_reference(reference))
        ours = TarFlow.from_apple(theirs.state_dict(), image_size=28, patch_size=4)
        record["ml_tarflow"] = compare_ml_tarflow.compare(theirs, ours, repeats)
        compare_ml_tarflow.show(record["ml_tarflow"])
    return record
