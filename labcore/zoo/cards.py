"""The cards of the models that ship, with the numbers of their records."""

from __future__ import annotations

from typing import Any

from labcore.config import RunConfig, StudentRunConfig
from labcore.data.fashion_mnist import CLASSES
from labcore.flows.tarflow import TarFlow

LICENCE = """**Data and licence.** Trained on Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747), MIT licence,
Copyright 2017 Zalando SE."""


def card(
    name: str,
    model: Any,
    config: RunConfig | StudentRunConfig,
    record: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
) -> str:
    """The model's card: what it is, how it was made, what it can do."""
    what = _flow if isinstance(model, TarFlow) else _inverse
    c, t = model.config, record["trained_with"]
    head, rows, limits, command = what(name, model, config, record)
    rows += _samples(evaluation) if evaluation else []
    table = "\n".join(f"| {row} | {value} |" for row, value in rows)
    return f"""# {name}

{head}
{c.num_blocks} blocks of {c.layers_per_block} layers, width {c.width}, patches of {c.patch_size} pixels ({
        c.tokens
    } tokens).
`labcore.zoo.load("{name}")` loads it; weights are stored as float16.

![Samples, one class a column: {", ".join(c.class_names)}](samples.png)

*Samples of seed 0, one class a column, guidance 1, denoised.*

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
Averaged weights (EMA {config.train.ema_decay:g}). `record.json` holds the numbers in full{
        ", `evaluation.json` those of the samples" if evaluation else ""
    }.

{LICENCE}

**Limits.** Small on purpose: it is for tests, notebooks and teaching. {limits}
"""


def _flow(name: str, flow: TarFlow, config: RunConfig, record: dict[str, Any]) -> tuple[str, list, str, str]:
    c, n = flow.config, record["likelihood"]
    kind = "TARFlow"
    if c.positions == "rope" and c.affine_clamp is not None:
        kind += (
            f" with RoPE, SwiGLU and RMSNorm, its affine parameters held in [-{c.affine_clamp:g}, {c.affine_clamp:g}],"
        )
    if (align := config.align) is not None:
        sites = ", ".join(f"block {block} layer {layer}" for block, layer in align.sites)
        kind += f""" trained with R-REPA ({align.direction}, weight {align.weight:g},
{sites}, {align.encoder})"""
    head = f"""A {kind} of {record["parameters"]:,} parameters
for {c.image_size}x{c.image_size} images of clothes in {c.num_classes} classes:"""
    rows = [
        (
            f"negative log-likelihood of {n['n']:,} test images, with labels",
            f"{n['nats_per_dim']:.4f} +- {n['standard_error'] / c.dims:.4f} nats/dim ({n['density']})",
        ),
        *(
            (f"{way} classification of them, clean", f"{a['accuracy']:.1%} (95%: {a['low']:.1%} to {a['high']:.1%})")
            for way, a in (("Bayes", record["bayes_accuracy"]), ("training-free", record["training_free_accuracy"]))
        ),
        (
            "round trip invert(flow(x)), largest error in float32, 64 images",
            f"{record['round_trip_error']:.1e}",
        ),
    ]
    limits = f"""It knows {c.image_size}x{c.image_size} grey pictures of clothes in [-1, 1] with
noise of sigma {c.noise_std:g}, and nothing else; values far outside that range overflow."""
    return head, rows, limits, f"lab train --config labcore/zoo/{name}/spec.yaml --out runs/{name}"


def _inverse(name: str, model: Any, config: StudentRunConfig, record: dict[str, Any]) -> tuple[str, list, str, str]:
    c, back = model.config, record["brought_back"]
    head = f"""A learned inverse (BiFlow) of `{config.flow}`, {record["parameters"]:,} parameters: noise to a clean
{c.image_size}x{c.image_size} image of one of {c.num_classes} classes in one evaluation,
with guidance from 0 to {c.max_guidance:g} as an input;"""
    rows = [
        (
            f"mean squared error of {back['n']:,} test images, encoded with training noise and brought back",
            f"{back['learned']['image_mse']:.4f} (the exact inverse, denoised: {back['exact']['image_mse']:.4f})",
        ),
        (
            "RMS of F(G(z)) - z, before denoising",
            f"{back['learned']['cycle_rms']:.2f} (exact: {back['exact']['cycle_rms']:.1e})",
        ),
        (
            "nats/dim of its images under the flow",
            f"{back['learned']['nats_per_dim']:.3f} (the exact inverse's: {back['exact']['nats_per_dim']:.3f})",
        ),
    ]
    limits = f"It inverts `{config.flow}` and no other flow; guidance above {c.max_guidance:g} it has not seen."
    command = f"lab train --invert {config.flow} --config labcore/zoo/{name}/spec.yaml --out runs/{name}"
    return head, rows, limits, command


def _samples(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """FID and the like, as rows."""
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
    """A row a guidance, a column a class: the share of samples that `fashion-classifier` takes for what was asked."""
    found = record["recognised"]
    n = next(iter(found.values()))["n"]
    lines = [
        f"| recognised of {n:,} samples (95%) | {' | '.join(CLASSES)} |",
        "|---" * (1 + len(CLASSES)) + "|",
    ]
    for scale, one in found.items():
        shares = " | ".join(f"{share:.0%}" for share in one["by_class"])
        whole = f"{one['accuracy']:.1%} ({one['low']:.1%} to {one['high']:.1%})"
        lines.append(f"| guidance {scale}: {whole} | {shares} |")
    return "\n".join(lines)
