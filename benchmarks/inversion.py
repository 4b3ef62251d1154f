"""Seconds and FLOPs that a learned inverse saves when it draws images, and time that guidance adds to its training.

Targets are speed-ups of one pass of the learned inverse, with guidance as an input and its own denoiser, over ml-tarflow's
guided inverse with score denoising, at the same width and depth. On two CPU cores: 30 at 49 tokens and batch 1, 8 at batch
64; 50 at 256 tokens and batch 1, 12 at batch 16. On a GPU: 60 at 256 tokens and batch 64. A training step with guidance as
an input takes at most 1.5 times as long as a step without.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.align import make_flow
from benchmarks.compare_ml_tarflow import difference
from labcore import BackwardConfig, BackwardModel, TarFlow, invert
from labcore.config import StudentConfig
from labcore.evaluate.flops import count_flops
from labcore.experiments.bench import reference_of
from labcore.inverse.denoise import denoise
from labcore.rng import StepNoise
from labcore.timing import alternate
from labcore.train.distillation import Distillation, measure_rms
from labcore.types import Batch

DEPTH = dict(patch_size=4, width=128, num_blocks=4, layers_per_block=4, num_classes=10)
SMALL = dict(**DEPTH, image_size=28, channels=1)  # 49 tokens
LARGE = dict(**DEPTH, image_size=64, channels=3)  # 256 tokens
PAPER = dict(image_size=32, channels=4, patch_size=2, width=768, num_blocks=8, layers_per_block=2, num_classes=10)
"""BiFlow-B/2: 256 tokens and 8 blocks; width and layers are ours, from its number of parameters."""
GUIDANCE = MAX_GUIDANCE = 0.5
LEARNED, EXACT, THEIRS = "learned", "exact", "ml-tarflow"
BLOCK, SCORE = "its denoising block", "score denoising"
UNGUIDED, GUIDED = "exact inverse", "exact inverse, guided"
PARTS = (LEARNED, BLOCK, SCORE, UNGUIDED, GUIDED)
WANTED = {
    "cpu": {(49, 1): 30, (49, 64): 8, (256, 1): 50, (256, 16): 12},
    "cuda": {(49, 1): None, (49, 64): None, (256, 1): None, (256, 16): None, (256, 64): 60},
}
"""Device -> (tokens, batch) -> target of the speed-up over ml-tarflow, or None; only these cases are measured."""


class Side(NamedTuple):
    """A way to draw images.

    draw: function from noise (b, t, d) and labels (b,) to images. once: modules that each evaluation of the network calls once.
    """

    draw: Callable[[Tensor, Tensor], Tensor]
    once: list[nn.Module]


def make_inverse(sizes: dict, max_guidance: float = MAX_GUIDANCE) -> BackwardModel:
    """Make a learned inverse of a flow of these sizes, with one more block for denoising, and perturb its weights.

    At initialisation its result is constant.
    """
    torch.manual_seed(0)
    model = BackwardModel(BackwardConfig(**sizes, max_guidance=max_guidance))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
    return model.to(device())


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_sides(sizes: dict, reference: Path | None) -> dict[str, Side]:
    """Return the learned inverse, our exact inverse with score denoising and, given a clone, ml-tarflow's on equal weights."""
    model, flow = make_inverse(sizes).eval(), make_flow(sizes).eval().requires_grad_(False).to(device())
    sides = {LEARNED: Side(torch.no_grad()(lambda z, y: model(z, y, GUIDANCE).x), list(model.blocks))}
    if reference:
        sides[THEIRS] = ml_tarflow(reference, flow)
    draw = lambda z, y: denoise(flow, invert(flow, z, y, GUIDANCE).x, y)  # noqa: E731
    return {**sides, EXACT: Side(draw, [block.params_out for block in flow.blocks])}


def ml_tarflow(folder: Path, flow: TarFlow) -> Side:
    """Return ml-tarflow's model with the flow's weights.

    It samples as sample.ipynb does: with constant guidance, and one denoising of all images together.
    """
    c, theirs = flow.config, reference_of(flow, folder).requires_grad_(False)

    def draw(z: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            x = theirs.reverse(z, y, GUIDANCE)
        x = x.detach().requires_grad_()
        latents, _, log_det = theirs(x, y)
        (gradient,) = torch.autograd.grad(theirs.get_loss(latents, log_det), x)
        return x.detach() - x.numel() * c.noise_std**2 * gradient  # the loss is a mean over images and dimensions

    return Side(draw, [block.proj_out for block in theirs.blocks])


def sampling(repeats: int, reference: Path | None) -> dict:
    """Measure the milliseconds per image of the learned inverse and of the exact ways, all guided and denoised, in turn.

    An exact inverse solves token after token, and evaluates guidance and the score in addition. Fields of a row:

    - "wanted": target of the ratio ml-tarflow / learned. The ratio exact / learned is the speed-up over our own solver.
    - "evaluations": evaluations of the whole network, on one token or on all. The exact ways need 1 for each token but the
      last (ml-tarflow 2; ours has both branches of guidance in one batch), and 1 for the score, without its gradient.
    - "exact differs": difference of our exact images from ml-tarflow's, relative to the largest value of these.
    """
    rows = []
    for sizes in (SMALL, LARGE):
        sides, tokens = make_sides(sizes, reference), (sizes["image_size"] // sizes["patch_size"]) ** 2
        for (measured, batch), wanted in WANTED[device()].items():
            if measured == tokens:
                rows.append({"tokens": tokens, "batch": batch, **draw_all(sides, sizes, batch, wanted, repeats)})
                print("sampling   ", rows[-1], flush=True)
    return {"sampling": rows}


def draw_all(sides: dict[str, Side], sizes: dict, batch: int, wanted: float | None, repeats: int) -> dict:
    """Return a row of `sampling`: a first round checks the images and counts evaluations; the rounds after it are timed."""
    c = BackwardConfig(**sizes)
    z, y = torch.randn(batch, c.tokens, c.token_dim).to(device()), torch.arange(batch).to(device()) % c.num_classes
    images, evaluations = {}, {}
    for name, side in sides.items():
        images[name], evaluations[name] = count_evaluations(side, z, y)
    ways = {name: finished(lambda side=side: side.draw(z, y)) for name, side in sides.items()}
    timings = alternate(ways, repeats)
    row = {
        "ms an image": {name: round(1000 * timing.seconds / batch, 2) for name, timing in timings.items()},
        "spread": {name: round(timing.spread, 2) for name, timing in timings.items()},
        "evaluations": evaluations,
        f"{EXACT} / {LEARNED}": round(timings[EXACT].seconds / timings[LEARNED].seconds, 1),
    }
    if THEIRS in sides:
        row[f"{THEIRS} / {LEARNED}"] = round(timings[THEIRS].seconds / timings[LEARNED].seconds, 1)
        row["wanted"] = wanted
        row["exact differs"] = float(f"{difference(images[EXACT], images[THEIRS]):.1e}")
    return row


def count_evaluations(side: Side, z: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """Return the images, and how often drawing them evaluates the network: calls of its blocks divided by their number."""
    calls = []
    hooks = [module.register_forward_hook(lambda *_: calls.append(1)) for module in side.once]
    images = side.draw(z, y)
    for hook in hooks:
        hook.remove()
    if not bool(images.isfinite().all()) or float(images.std()) == 0:
        raise ValueError("images are constant or not finite, so their time would mean nothing")
    return images, len(calls) // len(side.once)


def finished(call: Callable[[], object]) -> Callable[[], None]:
    """Return a function that makes the call and waits until a GPU has finished it."""

    def run() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def training_step(repeats: int) -> dict:
    """Measure the seconds of a training step with guidance as an input (equation 5), relative to a step without.

    The step with guidance evaluates each block once more, without a gradient. Flow, model, loss, backpropagation and AdamW are
    counted.
    """
    rows = []
    for sizes, batch in ((SMALL, 64), (LARGE, 16)):
        ways = {name: finished(make_step(sizes, batch, m)) for name, m in (("plain", 0.0), ("guided", MAX_GUIDANCE))}
        timings = alternate(ways, repeats)
        row = {"tokens": BackwardConfig(**sizes).tokens, "batch": batch}
        row["seconds"] = {name: round(timing.seconds, 3) for name, timing in timings.items()}
        row["spread"] = {name: round(timing.spread, 2) for name, timing in timings.items()}
        row["guided / plain"] = round(timings["guided"].seconds / timings["plain"].seconds, 2)
        rows.append({**row, "allowed": 1.5})
        print("step       ", rows[-1], flush=True)
    return {"training step": rows}


def make_step(sizes: dict, batch: int, max_guidance: float) -> Callable[[], None]:
    """Return a training step of hidden alignment with squared errors, always on the same batch."""
    flow, model = make_flow(sizes).to(device()), make_inverse(sizes, max_guidance).train()
    c = model.config
    x, index = torch.rand(batch, c.channels, c.image_size, c.image_size) * 2 - 1, torch.arange(batch)
    images = Batch(*(part.to(device()) for part in (x, index % c.num_classes, index, index < 0)))
    noise = StepNoise(0, 0, batch, device())
    constants = measure_rms(flow, images, noise, c.denoiser)
    objective = Distillation(StudentConfig(strategy="hidden-alignment"), c, flow, constants).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        loss, _ = objective(model, images, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


@torch.no_grad()
def flops() -> dict:
    """Count the GFLOPs of one image at 256 tokens, and the learned inverse's saving, in denoising and in total.

    The paper says that score denoising takes 15.8 times the FLOPs of its learned denoising block. A forward and a backward
    pass through the flow's B blocks cost 2 B blocks, and a little more for attention, so the paper's number fits B = 8. The
    second row has the paper's sizes, without the exact inverse, which would take minutes token by token. At small batches,
    the saving of time exceeds the saving of FLOPs, because a processor waits when it computes one token at a time.
    """
    rows = []
    for sizes, names in ((LARGE, PARTS), (PAPER, PARTS[:3])):
        calls = parts(sizes)
        counts = {name: count_flops(calls[name]) for name in names}
        row = {key: sizes[key] for key in ("num_blocks", "layers_per_block", "width")}
        row["GFLOPs an image"] = {name: round(count / 1e9, 3) for name, count in counts.items()}
        row["score / denoising block"] = round(counts[SCORE] / counts[BLOCK], 1)
        if GUIDED in counts:
            row["(guided + score) / learned"] = round((counts[GUIDED] + counts[SCORE]) / counts[LEARNED], 1)
        else:
            row["paper"] = 15.8
        rows.append(row)
        print("FLOPs      ", row, flush=True)
    return {"flops": rows}


def parts(sizes: dict) -> dict[str, Callable[[], object]]:
    """Return {part: call} for PARTS, each for one image; score denoising includes its gradient."""
    model, flow = make_inverse(sizes).eval(), make_flow(sizes).eval().requires_grad_(False).to(device())
    c, on = model.config, {"device": device()}
    z, h = torch.randn(1, c.tokens, c.token_dim, **on), torch.randn(1, c.tokens, c.width, **on)
    y, embedded = torch.zeros(1, dtype=torch.int64, **on), model.guidance_embedding(torch.full((1,), GUIDANCE, **on))
    x = flow.unpatchify(z)
    return {
        LEARNED: lambda: model(z, y, GUIDANCE),
        BLOCK: lambda: model.heads[-1](model.blocks[-1](h, y, embedded)),
        SCORE: lambda: denoise(flow, x, y),
        UNGUIDED: lambda: invert(flow, z, y),
        GUIDED: lambda: invert(flow, z, y, GUIDANCE),
    }


def inversion(repeats: int, reference: Path | None) -> dict:
    """Run all three measurements and return their record."""
    return {**sampling(repeats, reference), **training_step(repeats), **flops()}
