"""Cost of measuring: classification in one pass against Bayes' rule with K passes, and fidelity with the embedded extractor.

Targets: one pass for all K classes costs at most 4 forward passes, and its speed-up over Bayes' rule is at least K/5; 2,000
samples are scored on two cores in at most 3 minutes; memory does not grow with the number of images.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from labcore import TarFlow, TarFlowConfig, zoo
from labcore.data import load
from labcore.data.transforms import to_float
from labcore.evaluate import bayes_scores, class_scores, fidelity
from labcore.evaluate.extractors import load_extractor
from labcore.evaluate.generate import Sampling, generate
from labcore.evaluate.statistics import load_reference, make_reference, save_reference
from labcore.timing import alternate


def classification(repeats: int) -> dict:
    """Measure the seconds of one forward pass, training-free scores and Bayes scores, for K = 10 (shipped model) and 1000."""
    shipped = zoo.load("fashion-tarflow")
    torch.manual_seed(0)
    many = TarFlow(TarFlowConfig(**{**shipped.config.model_dump(), "num_classes": 1000})).eval()
    with torch.no_grad():
        for p in many.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
    rows = []
    for flow, batch in ((shipped, 50), (many, 10)):
        k, x = flow.config.num_classes, to_float(load("fashion-mnist-12k", "test").images[:batch])
        ways = {
            "forward": torch.no_grad()(lambda flow=flow, x=x: flow(x)),
            "training-free": lambda flow=flow, x=x: class_scores(flow, x),
        }
        quick = alternate(ways, 3 * repeats)
        slow = alternate({"Bayes": lambda flow=flow, x=x: bayes_scores(flow, x)}, repeats if k < 100 else 2, warmup=0)
        seconds = {name: timing.seconds for name, timing in {**quick, **slow}.items()}
        rows.append(
            {
                "classes": k,
                "batch": batch,
                "seconds": {name: round(value, 4) for name, value in seconds.items()},
                "spread": {name: round(timing.spread, 2) for name, timing in {**quick, **slow}.items()},
                "training-free / forward": round(seconds["training-free"] / seconds["forward"], 2),
                "allowed": 4,
                "Bayes / training-free": round(seconds["Bayes"] / seconds["training-free"], 1),
                "wanted": k / 5,
            }
        )
        print("classify   ", rows[-1], flush=True)
    return {"classification": rows}


def scoring(threads: int) -> dict:
    """Measure the seconds and peak memory of scoring samples of the shipped model, in a new process for each case."""
    with tempfile.TemporaryDirectory() as folder:
        env = dict(os.environ, LABCORE_CACHE=folder, OMP_NUM_THREADS=str(threads))
        reference = Path(folder) / "reference.safetensors"
        words = [sys.executable, "-m", "benchmarks.measures", str(reference)]
        rows = []
        for n, metrics in (
            (2000, "fid,sfid,kid,is,precision,recall"),
            (500, "kid"),
            (1000, "kid"),
            (2000, "kid"),
            (4000, "kid"),
        ):
            done = subprocess.run([*words, str(n), metrics], env=env, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print("fidelity   ", rows[-1], flush=True)
    return {"fidelity": rows, "allowed seconds for 2,000": 180}


def child(reference: Path, n: int, metrics: str) -> dict:
    """Score n images, and return the row. Time counts the features, which are not cached, but not the drawing of samples."""
    extractor = load_extractor("efflite0")
    if not reference.exists():
        save_reference(make_reference(load("fashion-mnist-12k", "test"), extractor), reference)
    images = generate(zoo.load("fashion-tarflow"), Sampling(num=n, guidance=1.0))
    known = load_reference(reference)
    with tempfile.TemporaryDirectory() as fresh:
        before, start = peak_mb(), time.perf_counter()
        fidelity.fidelity(images, known, extractor, metrics.split(","), root=Path(fresh))
        seconds = time.perf_counter() - start
    return {"n": n, "metrics": metrics, "seconds": round(seconds, 1), "peak MB": peak_mb(), "before, MB": before}


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    print(json.dumps(child(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
