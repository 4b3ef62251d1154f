"""Compare labcore with apple/ml-tarflow on the same weights: equal results, and the speed of both in one run.

    python -m benchmarks.compare_ml_tarflow --reference FOLDER_OF_A_CLONE [--json FILE] [--threads 2]

FOLDER_OF_A_CLONE is your clone of github.com/apple/ml-tarflow; labcore has none of its code. Both sides run with the same
weights, threads, dtype, no_grad and eval; timings alternate. The model has the sizes of ml-tarflow's MNIST notebook:
4-128-4-4, 28x28, 49 tokens, 10 classes. The exit status is 1 if a result differs by more than 1e-5 of the largest value.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from labcore import TarFlow, invert, provenance
from labcore.experiments.bench import load_reference
from labcore.rng import StepNoise
from labcore.timing import alternate
from labcore.train.objectives import Likelihood
from labcore.types import Batch

SIZES = dict(in_channels=1, img_size=28, patch_size=4, channels=128, num_blocks=4, layers_per_block=4, num_classes=10)


def perturbed(reference) -> torch.nn.Module:
    """Make ml-tarflow's model and add N(0, 0.02^2) to every weight, because at initialisation each block is the identity."""
    torch.manual_seed(0)
    theirs = reference.Model(**SIZES).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
    return theirs


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest |a - b| divided by the largest |b|."""
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def equal_results(theirs, ours: TarFlow) -> dict[str, float]:
    """Return the relative differences of z, log-det (a mean over dimensions in ml-tarflow) and inverses."""
    x, y = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    z, _, log_det = theirs(x, y)
    out = ours(x, y)
    found = {"z": difference(out.z, z), "log_det": difference(out.log_det, log_det * ours.config.dims)}
    for name, guidance, schedule, temperature in (
        ("inverse", 0.0, "constant", 1.0),
        ("inverse, guidance 1.5", 1.5, "constant", 1.0),
        ("inverse, guidance 1.5 linear", 1.5, "linear", 1.0),
        ("inverse, guidance 0.5, attn_temp 0.7", 0.5, "constant", 0.7),
    ):
        reference = theirs.reverse(
            z.clone(), y, guidance, attn_temp=temperature, annealed_guidance=schedule == "linear"
        )
        found[name] = difference(invert(ours, z, y, guidance, schedule, temperature).x, reference)
    return found


def inverse_speed(theirs, ours: TarFlow, batches=(1, 16, 100), repeats: int = 5) -> list[dict]:
    """Measure the seconds of the sequential inverse on both sides, and of one parallel forward pass (the lower bound)."""
    rows = []
    for b in batches:
        z, y = torch.randn(b, 49, 16), torch.arange(b) % 10
        x = ours.unpatchify(z)
        for guidance in (0.0, 1.5):
            with torch.no_grad():
                t = alternate(
                    {
                        "ml-tarflow": lambda z=z, y=y, g=guidance: theirs.reverse(z.clone(), y, g),
                        "labcore": lambda z=z, y=y, g=guidance: invert(ours, z, y, g),
                        "forward": lambda x=x, y=y: ours(x, y),
                    },
                    repeats,
                )
            rows.append(_row(f"inverse, batch {b}, guidance {guidance:g}", t))
    return rows


def step_speed(theirs, ours: TarFlow, batch: int = 256, repeats: int = 5) -> list[dict]:
    """Measure the seconds of one forward and backward pass on both sides, in float32 and with bfloat16 autocast, in turn."""
    x, y = torch.rand(batch, 1, 28, 28) * 2 - 1, torch.arange(batch) % 10
    noise, objective = StepNoise(0, 0, batch, "cpu"), Likelihood(label_dropout=0.0)

    def their_step(enabled: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            z, _, log_det = theirs(x + 0.1 * torch.randn_like(x), y)
            loss = theirs.get_loss(z, log_det)
        loss.backward()
        theirs.zero_grad(set_to_none=True)

    def our_step(enabled: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, _ = objective(ours, Batch(x, y, y, y < 0), noise)
        loss.backward()
        ours.zero_grad(set_to_none=True)

    t = alternate(
        {
            "ml-tarflow float32": lambda: their_step(False),
            "labcore float32": lambda: our_step(False),
            "ml-tarflow bfloat16": lambda: their_step(True),
            "labcore bfloat16": lambda: our_step(True),
        },
        repeats,
    )
    rows = []
    for ours_in, theirs_in in (("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")):
        pair = {"ml-tarflow": t[f"ml-tarflow {theirs_in}"], "labcore": t[f"labcore {ours_in}"]}
        rows.append(_row(f"training step, batch {batch}, {ours_in} against {theirs_in}", pair))
    return rows


def _row(case: str, t) -> dict:
    row = {"case": case, "speed_up": round(t["ml-tarflow"].seconds / t["labcore"].seconds, 2)}
    for name, timing in t.items():
        row[f"{name} s"], row[f"{name} spread"] = round(timing.seconds, 4), round(timing.spread, 2)
    if "forward" in t:
        row["labcore / floor"] = round(t["labcore"].seconds / t["forward"].seconds, 1)
    return row


def compare(theirs, ours: TarFlow, repeats: int) -> dict:
    """Return the differences of results, and the timings."""
    differences = equal_results(theirs, ours)
    return {
        "differences": differences,
        "timings": inverse_speed(theirs, ours, repeats=repeats) + step_speed(theirs, ours, repeats=repeats),
    }


def show(result: dict) -> None:
    """Print the result of `compare`."""
    for name, value in result["differences"].items():
        print(f"{name:40s} differs by {value:.1e} of the largest value")
    for row in result["timings"]:
        print(f"{row['case']:55s} " + "  ".join(f"{k} {v}" for k, v in row.items() if k != "case"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="folder of a clone of apple/ml-tarflow")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch; default 2")
    parser.add_argument("--repeats", type=int, default=5, help="number of timed repeats; default 5")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    theirs = perturbed(load_reference(args.reference))
    ours = TarFlow.from_apple(theirs.state_dict(), image_size=28, patch_size=4)
    result = compare(theirs, ours, args.repeats)
    show(result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        record = {"threads": args.threads, **provenance.stamp(), **result}
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if max(result["differences"].values()) <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
