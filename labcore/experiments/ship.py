"""Publication of a finished run as a model of the package: `python -m labcore.experiments.ship RUN NAME`.

The script stores the averaged weights as float16, loads them again, measures the loaded model, and writes the card, the sample
grid and the run's spec next to the weights. Every number on a card comes from this script. Images of flows and of students are
measured in the same way.
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
from labcore.data.sources import SOURCES
from labcore.data.transforms import to_float
from labcore.evaluate import bayes_accuracy, likelihood, training_free_accuracy
from labcore.evaluate.accuracy import guessing
from labcore.evaluate.classifier import recognised
from labcore.evaluate.generate import Sampling
from labcore.evaluate.session import EvaluationRequest, evaluate_model
from labcore.experiments import ways
from labcore.experiments.judges import CLASSIFIER, judges_for
from labcore.flows.tarflow import TarFlow
from labcore.inverse.sample import Sampler, sample
from labcore.inverse.solve import invert
from labcore.jsonfile import write_json
from labcore.kinds import kind_of, kind_of_sections
from labcore.runs.models import find_model, find_sampler
from labcore.runs.own_data import as_shipped
from labcore.train import checkpoint
from labcore.train.log import read_log
from labcore.viz.class_labels import by_class
from labcore.viz.sheet import save_grid
from labcore.yamlfile import dump_yaml, read_yaml
from labcore.zoo import FOLDER, NAMES, PLANNED_FLOWS, PLANNED_INVERSES, cards, load_classifier

GUIDANCE = 1.0
"""Guidance of the sample grid and of the samples for FID; our choice."""
SCALES = (0.0, 1.0, 2.0)
"""Guidance of the samples that the classifier judges, up to the model's largest guidance; our choice."""
JUDGED = 1000
"""Number of samples that are judged at each guidance, and of test images that a student reconstructs; our choice."""
COMPARED = 2000
"""Number of samples for FID and the other metrics of images; our choice."""
METRICS = tuple(f"{name}_efflite0" for name in ("fid", "sfid", "kid", "is", "precision", "recall"))
NOT_RECORDED = ("files", "sha256", "run", "step")
"""Entries of a checkpoint's state that describe the checkpoint and not the training."""


def publish(run: Path, name: str) -> Path:
    """Write the folder of the shipped model `name`, planned in `labcore.zoo`, from the finished run in `run`; return it.

    Raises ValueError, before anything is written, for a run that the cards cannot describe: an unfinished run, data that
    are not in `labcore.data.sources`, a model of latents, a student without a denoising block or guidance, or a name that is
    planned for another model.
    """
    values = read_yaml(run / "config.yaml")
    config = kind_of_sections(with_present_names(values)).config(**values)
    _check(run, name, config)
    folder, text = FOLDER / name, spec(name, config)
    find_sampler(run / "model").save_pretrained(folder, dtype=torch.float16)
    (folder / "spec.yaml").write_text(text)
    model = find_sampler(folder)
    classes = model.config.num_classes
    y = torch.arange(8 * classes) % classes
    images = sample(model, len(y), y, guidance=GUIDANCE, seed=0)
    save_grid(images.cpu(), classes, folder / "samples.png", 3, **by_class(y, classes, model.config.class_names))
    record = measure(model, config) | training_record(model, run)
    write_json(folder / "record.json", record)
    evaluation = evaluated(model, config, name, folder / "evaluation.json")
    (folder / "README.md").write_text(cards.card(name, model, config, record, evaluation))  # last: now it ships
    return folder


def _check(run: Path, name: str, config: BaseRunConfig) -> None:
    """Raise the errors of `publish`."""
    planned = {**dict.fromkeys(PLANNED_FLOWS), **PLANNED_INVERSES}
    if name not in planned or planned[name] != config.teacher:
        of = "a flow" if config.teacher is None else f"a student of {config.teacher}"
        allowed = [each if flow is None else f"{each} (a student of {flow})" for each, flow in planned.items()]
        raise ValueError(f"name was {name!r} for {of}; labcore.zoo plans {', '.join(allowed)}")
    log, model = read_log(run), config.model
    if not log:
        raise ValueError(f"{run / 'log.jsonl'} has no records of the training; restore it from a copy, or train again")
    steps = log[-1]["step"]
    if steps < config.train.steps:
        raise ValueError(f"{run} has done {steps} of {config.train.steps} steps; finish it first")
    source = SOURCES.get(config.data.name)
    if source is None or model.num_classes != len(source.classes):
        raise ValueError(
            f"data are {config.data.name} with {model.num_classes} classes; only models of all classes of "
            f"{', '.join(SOURCES)} can ship"
        )
    if model.codec is not None:
        raise ValueError(f"the model generates latents of {model.codec}; only models of pixels can ship")
    kind_of(config).check_shipped(model, GUIDANCE)


def measure(model: Sampler, config: BaseRunConfig) -> dict[str, Any]:
    """Measure the stored weights on the whole test split, and the share of recognised samples if a classifier fits."""
    data = Data.of(config.data)
    test = data.split("test")
    found = of_flow(model, test) if isinstance(model, TarFlow) else of_inverse(model, find_model(config.teacher), test)
    if CLASSIFIER in judges_for(data):
        most = getattr(model.config, "max_guidance", max(SCALES))
        found["recognised"] = {f"{g:g}": recognition(model, g) for g in SCALES if g <= most}
    return {**found, "measured_with": provenance.stamp()}


def of_flow(flow: TarFlow, test: Dataset) -> dict[str, Any]:
    """Measure the likelihood, both accuracies, the share of the largest class, and the largest error of a round trip."""
    pixels, y = test.__getitems__(range(min(64, len(test))))
    x = to_float(pixels)
    with torch.no_grad():
        error = float((invert(flow, flow(x, y).z, y).x - x).abs().max())
    return {
        "likelihood": likelihood(flow, test)._asdict(),
        "bayes_accuracy": bayes_accuracy(flow, test)._asdict(),
        "training_free_accuracy": training_free_accuracy(flow, test)._asdict(),
        "largest_class": guessing(test).accuracy,
        "round_trip_error": error,
    }


def of_inverse(model: BackwardModel, flow: TarFlow, test: Dataset) -> dict[str, Any]:
    """Measure how well encoded test images are reconstructed, in one pass and by the exact inverse."""
    n, both = min(JUDGED, len(test)), {"learned": ways.learned(model), "exact": ways.exact(flow)}
    found = {name: ways.inversion_errors(way, flow, test, n, seed=0) for name, way in both.items()}
    return {"flow": provenance.weights_hash(flow), "brought_back": {"n": n, **found}}


def recognition(model: Sampler, guidance: float) -> dict[str, Any]:
    """Return the share of samples that are recognised as the requested class, overall and by class, with 95% intervals."""
    judge, y = load_classifier(), torch.arange(JUDGED) % model.config.num_classes
    x = sample(model, JUDGED, y, guidance=guidance, seed=0)
    by_class = [recognised(judge, x[y == k], y[y == k]).accuracy for k in range(model.config.num_classes)]
    return {**recognised(judge, x, y)._asdict(), "by_class": by_class}


def evaluated(model: Sampler, config: BaseRunConfig, name: str, out: Path) -> dict[str, Any]:
    """Compute FID and the other metrics against training images that ship; write them to `out` as `lab evaluate` does."""
    sampling = Sampling(num=COMPARED, classes="data", guidance=GUIDANCE, seed=0)
    request = EvaluationRequest(METRICS, sampling, about={"model": name})
    return evaluate_model(model, as_shipped(config.data, model.config), request, out)


def training_record(model: Sampler, run: Path) -> dict[str, Any]:
    """Return steps, time and last loss of the training, and the number of parameters."""
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
    """Return the run's configuration as YAML, with the command that repeats the run."""
    if config.teacher not in (None, *NAMES):
        raise ValueError(
            f"the student's flow is {config.teacher}, a path of this machine; train a student of a shipped flow: "
            f"{', '.join(NAMES)}"
        )
    config = config.replace(
        data=config.data.replace(path=None).model_dump()
    )  # the path of the pictures belongs to this machine
    invert = "" if config.teacher is None else f" --invert {config.teacher}"
    file = f"labcore/zoo/{name}/spec.yaml"
    command = f"lab train{invert} --config {file} --out runs/{name}"
    return f"# The run that made this model:  {command}\n" + dump_yaml(config.model_dump(mode="json"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    print(publish(**vars(parser.parse_args())))
