"""Arms of an alignment experiment: their configurations, their measures during training, and the paper's numbers."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labcore.align.reach import SweepGap
from labcore.config import RunConfig
from labcore.data.batch import spread_images
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.encoders.specs import spec
from labcore.encoders.weights import check_encoder_weights
from labcore.evaluate import bayes_accuracy, hidden_features, likelihood, training_free_accuracy
from labcore.evaluate.cknna import cknna
from labcore.evaluate.generate import Sampling, generate
from labcore.evaluate.probe import probe_sites
from labcore.evaluate.values import metric_values
from labcore.experiments.along import steps_to_reach, with_weights_of_each
from labcore.experiments.drawn import keep
from labcore.experiments.judges import judges_for, measures_of, taught
from labcore.flows.tarflow import TarFlow
from labcore.inverse.sample import sample
from labcore.kinds import FLOW
from labcore.kinds.flow import default_sites
from labcore.presets import flowback
from labcore.rng import StepNoise
from labcore.runs.configure import at_length, configure
from labcore.runs.images import datasets
from labcore.runs.train import initialised
from labcore.sites import Site
from labcore.spread import check_limit, spread
from labcore.train.conflict import BlockConflict, conflict, loss_gaps
from labcore.train.objectives import noised
from labcore.types import Batch

GUIDANCE = 1.0
"""Guidance of the samples that are scored; our choice."""

BAYES_IMAGES = 500
"""Number of test images for the Bayes accuracy, which takes one pass per class; our choice."""


CONTROLS = {"random": "random-lite0", "classifier": "fashion-classifier"}
"""Encoders that serve as controls: ending of an arm's name -> encoder."""


def base(preset: str, steps: int, batch_size: int, save_every: int, seed: int, precision: str = "fp32") -> RunConfig:
    """Return the baseline's configuration: a preset without alignment, with this number of steps. Raises as `at_length`."""
    return at_length(configure(preset, align="off"), steps, batch_size, save_every, seed, precision)


def arm(base: RunConfig, name: str, sites: list[Site] | None, weight: float, loss: str, encoder: str) -> RunConfig:
    """Return the configuration of an arm: `base` with an alignment.

    Args:
        base: configuration of the baseline.
        name: "baseline", a direction, or "reverse-N" with N adjoint sweeps. Two endings select a control as teacher instead
            of `encoder`: "-to-random" (random weights) and "-to-classifier" (the shipped classifier, trained on the data
            alone), as in "reverse-8-to-classifier".
        sites: (block, layer) pairs; None for `default_sites`.
        weight: weight of the alignment relative to nats/dim.
        loss: name of the loss.
        encoder: name of the encoder.

    Encoder tokens are stored on disk if training sees every image.

    Raises:
        ValueError: the name is unknown, or the sites or encoder do not fit; also for the baseline, whose sites are measured.
        FileNotFoundError: the encoder's weights are missing.
    """
    plain, _, control = name.partition("-to-")
    known = re.fullmatch(r"(baseline|forward|detach|reverse-literal|reverse)(?:(?<=reverse)-([1-9][0-9]*))?", plain)
    if known is None or (name != plain and (control not in CONTROLS or plain == "baseline")):
        raise ValueError(
            f"arm was {name!r}; allowed are baseline, forward, detach, reverse, reverse-literal, and reverse-N with N sweeps; "
            f"all except baseline may end in {' or '.join(f'-to-{each}' for each in CONTROLS)}"
        )
    encoder = CONTROLS.get(control, encoder)
    check_encoder_weights(spec(encoder))
    direction = "reverse" if name == "baseline" else known[1]
    align = dict(direction=direction, adjoint_sweeps=int(known[2] or 0), weight=weight, loss=loss, encoder=encoder)
    align["sites"] = default_sites(direction, base.model) if sites is None else sites
    seen = base.train.steps * base.train.batch_size
    align["targets"] = "cached" if seen >= len(datasets(base)[0]) else "computed"
    aligned = RunConfig(**{**base.model_dump(), "align": align})
    return base if name == "baseline" else aligned


def describe(config: RunConfig) -> str:
    """Describe an arm in words."""
    a = config.align
    if a is None:
        return "likelihood alone"
    swept = f", {a.adjoint_sweeps} adjoint sweeps" if a.adjoint_sweeps else ""
    return f"{a.direction}{swept}, sites {', '.join(map(str, a.sites))}, weight {a.weight:g}, {a.loss}, {a.encoder}"


def noisy(flow: TarFlow, data: Dataset, num: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Images of a data set as the flow sees them in training, and their labels, on the flow's device."""
    batch = spread_images(data, num, flow.config.num_classes > 0, flow.device)
    return noised(flow, batch.x, StepNoise(seed, 0, len(batch.x), flow.device)), batch.y


class Looks:
    """Measures of every checkpoint: on `limit` test images, evenly spread, and on `samples` drawn images.

    judges: judges of the drawn images (`labcore.experiments.judges`); None: all that can judge such images.
    """

    def __init__(
        self,
        config: RunConfig,
        test: Dataset,
        limit: int,
        encoder_features: Tensor,
        sites: list[Site],
        samples: int = 0,
        judges: Sequence[str] | None = None,
    ):
        self.config, self.samples = config, samples
        self.judges = judges_for(Data.of(config.data)) if judges is None else tuple(judges)
        self.metrics = measures_of(self.judges, samples, config.model.num_classes)
        self.test, self.limit, self.features, self.sites = test, limit, encoder_features, [tuple(s) for s in sites]
        self.key = {
            "samples": samples,
            "metrics": self.metrics,
            "guidance": GUIDANCE,
            "seed": config.train.seed,
            "test": test.fingerprint(),
            "limit": limit,
            "bayes_images": BAYES_IMAGES,
            "cknna_images": len(encoder_features),
            "sites": str(sites),
        }

    def measure(self, flow: TarFlow, keep_in: Path | None = None, config: RunConfig | None = None) -> dict[str, float]:
        """Return the likelihood with labels, both accuracies, CKNNA at each site (`cknna`: the last site's), and `fidelity`.

        keep_in, config: the run's folder, where the samples are kept (`labcore.experiments.drawn`), and the arm's
        configuration, which names the networks that took part in its training; give both or none.
        """
        if (keep_in is None) != (config is None):
            raise ValueError("keep_in and config belong together; give the run's folder and the arm's configuration")
        found = {
            "nats_per_dim": likelihood(flow, self.test, limit=self.limit).nats_per_dim,
            "training_free": training_free_accuracy(flow, self.test, self.limit).accuracy,
            "bayes": bayes_accuracy(flow, self.test, min(self.limit, BAYES_IMAGES)).accuracy,
        }
        with tempfile.TemporaryDirectory() as folder:
            hidden = hidden_features(flow, self.test, self.sites, Path(folder), len(self.features))
            near = {site: cknna(hidden[site].float(), self.features.float()) for site in self.sites}
        found |= {f"cknna_{b}_{layer}": v for (b, layer), v in near.items()}
        found["cknna"] = near[self.sites[-1]]
        arm, seed = config or self.config, self.config.train.seed
        drawn = fidelity(flow, arm, self.metrics, self.samples, seed, keep_in) if self.metrics else {}
        return {**found, **drawn}


def best_probe(
    flow: TarFlow, images: Dataset, test: Dataset, train_images: int, test_images: int, seed: int
) -> dict[str, float | int]:
    """Return the best linear probe over all sites, which FlowBack compares with the training-free accuracy.

    accuracy: accuracy on the test images; optimistic, because the site is chosen on them too. block, layer: the site. Raises
    as `probe_sites`.
    """
    for limit in (train_images, test_images):
        check_limit(limit)
    train, held_out = spread(images, train_images), spread(test, test_images)
    with tempfile.TemporaryDirectory() as folder:
        top = probe_sites(flow, train, held_out, seed=seed, root=Path(folder)).top
    return {"accuracy": top.accuracy.accuracy, "block": top.block, "layer": top.layer}


HIGHER = {
    **{"nats_per_dim": False, "training_free": True, "bayes": True, "fid_efflite0": False, "kid_efflite0": False},
    **{"fid_classifier": False, "recall_classifier": True},
}
"""Measures during a run whose progress is compared -> whether higher is better."""


def times_sooner(points: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]], name: str) -> float | None:
    """Return the factor by which a run reaches the baseline's last value in fewer steps; None if it never reaches it."""
    needed = steps_to_reach(points, name, baseline[-1][name], HIGHER[name])
    return needed and baseline[-1]["step"] / needed


def sooner_table(records: Sequence[dict[str, Any]]) -> str:
    """Write a table of `times_sooner` for each arm of a campaign's records, compared with the baseline of the same seed."""
    runs = {(r["row"], r["seed"]): list(r["metrics"]["points"].values())[-1] for r in records}  # a row may name its arm
    arms = [row for row in dict.fromkeys(row for row, _ in runs) if row != "baseline"]
    lines = [
        "| baseline's steps / steps to its last value | " + " | ".join(HIGHER) + " |",
        "|" + "---|" * (1 + len(HIGHER)),
    ]
    for row in arms:
        cells = []
        for name in HIGHER:
            pairs = [
                (runs[row, seed], runs["baseline", seed]) for r, seed in runs if r == row and ("baseline", seed) in runs
            ]
            pairs = [(p, b) for p, b in pairs if name in p[0] and name in b[0]]
            ratios = [times_sooner(p, b, name) for p, b in pairs]
            reached = [f"{ratio:.2f}" for ratio in ratios if ratio]
            cells.append(", ".join([*reached, *(["never"] * (len(ratios) - len(reached)))]) or "-")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nOne number for each seed. *never*: the value was not reached within the run.\n"


def conflicts(
    config: RunConfig, run: Path, images: Dataset, num: int, device: torch.device | str = "cpu"
) -> list[tuple[int, list[BlockConflict]]]:
    """Return [(step, conflict in every block)] for each checkpoint of an arm's run, with current weights, on `num` images."""
    found = _on_images(config, run, images, num, device)
    return [(step, conflict(*taught)) for step, *taught in found]


def gaps(
    config: RunConfig, run: Path, images: Dataset, num: int, sweeps: Sequence[int], device: torch.device | str = "cpu"
) -> dict[int, SweepGap]:
    """Compare the gradients of a trained arm's own alignment loss with and without adjoint sweeps, on `num` images."""
    *_, (_, *taught) = _on_images(config, run, images, num, device)
    return loss_gaps(*taught, sweeps)


def _on_images(
    config: RunConfig, run: Path, images: Dataset, num: int, device: torch.device | str
) -> Iterator[tuple[int, TarFlow, nn.Module, Batch, StepNoise]]:
    """Yield step, current weights, objective, a batch of `num` training images and its noise, for each checkpoint of a run."""
    if num < 1:
        raise ValueError(f"gradients were asked for on {num} images; give at least 1")
    flow, objective = initialised(TarFlow, config).to(device), FLOW.objective(config, images, None).to(device)
    batch = spread_images(images, num, True, device)
    for step in with_weights_of_each(run, flow, objective, device):
        yield step, flow, objective, batch, StepNoise(config.train.seed, 0, len(batch.x), device)


def fidelity(
    flow: TarFlow, config: RunConfig, metrics: Sequence[str], num: int, seed: int, keep_in: Path | None = None
) -> dict[str, float]:
    """Return the requested measures of `num` samples, without intervals; the seed determines the samples.

    metrics: full names, as fid_efflite0, recall_classifier or power_pixels. keep_in: a run's folder in which the samples are
    kept (`labcore.experiments.drawn.keep`) under the digest of the flow's weights and of the settings; `config` then says
    what taught the flow.
    """
    drawn = generate(flow, Sampling(num=num, guidance=GUIDANCE, seed=seed))
    if keep_in is not None:
        keep(keep_in, drawn.fingerprint(), drawn, drawn.made, config.data, flow.config, taught(config))
    return metric_values(drawn, Data.of(config.data), metrics, seed, flow.device, flow.config)


def sample_rows(flows: Mapping[str, TarFlow], seed: int, columns: int = 10) -> Tensor:
    """Draw a row of samples for every arm, from the same noise and with the same classes: (arms x columns, c, h, w)."""
    k = next(iter(flows.values())).config.num_classes
    y = torch.arange(columns) % k if k else None
    rows = [sample(flow, columns, y, guidance=GUIDANCE if k else 0.0, seed=seed).cpu() for flow in flows.values()]
    return torch.cat(rows)


def paper_table() -> str:
    """Write FlowBack's Table 1 as Markdown, with the rows that are aligned after layer 2 of 8."""
    lines = ["| FlowBack, Table 1 | FID | sFID | IS | accuracy, % |", "|---|---|---|---|---|"]
    for row in (row for row in flowback.ROWS if "1" in re.findall(r"\d", row.paper.where) and row.layer in (0, 2)):
        places = "all blocks" if row.blocks == flowback.ALL_BLOCKS else f"blocks {' and '.join(map(str, row.blocks))}"
        arm = "baseline" if row.direction is None else f"{row.direction}, {places}"
        numbers = (row.paper.fid, row.paper.sfid, row.paper.inception, row.paper.accuracy)
        lines.append(f"| {arm} | {' | '.join(map(str, numbers))} |")
    return (
        "\n".join(lines)
        + "\n\nImageNet 64x64, 400K iterations, 4,096 samples, Inception, aligned after layer 2 of 8.\n"
    )
