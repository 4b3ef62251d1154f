"""Figures of an autoencoder and its latents, and of the memory and time that a run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.evaluate.autoencoding import Spectrum
from labcore.viz import style
from labcore.viz.figures import _figure, _styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labcore.plan import Estimate, Gpu


@_styled
def spectra(found: Spectrum) -> Figure:
    """Draw the power of images and of the reconstruction error by spatial frequency, and their ratio.

    Where the two lines meet, nothing of the images is kept.
    """
    figure = _figure((style.WIDTH, 3.8))
    left, right = figure.subplots(1, 2)
    cycles = found.cycles[1:].tolist()
    left.plot(cycles, found.images[1:].tolist(), marker="o", label="images")
    left.plot(cycles, found.lost[1:].tolist(), marker="s", label="reconstruction - image")
    left.set_yscale("log")
    left.set_ylabel("mean power")
    left.legend()
    right.plot(cycles, (found.lost / found.images)[1:].tolist(), marker="s", color=style.COLOURS["red"])
    right.set_ylim(0, None)
    right.set_ylabel("lost share of the power")
    for axes in (left, right):
        axes.set_xlabel("cycles per image side")
    return figure


@_styled
def statistics(
    final: Float[Tensor, "b c h w"], deviations: Float[Tensor, "b c h w"] | None, noise_std: float
) -> Figure:
    """Draw histograms of final latents by channel, and of the encoder's standard deviations.

    N(0, 1) and the noise level of the flow's training are drawn for comparison.
    """
    figure = _figure((style.WIDTH, 3.8))
    left, right = figure.subplots(1, 2)
    for number, values in enumerate(final.transpose(0, 1).flatten(1).cpu(), 1):
        counts, edges = torch.histogram(values.float(), 60, range=(-5.0, 5.0), density=True)
        left.stairs(counts.numpy(), edges.numpy(), linewidth=1.8, label=f"channel {number}: {values.std():.2f}")
    grid = torch.linspace(-5, 5, 200)
    normal = torch.exp(-(grid**2) / 2) / (2 * torch.pi) ** 0.5
    left.plot(grid.numpy(), normal.numpy(), color="black", linestyle="--", linewidth=1.2, label="N(0, 1)")
    left.set_xlabel("value of a final latent")
    left.set_ylabel("density")
    left.set_title("latent means by channel (with their standard deviation)")
    left.legend(fontsize=10)
    if deviations is not None:
        values = deviations.flatten().cpu().float().clamp_min(1e-6).log10()
        counts, edges = torch.histogram(values, 60)
        right.stairs(counts.numpy() / values.numel(), 10 ** edges.numpy(), fill=True, color=style.COLOURS["sky"])
        right.axvline(noise_std, color=style.COLOURS["red"], label=f"noise of the flow: {noise_std:g}")
        right.set_xscale("log")
        right.set_xlabel("encoder's standard deviation of a final latent")
        right.set_ylabel("share of the values")
        right.set_title("uncertainty of the encoder")
        right.legend(fontsize=10)
    else:
        right.set_axis_off()
    return figure


@_styled
def plans(on: Mapping[str, tuple[Estimate, Gpu]], held: float, title: str) -> Figure:
    """Draw the memory that a run needs on one GPU of each kind, and the memory that the GPU has; write the duration of the run.

    on: kind -> (estimate, GPU). held: bytes of weights, gradients, optimizer state and averaged weights.
    """
    figure = _figure((style.WIDTH, 1.6 + 0.55 * len(on)))
    axes = figure.subplots()
    for row, (estimate, gpu) in enumerate(on.values()):
        fits = estimate.micro_batch > 0
        colour = style.COLOURS["blue"] if fits else style.COLOURS["red"]
        axes.barh(row, held / 1e9, color=colour)
        axes.barh(
            row,
            (estimate.memory - held) / 1e9,
            left=held / 1e9,
            color=style.COLOURS["sky"],
            hatch=None if fits else "//",
        )
        axes.plot([gpu.memory / 1e9] * 2, [row - 0.4, row + 0.4], color="black")
        images = f"{estimate.micro_batch} images at a time" if fits else "not even one image fits"
        label = f"{estimate.duration}, {images}" if fits else images
        axes.text(max(estimate.memory, gpu.memory) / 1e9 + 2, row, label, va="center", fontsize=11)
    axes.set_yticks(range(len(on)), list(on))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.6 * max(max(e.memory, g.memory) for e, g in on.values()) / 1e9)
    axes.set_xlabel("GB on each GPU: weights and optimizer (dark), activations (light), the GPU's memory (line)")
    axes.set_title(title)
    return figure


@_styled
def by_noise(found: Mapping[str, Sequence[float]], floors: Mapping[str, float], label: str) -> Figure:
    """Draw a measure against the noise level of training, with dashed lines for its lower bounds.

    found: {"noise": levels, "value": values}. floors: name -> lower bound. label: name of the measure.
    """
    figure = _figure((style.WIDTH, 3.6))
    axes = figure.subplots()
    axes.plot(found["noise"], found["value"], marker="o")
    for (name, value), colour in zip(floors.items(), ("black", style.COLOURS["red"]), strict=False):
        axes.axhline(value, linestyle="--", linewidth=1.2, color=colour, label=f"{name}: {value:.3g}")
    axes.set_xlabel("standard deviation of the noise on final latents")
    axes.set_ylabel(label)
    axes.set_xlim(0, 1.3 * max(found["noise"]))
    axes.set_ylim(0, None)
    axes.legend()
    return figure
