"""Ways from noise to images, compared: the flow's exact inverse and learned ones, with and without denoising and guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from labcore.biflow.edit import change_class, inpaint
from labcore.biflow.model import BackwardModel
from labcore.config import BackwardConfig, DataConfig, TarFlowConfig
from labcore.data.batch import spread_images
from labcore.data.class_names import HasClasses
from labcore.data.datasets import Data, to_memory
from labcore.data.images import ImageData
from labcore.data.protocol import Dataset
from labcore.data.transforms import to_float, to_uint8
from labcore.evaluate.classifier import recognised
from labcore.evaluate.flops import count_flops
from labcore.evaluate.values import metric_values
from labcore.experiments.drawn import keep
from labcore.flows.tarflow import TarFlow
from labcore.inverse.denoise import denoise
from labcore.inverse.sample import prior_noise
from labcore.inverse.solve import invert
from labcore.latents import to_pixels
from labcore.nn.classifier import Classifier
from labcore.nn.patch import unpatchify
from labcore.presets.biflow import LATENTS, MODERN, SIZES
from labcore.provenance import weights_hash
from labcore.rng import normal_per_item
from labcore.runs import own_data
from labcore.runs.models import find_model
from labcore.timing import alternate

BATCH = 100
"""Number of images at a time; our choice."""


class Images(NamedTuple):
    """Output of a way: images (b, c, h, w), not clipped, and the noisy state x^0 before denoising, or None."""

    x: Tensor
    noisy: Tensor | None


class Way(NamedTuple):
    """A way from z (b, t, d) and classes to images; `evaluations` describes its serial evaluations of the network."""

    run: Callable[[Tensor, Tensor | None], Images]
    evaluations: str
    denoised: bool

    def image(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Return only the images; `labcore.biflow.edit` takes this method as an inverse."""
        return self.run(z, y).x


def exact(flow: TarFlow, guidance: float = 0.0, score: bool = True) -> Way:
    """Return the way of the flow's exact inverse, token by token; `score` adds denoising by the flow's score."""

    def run(z: Tensor, y: Tensor | None) -> Images:
        noisy = invert(flow, z, y, guidance).x
        return Images(denoise(flow, noisy, y) if score else noisy, noisy)

    passes = f"{len(flow.blocks)} x {flow.config.tokens - 1} tokens" + (", two branches" if guidance else "")
    return Way(run, passes + (" + score" if score else ""), score)


def learned(model: BackwardModel, guidance: float = 0.0, flow: TarFlow | None = None, has_states: bool = True) -> Way:
    """Return the way of a student; the score of `flow`, if given, denoises. has_states: its states were trained."""

    def run(z: Tensor, y: Tensor | None) -> Images:
        with torch.no_grad():
            out = model(z, y, guidance)
        c = model.config
        noisy = unpatchify(out.states[-1 - c.denoiser], c.patch_size, c.image_shape) if has_states else None
        return Images(out.x if flow is None else denoise(flow, out.x, y), noisy)

    evaluations = f"{model.evaluations(guidance)}" + (" + score" if flow is not None else "")
    return Way(run, evaluations, model.config.denoiser or flow is not None)


def data_of(flow: str) -> Data:
    """Return the images that a flow (a name or path for `find_model`) was trained on. Raises as `own_data.data_of`."""
    config = find_model(flow).config
    if config.codec is not None:
        raise ValueError(f"{flow} is a flow of latents; ways of inverting are compared on flows of pixels")
    return own_data.data_of(flow, config)


def noise(
    flow: TarFlow, num: int, seed: int, first: int = 0
) -> tuple[Float[Tensor, "n t d"], Int[Tensor, " n"] | None]:
    """Return z of the images first ... first + num - 1 of a seed, as in `labcore.sample`, and their alternating classes."""
    c = flow.config
    z = prior_noise(flow, seed, range(first, first + num))
    y = torch.arange(first, first + num, device=flow.device) % c.num_classes if c.num_classes else None
    return z * flow.prior_var.sqrt(), y


def draw(way: Way, flow: TarFlow, num: int, seed: int, moments: Moments | None = None) -> ImageData:
    """Draw `num` uint8 images with alternating classes; z is the same for every way.

    moments: mean and standard deviation of z, to use instead of the prior's 0 and 1; default None.
    """
    parts = []
    for start in range(0, num, BATCH):
        z, y = noise(flow, min(BATCH, num - start), seed, start)
        z = z if moments is None else moments.mean + moments.std * z
        parts.append(_as_pixels(flow, way.image(z, y)))
    classes = max(flow.config.num_classes, 1)
    return ImageData(torch.cat(parts), torch.arange(num) % classes, tuple(map(str, range(classes))), "samples", "drawn")


def bring_back(way: Way, flow: TarFlow, data: Dataset, num: int, seed: int) -> ImageData:
    """Encode up to `num` images of `data` with training noise, and reconstruct them by `way`, as uint8.

    Labels are those of the encoded images; 0 if the flow has no classes.
    """
    x, y = some_images(flow, data, num)
    parts = []
    for start in range(0, len(x), BATCH):
        rows = slice(start, start + BATCH)
        labels = None if y is None else y[rows]
        parts.append(_as_pixels(flow, way.image(_encoded(flow, x[rows], labels, seed, start), labels)))
    labels = torch.zeros(len(x), dtype=torch.long) if y is None else y.cpu()
    names = tuple(map(str, range(max(flow.config.num_classes, 1))))
    return ImageData(torch.cat(parts), labels, names, "samples", "brought back")


class Moments(NamedTuple):
    """Mean and standard deviation of each value of encoded z (t, d), over images."""

    mean: Float[Tensor, "t d"]
    std: Float[Tensor, "t d"]

    def summary(self) -> dict[str, float]:
        """Compare z with N(0, 1): root mean square of the means, and smallest, mean and largest standard deviation."""
        return {
            "mean_rms": float(self.mean.square().mean().sqrt()),
            "std_least": float(self.std.min()),
            "std_mean": float(self.std.mean()),
            "std_most": float(self.std.max()),
        }


@torch.no_grad()
def z_moments(flow: TarFlow, data: Dataset, num: int, seed: int) -> Moments:
    """Return the moments of z of up to `num` images of `data`, encoded with training noise. ValueError below 2 images."""
    x, y = some_images(flow, data, num)
    if len(x) < 2:
        raise ValueError(f"moments of z were asked for over {len(x)} images; give at least 2")
    z = torch.cat(
        [
            _encoded(flow, x[start : start + BATCH], None if y is None else y[start : start + BATCH], seed, start)
            for start in range(0, len(x), BATCH)
        ]
    )
    return Moments(z.mean(0), z.std(0))


@torch.no_grad()
def _encoded(flow: TarFlow, x: Tensor, y: Tensor | None, seed: int, first: int) -> Float[Tensor, "n t d"]:
    """Return z of images with training noise; image i has the noise of image first + i of the seed."""
    eps = normal_per_item(seed, "ways", range(first, first + len(x)), tuple(x.shape[1:])).to(x)
    return flow(x + flow.config.noise_std * eps, y).z


def _as_pixels(flow: TarFlow, x: Tensor) -> Tensor:
    return to_uint8(to_pixels(flow, x).clamp(-1, 1)).cpu()


def keep_drawn(
    run: str | Path,
    name: str,
    drawn: ImageData,
    by: TarFlow | BackwardModel,
    flow: TarFlow,
    data: Data,
    taught: Sequence[str],
    seed: int,
) -> Path:
    """Store the images that the way `name` drew by the model `by`, as `labcore.experiments.drawn.keep`; return the path."""
    made = {"seed": seed, "way": name, "from": drawn.split, "model": weights_hash(by), "flow": weights_hash(flow)}
    return keep(run, name, drawn, made, DataConfig(**data._asdict()), flow.config, taught)


@torch.no_grad()
def inversion_errors(way: Way, flow: TarFlow, test: Dataset, num: int, seed: int) -> dict[str, float]:
    """Measure the errors of a way as an inverse, for pixels in [-1, 1]:

    image_mse     mean squared error of held-out images that are encoded with training noise and reconstructed
    cycle_rms     RMS of F(x^0) - z for z from the prior and the noisy state x^0; left out if x^0 was not trained
    nats_per_dim  of drawn images under the flow; training noise is added if they were denoised
    """
    x, y = some_images(flow, test, num)
    eps = normal_per_item(seed, "ways", range(len(x)), tuple(x.shape[1:])).to(x)
    back = way.image(flow(x + flow.config.noise_std * eps, y).z, y)
    z, drawn_as = noise(flow, len(x), seed)
    drawn = way.run(z, drawn_as)
    as_seen = drawn.x.clamp(-1, 1) + flow.config.noise_std * eps if way.denoised else drawn.x
    found = {
        "image_mse": float((back - x).square().mean()),
        "nats_per_dim": float(-flow.log_prob(as_seen, drawn_as).mean() / flow.config.dims),
    }
    if drawn.noisy is not None:
        found["cycle_rms"] = float((flow(drawn.noisy, drawn_as).z - z).square().mean().sqrt())
    return found


def quality(
    drawn: ImageData,
    data: Data,
    classifier: Classifier | None,
    metrics: list[str],
    seed: int,
    device: Any,
    model: HasClasses | None = None,
) -> dict[str, float]:
    """Return `labcore.evaluate.values.metric_values` of drawn images by full names, and the share that is recognised.

    model: the model whose classes number the labels of the drawn images; None (default): the data's classes.
    """
    found = metric_values(drawn, data, metrics, seed, device, model) if metrics else {}
    if classifier is not None:
        found["recognised"] = recognised(classifier, to_float(drawn.images), drawn.labels).accuracy
    return found


def edits(
    way: Way, flow: TarFlow, test: Dataset, num: int, classifier: Classifier | None, seed: int
) -> dict[str, float]:
    """Edit held-out images, and judge them by the classifier: change their class, and inpaint their lower half.

    Returns for pixels in [-1, 1], or {} for a flow without classes:
        edit_recognised: share recognised as the new class, which is the next one in order.
        edit_rms: root mean square distance from the source.
        inpaint_recognised: share recognised as the source's class.
        inpaint_known_rms: root mean square distance at known pixels.
    """
    k = flow.config.num_classes
    if not k:
        return {}
    x, y = some_images(flow, test, num)
    new = (y + 1) % k
    edited = change_class(flow, way.image, x, y, new, seed).clamp(-1, 1)
    known = upper_half(flow)
    filled = inpaint(flow, way.image, x, known, y, seed).clamp(-1, 1)
    found = {
        "edit_rms": float((edited - x).square().mean().sqrt()),
        "inpaint_known_rms": float((filled - x)[..., known].square().mean().sqrt()),
    }
    if classifier is not None:
        found["edit_recognised"] = recognised(classifier, edited, new).accuracy
        found["inpaint_recognised"] = recognised(classifier, filled, y).accuracy
    return found


@torch.no_grad()
def changed_rows(way: Way, flow: TarFlow, test: Dataset, num: int, seed: int) -> list[float]:
    """Return the mean |inpainted - source| of each row of pixels, on [-1, 1]; the upper half was known."""
    x, y = some_images(flow, test, num)
    filled = inpaint(flow, way.image, x, upper_half(flow), y, seed).clamp(-1, 1)
    return (filled - x).abs().mean((0, 1, 3)).tolist()


def upper_half(flow: TarFlow) -> Bool[Tensor, "h w"]:
    """Return a mask (h, w) for inpainting, True in the upper half of the rows of tokens. Raises ValueError for one row."""
    c = flow.config
    if c.rows_columns[0] < 2:
        raise ValueError("images of one row of tokens have no upper half; give smaller patches")
    known = torch.zeros(*c.image_shape[1:], dtype=torch.bool, device=flow.device)
    known[: c.rows_columns[0] // 2 * c.patch_size] = True
    return known


def nearest(drawn: Dataset, train: Dataset, num: int) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Return row and RMS distance, on [-1, 1], of the nearest training image of each of the first `num` drawn images."""
    first = drawn.__getitems__(range(min(num, len(drawn))))[0]
    a, b = to_float(first).flatten(1), to_float(to_memory(train).images).flatten(1)
    distances, rows = torch.cdist(a, b).min(1)
    return rows, distances / a.shape[1] ** 0.5


def seconds(ways: Mapping[str, Way], flow: TarFlow, batch: int, repeats: int = 3) -> dict[str, float]:
    """Measure the median seconds of a batch for each way; ways are timed in turn."""
    z, y = noise(flow, batch, 0)
    times = alternate({name: partial(way.image, z, y) for name, way in ways.items()}, repeats, warmup=0)
    return {name: timing.seconds for name, timing in times.items()}


def denoiser_flops(model: BackwardModel, flow: TarFlow) -> dict[str, int]:
    """FLOPs of one image's denoising: by the last block of a student, and by the flow's score, forward and backward."""
    z, y = noise(flow, 1, 0)
    c = model.config
    handed_on = z if c.handover == "state" else z.new_zeros(1, c.tokens, c.width)
    with torch.no_grad():
        block = count_flops(lambda: model.heads[-1](model.blocks[-1](handed_on, y)))
    with torch.enable_grad():
        x = flow.unpatchify(z).requires_grad_()
        score = count_flops(lambda: torch.autograd.grad(flow.log_prob(x, y).sum(), x))
    return {"learned block": block, "score": score}


def paper_flops(size: str = "b") -> dict[str, int]:
    """Count the FLOPs of one 256x256 image at BiFlow's size B (or "l", "xl"); a multiply-add counts as two.

    Nothing is computed (meta device). The decoder is Stable Diffusion's, from 4 x 32 x 32 latents to images.
    """
    from diffusers import AutoencoderKL

    kinds = {
        f"{way}_block_types": (f"{name}Block2D",) * 4 for way, name in (("down", "DownEncoder"), ("up", "UpDecoder"))
    }
    with torch.device("meta"), torch.no_grad():
        flow = TarFlow(TarFlowConfig(**LATENTS, **SIZES[size], **MODERN))
        model = BackwardModel(BackwardConfig(**LATENTS, **SIZES[size]))
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=256, **kinds)
        z, y = noise(flow, 1, 0)
        found = {"one pass of the learned inverse": count_flops(lambda: model(z, y))}
        found["one pass of the flow"] = count_flops(lambda: flow(flow.unpatchify(z), y))
        found |= denoiser_flops(model, flow)
        found["VAE decoder"] = count_flops(lambda: vae.decode(flow.unpatchify(z)))
    return found


def some_images(flow: TarFlow, data: Dataset, num: int) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"] | None]:
    """Return up to `num` evenly spread images on the flow's device, and their classes, or None for a flow without classes."""
    batch = spread_images(data, num, flow.config.num_classes > 0, flow.device)
    return batch.x, batch.y
