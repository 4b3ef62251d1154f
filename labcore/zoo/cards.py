"""The cards of the models that ship, with the numbers of their records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labcore.config import BaseRunConfig
from labcore.data.sources import SOURCES
from labcore.evaluate.extractors import ENCODERS, networks_of
from labcore.kinds import kind_of

JUDGE = "efflite0"
"""Extractor of the measures on a card."""


def card(
    name: str,
    model: Any,
    config: BaseRunConfig,
    record: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
) -> str:
    """Return the model's card: its description, its measures and how it was made."""
    c, t, source = model.config, record["trained_with"], SOURCES[config.data.name]
    head, rows, limits, command = kind_of(config).card(name, model, config, record)
    rows += _samples(evaluation) if evaluation else []
    table = "\n".join(f"| {row} | {value} |" for row, value in rows)
    recognised = f"{_recognised(record, c.class_names)}\n\n" if "recognised" in record else ""
    limits = f"{limits} {source.limits}".strip()
    if ENCODERS[JUDGE] in networks_of(config):
        limits += (
            f"\nIts training used `{ENCODERS[JUDGE]}`, which also computes the measures of its samples (`..._{JUDGE}`): their\n"
            "values may be too good."
        )
    layers = "1 layer" if c.layers_per_block == 1 else f"{c.layers_per_block} layers"
    balanced = ", all classes drawn equally often" if config.train.sampling == "balanced" else ""
    return f"""# {name}

{head}
{c.num_blocks} blocks of {layers}, width {c.width}, patches of {c.patch_size} pixels ({c.tokens} tokens).
`labcore.zoo.load("{name}")` loads it; weights are stored as float16.

![Samples, one class a column: {", ".join(c.class_names)}](samples.png)

*Samples with seed 0 and guidance 1, denoised; one column per class.*

| on {source.title} | |
|---|---|
{table}

{recognised}**Made by** `{command}`, then
`python -m labcore.experiments.ship runs/{name} {name}`: {record["steps"]:,} steps of {
        config.train.batch_size
    } images of
{config.data.name}{balanced}, seed {config.train.seed}, {config.train.precision}, {
        record["training_seconds"] / 60:.0f} minutes on
{t["device"]} (shared with other work), torch {t["torch"]}, revision {t["revision"]}.
Averaged weights (EMA {config.train.ema_decay:g}). `record.json` has all numbers{
        "; `evaluation.json` has those of the samples" if evaluation else ""
    }.

**Data and licence.** Trained on {source.licence}

**Limits.** This model is small on purpose: it is for tests, notebooks and teaching. {limits}
"""


def _samples(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """Return one row per measure of the samples, with interval, and with the value of held-out images where it is known."""
    measures = evaluation[f"fidelity_{JUDGE}"]["measures"]
    n = next(iter(measures.values()))["n"]
    return [
        (
            f"`{name}` of {n:,} samples, guidance 1",
            f"{m['value']:.4g} ({m['low']:.4g} to {m['high']:.4g}; {_held_out(m['floor'])})",
        )
        for name, m in measures.items()
    ]


def _held_out(floor: float | None) -> str:
    return "too few held-out images for theirs" if floor is None else f"held-out images {floor:.3g}"


def _recognised(record: dict[str, Any], classes: Sequence[str]) -> str:
    """Return a table of the samples that the classifier assigns to their class: a row per scale, a column per class."""
    found = record["recognised"]
    n = next(iter(found.values()))["n"]
    lines = [
        f"| share of {n:,} samples recognised (95% interval) | {' | '.join(classes)} |",
        "|---" * (1 + len(classes)) + "|",
    ]
    for scale, one in found.items():
        shares = " | ".join(f"{share:.0%}" for share in one["by_class"])
        accuracy = f"{one['accuracy']:.1%} ({one['low']:.1%} to {one['high']:.1%})"
        lines.append(f"| guidance {scale}: {accuracy} | {shares} |")
    return "\n".join(lines)
