"""Requirements of full-size runs as Markdown: counted on tensors without values, which takes minutes."""

from __future__ import annotations

from collections.abc import Callable

from labcore.experiments import ways
from labcore.markdown import table
from labcore.plan import GPUS, estimate, on_disk, plan
from labcore.plan.words import IMAGENET
from labcore.runs.configure import as_named

PLANNED = (
    ("flowback-64-baseline", "2.5 days on 8 GPUs"),
    ("flowback-64-reverse-7-8-l6", "2.5 days on 8 GPUs"),
    ("flowback-256-baseline", "3.5 days on 8 GPUs"),
    ("flowback-256-reverse", "3.5 days on 8 GPUs"),
    ("flowback-256-reverse-p1-1000k", "-"),
)
"""Presets of FlowBack, and the time that the paper gives; it does not give the kind of GPU."""


def plans() -> str:
    """Write parameters, FLOPs, memory, time and disk space of some presets, as `lab plan` estimates them."""
    lines = []
    for name, paper in PLANNED:
        found = plan(*as_named(name))
        days = estimate(found, GPUS["a100"], 8).days
        disk = sum(on_disk(as_named(name)[0]).values()) * IMAGENET / 1e9
        size = f"{found.parameters / 1e6:,.0f} M", f"{found.flops / 1e9:,.0f}"
        lines.append([f"`{name}`", *size, f"{disk:,.0f} GB" if disk else "-", f"{days:.1f} days", paper])
    heads = ["preset", "parameters", "GFLOPs an image and step", "on disk for ImageNet", "estimate, 8 A100", "paper"]
    return table(heads, lines)


def decoded_pictures() -> str:
    """Write the share of a step's arithmetic that perceptual distances take."""
    found = plan(*as_named("biflow-256-b-final"))
    return (
        f"Perceptual distances need the decoder and large networks: they take {found.frozen / 1e9:,.0f} of the "
        f"{found.flops / 1e9:,.0f} GFLOPs of an image in `biflow-256-b-final`.\n"
    )


def recomputed() -> str:
    """Write the cost and the savings of computing activations again."""
    found = {
        again: plan(*as_named("flowback-256-reverse-p1-1000k", [f"train.recompute={again}"]))
        for again in ("true", "false")
    }
    times = found["true"].flops / found["false"].flops
    saved = found["false"].activations / found["true"].activations
    return (
        "`--set train.recompute=true` computes activations again in the backward pass. For "
        f"`flowback-256-reverse-p1-1000k` this takes {times:.1f} times the arithmetic and 1/{saved:.0f} of the memory for "
        "activations.\n"
    )


def flops_of_ways() -> str:
    """Write the counted FLOPs of the ways of sampling at BiFlow's size B."""
    found = ways.paper_flops()
    student = found["one pass of the learned inverse"]
    exact = 2 * found["one pass of the flow"] + found["score"]
    lines = [
        ["score denoising / the student's denoising block", f"{found['score'] / found['learned block']:.1f}", "15.8"],
        ["exact inverse, guided and denoised / one pass of the student", f"{exact / student:.1f}", "about 4"],
        ["Stable Diffusion's decoder / one pass of the student", f"{found['VAE decoder'] / student:.0f}", "-"],
        ["Stable Diffusion's decoder, GFLOPs an image", f"{found['VAE decoder'] / 1e9:.0f}", "-"],
    ]
    return table(["FLOPs at size B, 256x256 images", "counted by torch", "paper"], lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "plans": plans,
    "plan-decoded": decoded_pictures,
    "plan-recompute": recomputed,
    "plan-inverses": flops_of_ways,
}
