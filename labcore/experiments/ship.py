"""From a finished run to a model that ships: `python -m labcore.experiments.ship RUN NAME`.

Stores the averaged weights as float16, loads them again, measures what was stored, and writes the card, the sample grid and
the run's spec beside them. Every number on a card comes from this script. A run of a flow and one of a learned inverse are
measured alike where both can be: by their images.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from labcore import provenance
from labcore.biflow.model import BackwardModel
from labcore.config import BaseRunConfig, with_present_names
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.data.transforms import to_float
from labcore.evaluate import bayes_accuracy, likelihood, training_free_accuracy
from labcore.evaluate.classifier import recognised
from labcore.evaluate.generate import Sampling
from labcore.evaluate.session import EvaluationRequest, evaluate_model
from labcore.experiments import ways
from labcore.flows.tarflow import TarFlow
from labcore.inverse.sample import Sampler, sample
from labcore.inverse.solve import invert
from labcore.jsonfile import write_json
from labcore.kinds import kind_of, kind_of_sections
from labcore.runs.models import find_model, find_sampler
from labcore.train import checkpoint
from labcore.train.log import read_log
from labcore.viz.class_labels import by_class
from labcore.viz.sheet import save_grid
from labcore.yamlfile import dump_yaml, read_yaml
from labcore.zoo import FOLDER, NAMES, cards, load_classifier, path

GUIDANCE = 1.0
"""Of the sample grid and of FID; our choice."""
SCALES = (0.0, 1.0, 2.0)
"""Guidance at which samples are recognised, as far as the model takes it; our choice."""
JUDGED = 1000
"""Samples that are recognised at each of them, and test images that a learned inverse brings back; our choice."""
COMPARED = 2000
"""Samples of FID and the like; our choice."""
METRICS = tuple(f"{name}_efflite0" for name in ("fid", "sfid", "kid", "is", "precision", "recall"))
NOT_RECORDED = ("files", "sha256", "run", "step")
"""What a checkpoint says of itself and not of what made it."""


def publish(run: Path, name: str) -> Path:
    """Write the folder of the shipped model `name`, one of `labcore.zoo.NAMES`, from the finished run in `run`; returns it.

    Raises ValueError for what the cards have no words for.
    """
    folder, values = path(name), read_yaml(run / "config.yaml")
    config = kind_of_sections(with_present_names(values)).config(**values)
    _check(run, config)
    find_sampler(run / "model").save_pretrained(folder, dtype=torch.float16)
    (folder / "spec.yaml").write_text(spec(name, config))
    model = find_sampler(folder)
    classes = model.config.num_classes
    y = torch.arange(8 * classes) % classes
    images = sample(model, len(y), y, guidance=GUIDANCE, seed=0)
    save_grid(images.cpu(), classes, folder / "samples.png", 3, **by_class(y, classes, model.config.class_names))
    record = measure(model, config) | training_record(model, run)
    write_json(folder / "record.json", record)
    evaluation = evaluated(model, name, folder / "evaluation.json")
    (folder / "README.md").write_text(cards.card(name, model, config, record, evaluation))
    return folder


def _check(run: Path, config: BaseRunConfig) -> None:
    """ValueError for a run that is not finished, other data than Fashion-MNIST, and a learned inverse that is not guided."""
    log, model = read_log(run), config.model
    if not log:
        raise ValueError(f"{run / 'log.jsonl'} has no records of the training; restore it from a copy, or train anew")
    steps = log[-1]["step"]
    if steps < config.train.steps:
        raise ValueError(f"{run} has done {steps} of {config.train.steps} steps; finish it first")
    if not config.data.name.startswith("fashion-mnist") or model.num_classes != 10:
        raise ValueError(
            f"{config.data.name} with {model.num_classes} classes; what ships knows Fashion-MNIST's 10 classes"
        )
    if model.codec is not None:
        raise ValueError(f"the model is one of latents of {model.codec}; what ships knows pixels")
    kind_of(config).check_shipped(model, GUIDANCE)


def measure(model: Sampler, config: BaseRunConfig) -> dict[str, Any]:
    """Numbers of the stored weights on the whole test split, and how many of its samples are recognised."""
    test = Data.of(config.data).split("test")
    own = of_flow(model, test) if isinstance(model, TarFlow) else of_inverse(model, find_model(config.teacher), test)
    most = getattr(model.config, "max_guidance", max(SCALES))
    judged = {f"{g:g}": recognition(model, g) for g in SCALES if g <= most}
    return {**own, "recognised": judged, "measured_with": provenance.stamp()}


def of_flow(flow: TarFlow, test: Dataset) -> dict[str, Any]:
    """Likelihood, both ways to classify, and the largest error of a round trip."""
    x, y = to_float(test.images[:64]), test.labels[:64]
    with torch.no_grad():
        error = float((invert(flow, flow(x, y).z, y).x - x).abs().max())
    return {
        "likelihood": likelihood(flow, test)._asdict(),
        "bayes_accuracy": bayes_accuracy(flow, test)._asdict(),
        "training_free_accuracy": training_free_accuracy(flow, test)._asdict(),
        "round_trip_error": error,
    }


def of_inverse(model: BackwardModel, flow: TarFlow, test: Dataset) -> dict[str, Any]:
    """What comes back of encoded test images, in one pass and by the exact inverse."""
    both = {"learned": ways.learned(model), "exact": ways.exact(flow)}
    found = {name: ways.inversion_errors(way, flow, test, JUDGED, seed=0) for name, way in both.items()}
    return {"flow": provenance.weights_hash(flow), "brought_back": {"n": JUDGED, **found}}


def recognition(model: Sampler, guidance: float) -> dict[str, Any]:
    """Share of samples that the classifier takes for what was asked, in all and by class, with 95% intervals."""
    judge, y = load_classifier(), torch.arange(JUDGED) % model.config.num_classes
    x = sample(model, JUDGED, y, guidance=guidance, seed=0)
    by_class = [recognised(judge, x[y == k], y[y == k]).accuracy for k in range(model.config.num_classes)]
    return {**recognised(judge, x, y)._asdict(), "by_class": by_class}


def evaluated(model: Sampler, name: str, out: Path) -> dict[str, Any]:
    """FID and the like against the embedded training images, into `out`, as `lab evaluate` does."""
    sampling = Sampling(num=COMPARED, guidance=GUIDANCE, seed=0)
    request = EvaluationRequest(METRICS, sampling, about={"model": name})
    return evaluate_model(model, Data("fashion-mnist-12k"), request, out)


def training_record(model: Sampler, run: Path) -> dict[str, Any]:
    """How the run went, and how large the model is."""
    log = read_log(run)
    steps = [0, *(r["step"] for r in log)]
    seconds = sum(r.get("seconds_per_step", 0) * (b - a) for r, (a, b) in zip(log, pairwise(steps), strict=True))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": log[-1]["step"],
        "last_train_loss": log[-1]["loss"],
        "training_seconds": round(seconds),
        "trained_with": {k: v for k, v in checkpoint.latest(run).state.items() if k not in NOT_RECORDED},
    }


def spec(name: str, config: BaseRunConfig) -> str:
    """The run's configuration as YAML, with the command that runs it."""
    if config.teacher not in (None, *NAMES):
        raise ValueError(
            f"the learned inverse is one of {config.teacher}, a path of this machine; train that of a shipped flow: "
            f"{', '.join(NAMES)}"
        )
    config = config.replace(
        data=config.data.replace(path=None).model_dump()
    )  # where the pictures lie is this machine's
    invert = "" if config.teacher is None else f" --invert {config.teacher}"
    file = f"{(FOLDER / name).relative_to(FOLDER.parent.parent)}/spec.yaml"
    command = f"lab train{invert} --config {file} --out runs/{name}"
    return f"# The run that made this model:  {command}\n" + dump_yaml(config.model_dump(mode="json"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    print(publish(**vars(parser.parse_args())))
