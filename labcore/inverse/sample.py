"""Sampling of images: noise, the flow's exact inverse with score denoising or a student in one pass, and clipping.

Image i's noise depends only on (seed, i). So batch size, device and number of processes change only the speed; with
methods that have a tolerance, images change by no more than that tolerance.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labcore.finite import check_result, images_from
from labcore.flows.tarflow import TarFlow
from labcore.guidance import Schedule
from labcore.inverse.compiled import padded
from labcore.inverse.decode import computed_in
from labcore.inverse.denoise import denoise, noise_level
from labcore.inverse.methods import Method, Solver
from labcore.inverse.solve import invert, settings_in_words
from labcore.inverse.workspaces import IDLE, chunk_that_fits, free_bytes, row_bytes
from labcore.progress import Progress
from labcore.rng import normal_per_item


@runtime_checkable
class OnePass(Protocol):
    """A student (a learned inverse of a flow), as `labcore.biflow.BackwardModel`.

    A call with z, y and guidance returns an output with images x.
    """

    config: Any
    device: Any
    dtype: Any

    def __call__(self, z: Tensor, y: Tensor | None, guidance: Any) -> Any: ...

    def check_labels(self, y: Tensor | None, batch: int, ranges: bool = False) -> None: ...


Sampler = TarFlow | OnePass
"""A model from which images are drawn."""

SAMPLE_VERSION = 1
"""Version of the images that `sample` draws, and of their decoding and rounding: a part of the key of kept images. Raise it
with every change after which the same weights, settings and seed give other images."""


@torch.no_grad()
def sample(
    flow: Sampler,
    num: int = 16,
    y: int | Int[Tensor, " b"] | None = None,
    guidance: float | Tensor | list[float] | tuple[float, ...] = 0.0,
    noise_std: float | None = None,
    seed: int | None = None,
    batch_size: int = 100,
    clip: bool = True,
    first: int = 0,
    guidance_schedule: Schedule = "constant",
    attn_temp: float = 1.0,
    solver: Solver | Sequence[Method] = "sequential",
    compiled: bool | None = None,
    progress: Progress | None = None,
) -> Float[Tensor, "b c h w"]:
    """Draw `num` images (num, c, h, w) in [-1, 1] on the flow's device. Does not use torch's global generator.

    Args:
        flow: a flow, or a student of one. A student uses the same noise. It denoises by itself or not at all, so
            noise_std, guidance_schedule, attn_temp, solver and compiled are errors with it.
        num: number of images, 1 or more.
        y: None (default) is no class; an int is one class for all; (num,) is each image's class, -1 for no class.
        guidance: 0 (default) is off; a number, (num,) with one per image, or a list with one per block.
        noise_std: standard deviation of the noise that denoising removes. None (default) is the flow's training noise; 0
            skips denoising.
        seed: random seed of the noise; None draws a fresh one.
        batch_size: images at a time. On CUDA fewer, if their keys and values would take more than half of the free
            memory.
        first: index of the first image, default 0; images 100..199 of a seed can be drawn alone.
        clip: False keeps values outside [-1, 1]; default True.
        guidance_schedule: as in `invert`.
        attn_temp: as in `invert`.
        compiled: as in `invert`.
        solver: a name, which is exact, or one Method for each block, as in a calibration.
        progress: called after each batch of images; None (default) for none.

    Raises:
        ValueError: settings do not fit the model.
        NotFinite: images are not finite; they are numbered from `first`.
    """
    if num < 1 or batch_size < 1 or first < 0:
        raise ValueError(
            f"num={num}, batch_size={batch_size}, first={first}: counts must be at least 1, first at least 0"
        )
    if isinstance(guidance, Tensor) and guidance.ndim and guidance.shape != (num,):
        raise ValueError(
            f"guidance has shape {tuple(guidance.shape)}; give a number, ({num},) for each image, or a list"
        )
    exact = isinstance(flow, TarFlow)
    if not exact:
        check_one_pass(noise_std, guidance_schedule, attn_temp, solver, compiled)
    labels = as_labels(flow, y, num)
    std = noise_level(flow, noise_std) if exact else 0.0
    chunk = chunk_for(flow, batch_size, guidance) if exact else batch_size
    seed = secrets.randbits(31) if seed is None else seed
    per_image = isinstance(guidance, Tensor) and guidance.ndim > 0
    images = []
    for start in range(0, num, chunk):
        stop = min(start + chunk, num)
        z = prior_noise(flow, seed, range(first + start, first + stop))
        chunk_labels = None if labels is None else labels[start:stop]
        chunk_guidance = guidance[start:stop] if per_image else guidance
        with images_from(first + start, lambda: settings_in_words(guidance, attn_temp)):
            if exact:
                z = z * flow.prior_var.sqrt()  # 1 but for volume-preserving flows
                noisy = invert(
                    flow, z, chunk_labels, chunk_guidance, guidance_schedule, attn_temp, solver, compiled=compiled
                ).x
                x = denoise(flow, noisy, chunk_labels, std)
            else:
                x = flow(z, chunk_labels, chunk_guidance).x
                check_result(x, "the student", advice="give less guidance")
        images.append(x)
        if progress is not None:
            progress("images drawn", stop, num)
    x = torch.cat(images)
    return x.clamp(-1, 1) if clip else x


def chunk_for(flow: TarFlow, asked: int, guidance: float | Tensor | list[float] | tuple[float, ...] = 0.0) -> int:
    """Return how many of `asked` images `sample` draws at a time: on CUDA, as many as half of the free memory holds.

    Idle recordings count as free memory and are dropped if the memory is needed.
    """
    free = free_bytes(flow.device)
    if free is None:
        return asked
    branches = 1 if isinstance(guidance, int | float) and guidance == 0 else 2
    dtype = computed_in(torch.empty(0, dtype=flow.dtype, device=flow.device))
    images = chunk_that_fits(asked, branches, flow.config, dtype, free + IDLE.bytes())
    IDLE.make_room(padded(images * branches) * row_bytes(flow.config, dtype), flow.device)
    return images


def prior_noise(flow: Sampler, seed: int, rows: range) -> Float[Tensor, "b t d"]:
    """Return standard normal noise of the images `rows` of a seed, with the model's device and dtype."""
    c = flow.config
    return normal_per_item(seed, "sample", rows, (c.tokens, c.token_dim)).to(flow.device, flow.dtype)


def check_one_pass(
    noise_std: float | None,
    guidance_schedule: Schedule,
    attn_temp: float,
    solver: Solver | Sequence[Method],
    compiled: bool | None = None,
) -> None:
    """Raise ValueError for settings that a student does not have. noise_std 0 (no denoising by the flow) is allowed."""
    if noise_std or guidance_schedule != "constant" or attn_temp != 1 or solver != "sequential" or compiled:
        raise ValueError(
            "a student has no noise_std, guidance_schedule, attn_temp, solver or compiled; leave them out, or give "
            "the flow"
        )


def as_labels(flow: Sampler, y: int | Tensor | None, num: int) -> Int[Tensor, " b"] | None:
    """Return labels (num,) on the flow's device after a check of their range; None stays None."""
    if y is None:
        return None
    y = torch.full((num,), y) if isinstance(y, int) else torch.as_tensor(y)
    y = y.to(flow.device)
    flow.check_labels(y, num, ranges=True)
    return y
