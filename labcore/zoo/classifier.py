"""The classifier that ships: `python -m labcore.zoo.classifier RUN` trains it, measures it, and writes its card.

It was trained on the whole Fashion-MNIST training set, and not on features of any flow or encoder. It judges whether samples
and edited images are of their class.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch

from labcore import provenance
from labcore.config import TrainConfig
from labcore.data import load
from labcore.data.transforms import to_float, to_model_input
from labcore.evaluate.classifier import recognised
from labcore.nn.classifier import Classifier, ClassifierConfig
from labcore.rng import seed_of
from labcore.train.classification import CrossEntropy, coarse
from labcore.train.loop import train
from labcore.zoo import CLASSIFIER, path

MODEL = ClassifierConfig()
TRAINING = TrainConfig(
    steps=4500,
    batch_size=128,
    lr=4e-3,
    warmup_steps=200,
    weight_decay=1e-2,
    ema_decay=0.998,
    precision="fp32",
    eval_every=4500,
    save_every=500,
)
"""Training steps, nearly ten passes over 60,000 images; our choice."""


def make(run: Path, data: str = "fashion-mnist") -> Path:
    """Train in `run`, or resume the training there; then store the averaged weights as float16 with their card."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(TRAINING.seed, "initialisation"))
        model = Classifier(MODEL)
    found = train(
        model,
        CrossEntropy(),
        load(data, "train"),
        TRAINING,
        run,
        partial(to_model_input, mirror=True),
        describe={"data": data},
    )
    if not found.finished:
        raise SystemExit(143)
    folder = path(CLASSIFIER)
    found.ema.save_pretrained(folder, dtype=torch.float16)
    record = measure(Classifier.from_pretrained(folder), data) | {"training": TRAINING.model_dump(mode="json")}
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "README.md").write_text(card(record))
    return folder


def measure(classifier: Classifier, data: str) -> dict:
    """Measure the accuracy of the stored weights on the test split: at full size, and reduced to 16 pixels."""
    test = load(data, "test")
    x = to_float(test.images)
    every = [recognised(classifier, x[test.labels == k], test.labels[test.labels == k]) for k in range(10)]
    return {
        "data": f"{data}/test",
        "accuracy": recognised(classifier, x, test.labels)._asdict(),
        "at_16_pixels": recognised(classifier, coarse(x), test.labels)._asdict(),
        "by_class": [one.accuracy for one in every],
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "weights": provenance.weights_hash(classifier),
        "measured_with": provenance.stamp(),
    }


def card(record: dict) -> str:
    """Return the classifier's card, with the numbers of `record`."""
    whole, small, t = record["accuracy"], record["at_16_pixels"], record["training"]
    classes = ", ".join(f"{share:.0%}" for share in record["by_class"])
    return f"""# {CLASSIFIER}

A convolutional classifier of {record["parameters"]:,} parameters for 28x28 pictures of clothes; smaller ones are enlarged. It
shares no weights with any flow or encoder of the lab, so it can judge their samples. `labcore.zoo.load_classifier()` loads it.

| on the {whole["n"]:,} test images of {record["data"]} | accuracy (95%) |
|---|---|
| at full size | {whole["accuracy"]:.1%} ({whole["low"]:.1%} to {whole["high"]:.1%}) |
| reduced to 16x16 and enlarged | {small["accuracy"]:.1%} ({small["low"]:.1%} to {small["high"]:.1%}) |

By class, 0 to 9: {classes}.

**Made by** `python -m labcore.zoo.classifier runs/{CLASSIFIER}`: {t["steps"]:,} steps of {t["batch_size"]} images of
the 60,000 of Fashion-MNIST, shifted, mirrored, half of them coarsened; seed {t["seed"]}. Weights are averaged
and stored as float16.

**Data and licence.** Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747), MIT licence, Copyright 2017 Zalando SE.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    print(make(parser.parse_args().run))
