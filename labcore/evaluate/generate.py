"""Images drawn for an evaluation: uint8 on disk, in fixed chunks by index, resumable, shared by several processes.

Image i depends only on the weights, the settings, (seed, i) and the code (`SAMPLE_VERSION`). It is rounded to uint8 as in
a PNG, because published numbers are computed on such images. Chunks are part of the key. With equal chunks and one number
of threads the images are bit-identical for any division of the work. Other chunks change float images by rounding only,
and sometimes a pixel by 1. So does the way in which single tokens are computed, which is part of the key unless it is the
plain one. On CUDA a chunk is drawn in parts if half of the free memory does not hold it: again only rounding, and not
part of the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int, Int64, UInt8
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from labcore import provenance, tf32
from labcore.config import Config, TokensConfig
from labcore.data.class_names import matched
from labcore.data.picture_set import HeldPictures, with_values
from labcore.data.protocol import Dataset
from labcore.data.transforms import to_uint8
from labcore.files import cache_folder, sha256_of
from labcore.flows.tarflow import TarFlow
from labcore.inverse.denoise import noise_level
from labcore.inverse.methods import Method, Solver
from labcore.inverse.sample import SAMPLE_VERSION, Sampler, check_one_pass, sample
from labcore.inverse.score_denoised import ScoreDenoised
from labcore.inverse.solve import way_of
from labcore.latents import codec_of, pixel_shape, to_pixels
from labcore.progress import Progress
from labcore.store import Rows, Store

MOST = 1_000_000
"""Images of one drawing; our choice, 20 times what papers draw."""
GOLDEN = (5**0.5 - 1) / 2
"""1 / golden ratio: its multiples, taken modulo 1, fill [0, 1) most evenly."""
EXACT_ONLY = ("noise_std", "guidance_schedule", "attn_temp", "solver", "compiled")
"""Settings of a flow's exact inverse that a learned one does not have."""


class Sampling(Config):
    """Settings of sampling. The defaults are `labcore.sample`'s, with every class in turn."""

    num: PositiveInt = Field(le=MOST)  # how many images
    classes: Literal["each", "none", "data"] | tuple[int, ...] = "each"  # in turn; none; as in data; or these in turn
    class_counts: tuple[NonNegativeInt, ...] | None = None  # for "data": images of each class; `as_in` fills it in
    guidance: float = 0.0  # g in c + g (c - u); 0 is off
    guidance_schedule: Literal["constant", "linear"] = "constant"
    attn_temp: PositiveFloat = 1.0  # of the unconditional branch
    noise_std: NonNegativeFloat | None = None  # denoising; None: as the flow was trained, 0: none
    solver: Solver | tuple[Method, ...] = "sequential"  # a name is exact; or a method for each block
    compiled: bool | None = None  # as in `labcore.invert`
    seed: int = 0
    chunk: PositiveInt = Field(default=100, le=10_000)  # images drawn at a time

    @model_validator(mode="after")
    def _fits(self) -> Sampling:
        if self.classes == ():
            raise ValueError('classes was empty; give "each", "none", "data", or class numbers')
        if self.class_counts is not None and (self.classes != "data" or not sum(self.class_counts)):
            raise ValueError(f'class_counts were {self.class_counts}; they need classes="data", and one image or more')
        return self

    def as_in(self, model: TokensConfig, train: Dataset) -> Sampling:
        """Replace the classes "data" by those of `train`: each class as often as there.

        Classes that are equally frequent come in turn, as "each". A model without classes draws without. Raises ValueError
        if the data has other classes than the model.
        """
        if self.classes != "data" or self.class_counts is not None:
            return self
        if not model.num_classes:
            return self.replace(classes="none")
        counts = tuple(matched(model, train).labels.bincount(minlength=model.num_classes).tolist())
        return self.replace(classes="each") if len(set(counts)) == 1 else self.replace(class_counts=counts)

    def labels(self, flow: Sampler, part: range) -> Int64[Tensor, " b"] | None:
        """Return the classes of the images `part`; None if they have none. ValueError for "data" before `as_in`.

        In the proportions of data, image i has the class in whose share of [0, 1) the fractional part of i / golden ratio
        lies. So each part of the images has these proportions, up to few images.
        """
        k = flow.config.num_classes
        if self.classes == "data":
            if self.class_counts is None:
                raise ValueError('classes "data" needs the data: use sampling.as_in(model.config, train_set)')
            ends = torch.tensor(self.class_counts, dtype=torch.float64).cumsum(0)
            place = (torch.tensor(part, dtype=torch.float64) + 0.5) * GOLDEN % 1 * ends[-1]
            return torch.searchsorted(ends, place, right=True).clamp(max=len(ends) - 1)  # place may round to the end
        if self.classes == "none" or (self.classes == "each" and k == 0):
            return None
        cycle = torch.arange(k) if self.classes == "each" else torch.tensor(self.classes)
        return cycle[torch.tensor(part) % len(cycle)]

    def describe(self, flow: Sampler) -> dict[str, Any]:
        """Return the settings as they apply to `flow`, for records and for the key of the images.

        A student lacks `EXACT_ONLY`; `denoised_by` is the flow whose score denoises its images, if there is one.
        For latents, the decoder is included. `compiled` is the resulting way on the flow's device
        (`labcore.inverse.solve.way_of`). It is left out if that is "plain", so older images and records have the same
        description. Errors as `noise_level`, or as `check_one_pass`.
        """
        classes = "none" if flow.config.num_classes == 0 and self.classes == "each" else self.classes
        values = {**self.model_dump(mode="json"), "classes": classes}
        if self.class_counts is None:  # left out, so that older images and records have the same description
            del values["class_counts"]
        if flow.config.codec is not None:
            values["decoded_by"] = codec_of(flow.config).recipe()
        if flow.device.type == "cuda" and tf32.describe() != "off":
            values["tf32"] = tf32.describe()
        if isinstance(flow, TarFlow):
            values["noise_std"] = noise_level(flow, self.noise_std)
            values["compiled"] = way_of(flow, self.solver, self.compiled)
            if values["compiled"] == "plain":
                del values["compiled"]
            return values
        check_one_pass(**{name: values.pop(name) for name in EXACT_ONLY})
        if isinstance(flow, ScoreDenoised):
            values["denoised_by"] = flow.denoised_by()
        return values


class SampleSet(HeldPictures):
    """Drawn images, a `labcore.data.Dataset`: uint8 (n, c, h, w), mapped from disk, and labels (n,), -1 for no class.

    classes: names of the classes that the labels number. made: how the images were drawn, JSON values.
    """

    def __init__(self, store: Store, labels: Int64[Tensor, " n"], classes: tuple[str, ...], made: dict[str, Any]):
        self.store, self.labels, self.classes, self.made = store, labels, classes, made
        self.images: UInt8[Tensor, "n c h w"] = store["images"]
        self.name, self.split = "samples", store.folder.name
        self._chosen: tuple[list[int], ...] = ()  # rows of subsets

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> SampleSet:
        """Return the images at `indices`, in that order, in memory. Errors as `HeldPictures.subset`."""
        return with_values(super().subset(indices), _chosen=(*self._chosen, torch.as_tensor(indices).tolist()))

    def fingerprint(self) -> str:
        """Return digits that are equal for equal settings and weights."""
        name = self.store.folder.name
        return sha256_of([name, *self._chosen])[:16] if self._chosen else name

    @property
    def image_size(self) -> int:
        """Pixels along a side; ValueError for images that are not square, which measures require."""
        height, width = self.images.shape[-2:]
        if height != width:
            raise ValueError(f"samples of {height} x {width} pixels are not square; measures of them need that")
        return width


def generate(
    flow: Sampler, sampling: Sampling, root: Path | None = None, progress: Progress | None = None
) -> SampleSet:
    """Draw the images that are not on disk yet, and return all of them.

    flow: a flow, or the student of one. root: default samples/ in the cache folder. Raises ValueError for
    settings that do not fit the model, before the first image, and for images with NaN.
    """
    made, c = sampling.describe(flow), flow.config
    k = c.num_classes
    if isinstance(sampling.classes, tuple) and not all(0 <= y < k for y in sampling.classes):
        has = f"classes 0..{k - 1}" if k else "no classes"
        raise ValueError(f"classes were {sampling.classes}, and the model has {has}")
    if sampling.class_counts is not None and len(sampling.class_counts) != k:
        raise ValueError(f"class_counts were {sampling.class_counts}, and the model has {k} classes")

    def draw(part: range) -> dict[str, Tensor]:
        images = sample(
            flow,
            len(part),
            sampling.labels(flow, part),
            sampling.guidance,
            made.get("noise_std"),
            sampling.seed,
            sampling.chunk,
            guidance_schedule=sampling.guidance_schedule,
            attn_temp=sampling.attn_temp,
            solver=sampling.solver,
            compiled=sampling.compiled,
            first=part.start,
        )
        return {"images": to_uint8(to_pixels(flow, images))}

    key = {"what": "samples", "version": SAMPLE_VERSION, "model": provenance.weights_hash(flow)}
    key |= {"config": c.computation(), **made}
    store = Store(
        root or cache_folder() / "samples",
        "samples",
        key,
        sampling.num,
        {"images": Rows(pixel_shape(c), "uint8")},
        sampling.chunk,
    )
    everything = sampling.labels(flow, range(sampling.num))  # after the store, which knows whether there is room
    labels = torch.full((sampling.num,), -1) if everything is None else everything
    classes = c.class_names or tuple(map(str, range(k)))
    return SampleSet(store.fill(draw, progress), labels, classes, {**made, "model": key["model"]})
