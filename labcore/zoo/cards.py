"""The cards of the models that ship, with the numbers of their records."""

from __future__ import annotations

from typing import Any

from labcore.config import BaseRunConfig
from labcore.data.fashion_mnist import CLASSES
from labcore.kinds import kind_of

LICENCE = """**Data and licence.** Trained on Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747), MIT licence,
Copyright 2017 Zalando SE."""


def card(
    name: str,
    model: Any,
    config: BaseRunConfig,
    record: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
) -> str:
    """Return the model's card: its description, its measures and how it was made."""
    c, t = model.config, record["trained_with"]
    head, rows, limits, command = kind_of(config).card(name, model, config, record)
    rows += _samples(evaluation) if evaluation else []
    table = "\n".join(f"| {row} | {value} |" for row, value in rows)
    return f"""# {name}

{head}
{c.num_blocks} blocks of {c.layers_per_block} layers, width {c.width}, patches of {c.patch_size} pixels ({
        c.tokens
    } tokens).
`labcore.zoo.load("{name}")` loads it; weights are stored as float16.

![Samples, one class a column: {", ".join(c.class_names)}](samples.png)

*Samples with seed 0 and guidance 1, denoised; one column per class.*

| on Fashion-MNIST | |
|---|---|
{table}

{_recognised(record)}

**Made by** `{command}`, then
`python -m labcore.experiments.ship runs/{name} {name}`: {record["steps"]:,} steps of {
        config.train.batch_size
    } images of
{config.data.name}, seed {config.train.seed}, {config.train.precision}, {record["training_seconds"] / 60:.0f} minutes on
{t["device"]} (shared with other work), torch {t["torch"]}, revision {t["revision"]}.
Averaged weights (EMA {config.train.ema_decay:g}). `record.json` has all numbers{
        "; `evaluation.json` has those of the samples" if evaluation else ""
    }.

{LICENCE}

**Limits.** This model is small on purpose: it is for tests, notebooks and teaching. {limits}
"""


def _samples(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """Return one row per measure of the samples, with interval and floor."""
    measures = evaluation["fidelity_efflite0"]["measures"]
    n = next(iter(measures.values()))["n"]
    return [
        (
            f"`{name}` of {n:,} samples, guidance 1",
            f"{m['value']:.4g} ({m['low']:.4g} to {m['high']:.4g}; held-out images {m['floor']:.3g})",
        )
        for name, m in measures.items()
    ]


def _recognised(record: dict[str, Any]) -> str:
    """Return a table of the samples that `fashion-classifier` assigns to their class: a row per scale, a column per class."""
    found = record["recognised"]
    n = next(iter(found.values()))["n"]
    lines = [
        f"| share of {n:,} samples recognised (95% interval) | {' | '.join(CLASSES)} |",
        "|---" * (1 + len(CLASSES)) + "|",
    ]
    for scale, one in found.items():
        shares = " | ".join(f"{share:.0%}" for share in one["by_class"])
        accuracy = f"{one['accuracy']:.1%} ({one['low']:.1%} to {one['high']:.1%})"
        lines.append(f"| guidance {scale}: {accuracy} | {shares} |")
    return "\n".join(lines)
