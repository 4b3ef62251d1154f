"""Rows 23, 24 and 28: one pass of a learned inverse, beside exact inverses with score denoising."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.measure import Failed, Measured, in_turn, one
from benchmarks.gpu.setting import GUIDANCE, Setting, at_least, at_most, entry, twin
from benchmarks.gpu.steps import layers_of
from labcore import denoise
from labcore.train.precision import try_compile


def one_pass(s: Setting, model: nn.Module, images: int) -> Callable[[], Tensor]:
    """A guided pass in bfloat16 autocast."""
    z, y = s.noise(model, images)

    @torch.no_grad()
    def draw() -> Tensor:
        with s.autocast("bf16"):
            return model(z, y, GUIDANCE).x

    return draw


def compiled_student(s: Setting, images: int) -> nn.Module:
    """The student with its layers compiled. Raises RuntimeError where that fails."""
    model = twin(s.student)
    if not try_compile(layers_of(model), one_pass(s, model, images)):
        raise RuntimeError("the student could not be compiled; its warning says why")
    return model


def denoised(s: Setting, images: int) -> Callable[[], Tensor]:
    """Our score denoising in bfloat16 autocast."""
    z, y = s.noise(s.flow, images)
    x = s.flow.unpatchify(z)

    def score() -> Tensor:
        with s.autocast("bf16"):
            return denoise(s.flow, x, y)

    return score


def their_denoising(s: Setting, images: int) -> Callable[[], Tensor]:
    """ml-tarflow's: the gradient of its loss, a mean over images and dimensions."""
    z, y = s.noise(s.flow, images)
    images_x, std = s.flow.unpatchify(z), s.flow.config.noise_std

    def score() -> Tensor:
        x = images_x.detach().requires_grad_()
        with s.autocast("bf16"):
            latents, _, log_det = s.theirs(x, y)
            loss = s.theirs.get_loss(latents, log_det)
        (gradient,) = torch.autograd.grad(loss, x)
        return x.detach() - x.numel() * std**2 * gradient

    return score


def of_one(s: Setting) -> Iterator[dict[str, Any]]:
    """Row 23: one image, eager and compiled, and how many times row 14 with denoising takes."""
    images = s.sizes.images[0]
    floor = s.bounds.one_pass(s.student, images, "bf16")
    eager = one(one_pass(s, s.student, images), s.budget / 3)
    yield entry("eager", eager, floor, checks=(at_most("ms", 1000 * eager.seconds, 10),), images=images)
    fast = one(one_pass(s, compiled_student(s, images), images), s.budget / 3)
    times = exact_by(s, 14, images, fast)
    checks = (at_most("ms", 1000 * fast.seconds, 3), at_least("times as fast as row 14 with denoising", times, 150))
    yield entry("compiled", fast, floor, checks=checks, images=images)


def of_many(s: Setting) -> Iterator[dict[str, Any]]:
    """Row 24: the larger batches, and how many times row 18 and ml-tarflow with denoising take."""
    for images, limit in zip(s.sizes.images[1:], (20, 80), strict=True):
        ours = one(one_pass(s, s.student, images), s.budget / 4)
        checks = [at_most("ms", 1000 * ours.seconds, limit)]
        if images == s.sizes.images[2]:
            checks.append(at_least("times as fast as row 18 with denoising", exact_by(s, 18, images, ours), 15))
            if s.theirs is not None:
                checks.append(at_least("times ml-tarflow with denoising", theirs_by(s, 18, images, ours), 80))
        floor = s.bounds.one_pass(s.student, images, "bf16")
        yield entry(f"{images} images", ours, floor, checks=tuple(checks), images=images)


def exact_by(s: Setting, n: int, images: int, ours: Measured) -> float | None:
    """Seconds of a row's exact inverse and of denoising, by ours; None where the row was not run."""
    seconds = s.record.seconds(n)
    return None if seconds is None else (seconds + one(denoised(s, images), s.budget / 8).seconds) / ours.seconds


def theirs_by(s: Setting, n: int, images: int, ours: Measured) -> float | None:
    """The same of ml-tarflow."""
    seconds = s.record.seconds(n, of="theirs")
    if seconds is None:
        return None
    score = in_turn({"ours": lambda: None, "theirs": their_denoising(s, images)}, s.budget / 8)["theirs"]
    return None if isinstance(score, Failed) else (seconds + score.seconds) / ours.seconds


def in_a_second(s: Setting) -> list[dict[str, Any]]:
    """Row 28: images/s of one pass."""
    images = s.sizes.sampled
    ours = one(one_pass(s, s.student, images), s.budget)
    rate = images / ours.seconds
    floor = s.bounds.one_pass(s.student, images, "bf16")
    return [entry("bf16", ours, floor, checks=(at_least("images/s", rate, 600),), images=images, images_per_s=rate)]
