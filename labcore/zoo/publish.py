"""From a finished run to a model that ships: `python -m labcore.zoo.publish RUN NAME`.

Stores the averaged weights as float16, loads them again, measures what was stored, and writes the card, the sample grid and
the run's spec beside them. Every number on a card comes from this script.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml

from labcore import provenance
from labcore.config import RunConfig
from labcore.data import load
from labcore.data.transforms import save_png, tile, to_float
from labcore.evaluate import bayes_accuracy, likelihood
from labcore.flows.tarflow import TarFlow
from labcore.inverse.sample import sample
from labcore.inverse.solve import invert
from labcore.train import checkpoint
from labcore.train.log import read_log
from labcore.zoo import FOLDER, path

GUIDANCE = 1.0
"""Of the sample grid; our choice."""


def publish(run: Path, name: str) -> Path:
    """Write the folder of the shipped model `name` from the finished run in `run`; returns it."""
    folder, config = path(name), RunConfig(**yaml.safe_load((run / "config.yaml").read_text()))
    TarFlow.from_pretrained(run / "model").save_pretrained(folder, dtype=torch.float16)
    flow = TarFlow.from_pretrained(folder)
    record = measure(flow, config, run)
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "spec.yaml").write_text(spec(name, config))
    classes = flow.config.num_classes
    images = sample(flow, 8 * classes, torch.arange(8 * classes) % classes, guidance=GUIDANCE, seed=0)
    save_png(tile(images, columns=classes), folder / "samples.png", scale=3)
    (folder / "README.md").write_text(card(name, flow, config, record))
    return folder


def measure(flow: TarFlow, config: RunConfig, run: Path) -> dict[str, Any]:
    """Numbers of the stored weights on the whole test split, and how the run that made them went."""
    test = load(config.data.name, "test", config.data.path, config.data.image_size, config.data.channels)
    x, y = to_float(test.images[:64]), test.labels[:64]
    with torch.no_grad():
        error = float((invert(flow, flow(x, y).z, y).x - x).abs().max())
    log = read_log(run)
    steps = [0, *(r["step"] for r in log)]
    seconds = sum(r.get("seconds_per_step", 0) * (b - a) for r, (a, b) in zip(log, pairwise(steps), strict=True))
    return {
        "likelihood": likelihood(flow, test)._asdict(),
        "bayes_accuracy": bayes_accuracy(flow, test)._asdict(),
        "round_trip_error": error,
        "parameters": sum(p.numel() for p in flow.parameters()),
        "steps": log[-1]["step"],
        "last_train_nats_per_dim": log[-1]["nats_per_dim"],
        "training_seconds": round(seconds),
        "trained_with": {k: v for k, v in checkpoint.latest(run).state.items() if k not in ("files", "run", "step")},
        "measured_with": provenance.stamp(),
    }


def spec(name: str, config: RunConfig) -> str:
    """The run's configuration as YAML, with the command that runs it."""
    command = f"lab train --config {(FOLDER / name).relative_to(FOLDER.parent.parent)}/spec.yaml --out runs/{name}"
    return f"# The run that made this model:  {command}\n" + yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False
    )


def card(name: str, flow: TarFlow, config: RunConfig, record: dict[str, Any]) -> str:
    """The model's card: what it is, how it was made, what it can do, with the numbers of `record`."""
    c, n, a, t = flow.config, record["likelihood"], record["bayes_accuracy"], record["trained_with"]
    spread = n["standard_error"] / c.dims
    return f"""# {name}

A TARFlow of {record["parameters"]:,} parameters for {c.image_size}x{c.image_size} images of clothes in {c.num_classes} classes:
{c.num_blocks} blocks of {c.layers_per_block} layers, width {c.width}, patches of {c.patch_size} pixels ({c.tokens} tokens).
`labcore.zoo.load("{name}")` loads it; weights are stored as float16.

![Samples, one class a column](samples.png)

*Samples of seed 0, one class a column, guidance {GUIDANCE:g}, denoised.*

| on the {n["n"]:,} test images of {n["made_with"]["data"]} | |
|---|---|
| negative log-likelihood, with labels | {n["nats_per_dim"]:.4f} +- {spread:.4f} nats/dim ({n["density"]}) |
| Bayes classification, clean images | {a["accuracy"]:.1%} (95%: {a["low"]:.1%} to {a["high"]:.1%}) |
| round trip invert(flow(x)), largest error in float32, 64 images | {record["round_trip_error"]:.1e} |

**Made by** `lab train --config labcore/zoo/{name}/spec.yaml --out runs/{name}`, then
`python -m labcore.zoo.publish runs/{name} {name}`: {record["steps"]:,} steps of {config.train.batch_size} images of
{config.data.name}, seed {config.train.seed}, {config.train.precision}, {record["training_seconds"] / 60:.0f} minutes on
{t["device"]} (shared with other work), torch {t["torch"]}, revision {t["revision"]}.
Averaged weights (EMA {config.train.ema_decay:g}). `record.json` holds the numbers in full.

**Data and licence.** Trained on Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747), MIT licence,
Copyright 2017 Zalando SE.

**Limits.** Small on purpose: it is for tests, notebooks and teaching. It knows 28x28 grey pictures of clothes in [-1, 1] with
noise of sigma {c.noise_std:g}, and nothing else; values far outside that range overflow. Sandals and bags come out worst.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    print(publish(**vars(parser.parse_args())))
