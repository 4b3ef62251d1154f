"""Frozen encoders: images in, patch tokens, pooled features and class logits out. Differentiable in the images.

All methods take float images x (b, c, h, w) in [-1, 1], grey or RGB, of any size. Preparation: the image is squeezed to a
square (bicubic, antialiased, not clipped), so token (i, j) covers the same part of an image of any shape. Grey is
repeated to RGB. Then (x + 1) / 2, and mean and std of the encoder. FlowBack and REPA resize after normalising; the result
is equal, because a resize is linear and its weights sum to one. The lab's classifier resizes bilinearly, and takes only
grey images. Antialiasing is our choice (REPA's code resizes without it).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from labcore.encoders import specs
from labcore.encoders.specs import EncoderSpec, Stage
from labcore.encoders.weights import check_encoder_weights, find_encoder_weights, load_encoder_weights
from labcore.finite import check_result, is_looked_at, require_finite
from labcore.memory import keep_freed_memory
from labcore.nn.classifier import Classifier, ClassifierConfig
from labcore.provenance import file_hash
from labcore.weight_files import read_weights


class EncoderOutput(NamedTuple):
    """Results of one pass.

    Attributes:
        maps: {width of the stage: (b, width, g, g)}.
        pooled: (b, p), see `EncoderSpec.pool`.
        logits: (b, k) of the classifier; None if the encoder has none.
    """

    maps: dict[int, Tensor]
    pooled: Tensor
    logits: Tensor | None


ENCODER_VERSION = 1
"""Version of `Encoder.tokens` and `Encoder.pooled`, a part of the key of stored features. Raise it with every change after
which equal images and weights give other values."""


class Encoder:
    """A frozen timm network in eval mode. Create one with `load` or `untrained`.

    It is not an nn.Module, on purpose: as an attribute of a model it never becomes a submodule, so it is not trained, not
    moved by mistake, and never in a checkpoint. Its parameters get no gradient; gradients reach x if x requires them.
    Images are converted to float32 and moved to the encoder's device. Features are not normalised.
    """

    def __init__(self, spec: EncoderSpec, model: nn.Module, weights_hash: str):
        self.spec, self.weights_hash = spec, weights_hash
        self._model = model.eval().requires_grad_(False)
        self._widths = [level["num_chs"] for level in model.feature_info] if spec.kind == "cnn" else []
        self.to("cpu")

    def to(self, device: torch.device | str) -> Encoder:
        """Move the network and return self.

        On the CPU, CNNs are channels_last and freed memory is kept; each halves the time.
        """
        self.device = torch.device(device)
        self._model.to(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.spec.kind == "cnn":
            self._model.to(memory_format=self._layout)
        return self

    def __repr__(self) -> str:
        return f"Encoder({self.spec.name}, weights {self.weights_hash}, {self.device})"

    def tokens(self, x: Float[Tensor, "b c h w"], grid: int, stage: int | None = None) -> Float[Tensor, "b t d"]:
        """Return patch tokens (b, grid * grid, d) in raster order, without class and register tokens.

        `EncoderSpec.token_layout` chooses the stage and the input size; a ViT's positional embeddings are resampled to
        the input. A finer map is averaged down to the grid (adaptive average pooling: windows overlap if grid does not
        divide).

        Args:
            x: images (b, c, h, w) in [-1, 1].
            grid: tokens along a side, 1 or more.
            stage: width of the stage, to choose one; default None.

        Raises:
            ValueError: grid, stage or images do not fit.
        """
        layout = self.spec.token_layout(grid, stage)
        x = self.to_encoder_input(x, layout.input_size)
        if self.spec.kind == "vit":
            features = self._vit(x, [layout.stage]).maps[layout.stage.width]
        else:
            features = self._cnn_map(x, layout.stage)
        if features.shape[-1] != grid:
            features = F.adaptive_avg_pool2d(features, grid)
        return self._looked_at(features.flatten(2).transpose(1, 2))

    def token_width(self, grid: int, stage: int | None = None) -> int:
        """Return d of `tokens`."""
        return self.spec.token_layout(grid, stage).stage.width

    def describe(self, grid: int, stage: int | None = None) -> str:
        """Describe in words how `tokens` are made."""
        layout = self.spec.token_layout(grid, stage)
        pooled = f" averaged from {layout.stage_grid}x{layout.stage_grid}" if layout.stage_grid != grid else ""
        return (
            f"{self.spec.name}: {layout.stage.width} channels of stride {layout.stage.stride}, input {layout.input_size}, "
            f"{grid}x{grid} tokens{pooled}"
        )

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p"]:
        """Return one feature vector per image, (b, p), at the native input size; `EncoderSpec.pool` describes it."""
        return self.outputs(x, widths=()).pooled

    def logits(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return class logits (b, k) at the native input size; ValueError if the encoder has no classifier."""
        if not self.spec.num_classes:
            raise ValueError(f"{self.spec.name} has no classifier; efficientnet-lite0 has one")
        return self.outputs(x, widths=()).logits

    def outputs(self, x: Float[Tensor, "b c h w"], widths: Sequence[int] | None = None) -> EncoderOutput:
        """Return maps, pooled features and logits of one pass at the native input size.

        Args:
            x: images (b, c, h, w) in [-1, 1].
            widths: stages whose maps are returned; default, the stages that tokens are taken from by default.
        """
        if widths is None:
            stages = [stage for stage in self.spec.stages if stage.by_default]
        else:
            stages = [self.spec.stage(width) for width in widths]
        x = self.to_encoder_input(x)
        found = self._vit(x, stages) if self.spec.kind == "vit" else self._cnn(x, stages)
        self._looked_at(found.pooled)
        return found

    def maps(
        self, x: Float[Tensor, "b c h w"], widths: Sequence[int], size: int | None = None
    ) -> dict[int, Float[Tensor, "b d g g"]]:
        """Return a CNN's feature maps of the given widths at an input of `size` pixels; later stages are not computed."""
        indices = [self._widths.index(width) for width in widths]
        found = self._model.forward_intermediates(
            self.to_encoder_input(x, size), indices=indices, stop_early=True, intermediates_only=True
        )
        return dict(zip(widths, found, strict=True))

    def to_encoder_input(self, x: Float[Tensor, "b c h w"], size: int | None = None) -> Float[Tensor, "b c2 s s"]:
        """Return the network's input: (b, 3, size, size), normalised; size None is the native one.

        An encoder of grey images gets (b, 1, size, size). Raises ValueError unless x is (b, c, h, w), floating, not
        empty, and has 1 channel or as many as the network; on the CPU, for NaN and infinity too.
        """
        channels = len(self.spec.mean)
        if x.ndim != 4 or not x.is_floating_point() or x.numel() == 0 or x.shape[1] not in (1, channels):
            raise ValueError(
                f"{self.spec.name} was given {x.dtype} of shape {tuple(x.shape)}; it takes float images (b, c, h, w) in "
                f"[-1, 1] with c {'1' if channels == 1 else f'1 or {channels}'}, at least one. Convert uint8 with "
                "x.float() / 127.5 - 1"
            )
        if is_looked_at(x, training=x.requires_grad or x.device.type != "cpu"):
            require_finite(x, "x", "give images in [-1, 1]")
        size = self.spec.input_size if size is None else size
        x = x.to(self.device, torch.float32)
        if x.shape[-2:] != (size, size):
            x = F.interpolate(x, (size, size), mode=self.spec.interpolation, antialias=True)
        # broadcasting repeats grey to RGB here
        mean, std = _like(x, self.spec.mean), _like(x, self.spec.std)
        return (((x + 1) / 2 - mean) / std).contiguous(memory_format=self._layout)

    def _looked_at(self, found: Tensor) -> Tensor:
        """Return `found`; on the CPU raises `labcore.finite.NotFinite` if it is not finite.

        Training steps encode too. So on a GPU, and if a gradient is required, the functions that keep or measure features
        check them instead (`labcore.derived`, `labcore.evaluate`).
        """
        if is_looked_at(found, training=found.requires_grad or found.device.type != "cpu"):
            check_result(found, self.spec.name, advice="give finite images in [-1, 1], or look at the weights")
        return found

    def recipe(self, grid: int | None = None, stage: int | None = None) -> dict[str, Any]:
        """Return everything but the images that determines the features, as JSON values for cache keys and records.

        It describes `tokens` if a grid is given, else `pooled`.
        """
        layout = None if grid is None else self.spec.token_layout(grid, stage)
        return {
            "encoder": self.spec.name,
            "model": self.spec.model,
            "options": dict(self.spec.options),
            "weights": self.weights_hash,
            "resize": f"{self.spec.interpolation}, antialiased, square",
            "input_size": self.spec.input_size if layout is None else layout.input_size,
            "mean": list(self.spec.mean),
            "std": list(self.spec.std),
            "what": f"pooled: {self.spec.pool}" if layout is None else "tokens",
            "grid": grid,
            "stage": None if layout is None else layout.stage.width,
        }

    def _vit(self, x: Tensor, stages: Sequence[Stage]) -> EncoderOutput:
        sequence, (_, _, height, width) = self._model.forward_features(x), x.shape
        patches = sequence[:, self._model.num_prefix_tokens :]
        pooled = sequence[:, 0] if self.spec.pool == "token" else patches.mean(1)
        maps = {s.width: patches.transpose(1, 2).unflatten(2, (height // s.stride, width // s.stride)) for s in stages}
        return EncoderOutput(maps, pooled, None)

    def _cnn(self, x: Tensor, stages: Sequence[Stage]) -> EncoderOutput:
        last, inner = self._model.forward_intermediates(x, indices=list(range(len(self._widths))))
        maps = {**dict(zip(self._widths, inner, strict=True)), last.shape[1]: last}
        pooled = self._model.forward_head(last, pre_logits=True)
        logits = self._model.get_classifier()(pooled) if self.spec.num_classes else None
        return EncoderOutput({s.width: maps[s.width] for s in stages}, pooled, logits)

    def _cnn_map(self, x: Tensor, stage: Stage) -> Tensor:
        """Return one map; later stages are not computed."""
        if stage.width not in self._widths:  # the last convolution, before pooling
            return self._model.forward_features(x)
        indices = [self._widths.index(stage.width)]
        return self._model.forward_intermediates(x, indices=indices, stop_early=True, intermediates_only=True)[0]

    @property
    def _layout(self) -> torch.memory_format:
        cnn_on_cpu = self.spec.kind == "cnn" and self.device.type == "cpu"
        return torch.channels_last if cnn_on_cpu else torch.contiguous_format


def load(
    name: str | EncoderSpec,
    weights: str | Path | None = None,
    download: bool = False,
    device: torch.device | str = "cpu",
) -> Encoder:
    """Load an encoder with its pretrained weights. Uses no network unless `download`.

    Args:
        name: name of the encoder, or its spec.
        weights: a file, or a folder with it, that `find_encoder_weights` would not find; default None.
        download: fetch a missing file from the Hugging Face hub; default False.
        device: where the encoder runs; default the CPU.

    Raises:
        ValueError: the name is unknown; the file is damaged or of another network; or a file is given for an encoder with
            random weights.
        FileNotFoundError: at once, if there is no file.
    """
    spec = specs.spec(name) if isinstance(name, str) else name
    if spec.seed is not None:
        check_encoder_weights(spec, weights)
        return untrained(spec, spec.seed).to(device)
    path = find_encoder_weights(spec, weights, download)
    state = read_weights(path)
    model = _build(spec)
    load_encoder_weights(model, state, path)
    return Encoder(spec, model, file_hash(path)).to(device)


def untrained(name: str | EncoderSpec, seed: int = 0) -> Encoder:
    """Return an encoder with random weights, for tests and as a baseline. Does not change the global generator.

    Equal seeds give equal weights for equal versions of torch and timm.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = specs.spec(name) if isinstance(name, str) else name
        return Encoder(spec, _build(spec), f"random-{seed}")


def _like(x: Tensor, values: Sequence[float]) -> Float[Tensor, "1 c 1 1"]:
    """Return one number per channel on x's device and in its dtype, without waiting for a GPU, as `x.new_tensor` would."""
    return torch.tensor(values, dtype=x.dtype).to(x.device, non_blocking=True).view(1, -1, 1, 1)


def _build(spec: EncoderSpec) -> nn.Module:
    if spec.model == specs.CLASSIFIER_MODEL:
        return Classifier(ClassifierConfig())
    try:
        import timm
    except ImportError as error:
        raise ImportError("encoders need timm: pip install timm") from error
    sizes = {"dynamic_img_size": True} if spec.kind == "vit" else {}
    return timm.create_model(spec.model, pretrained=False, num_classes=spec.num_classes, **sizes, **spec.options)
