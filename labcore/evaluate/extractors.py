"""Feature extractors of the fidelity metrics; the first two are registered with torch-fidelity.

    inception   torch-fidelity's Inception (the TensorFlow graph of 2015-12-05, converted), the one that published FID, sFID and
                IS are made with; 1 x 2048 pooled, 17 x 17 x 7 spatial, 1008 unbiased logits; its metrics have no suffix
    efflite0    the embedded encoder, EfficientNet-Lite0: 1280 pooled, 14 x 14 x 7 spatial, 1000 logits; its metrics are named
                fid_efflite0 and so on, and cannot be compared with Inception's
    classifier  the classifier that ships, trained on Fashion-MNIST alone: 64 pooled (its penultimate layer), 14 x 14 x 7
                spatial, 10 logits; grey images only. It taught no flow, unless a run names it as its encoder. Its metrics
                are named fid_classifier and so on. Images are resized to 28 pixels as the classifier resizes them (bilinear,
                antialiased): 28x28 images stay as they are, 16x16 images are enlarged. Half of its training images were
                reduced to 16 pixels and enlarged again in the same way, so it knows such images

Spatial features (for sFID) follow ADM's evaluator (guided-diffusion, evaluations/evaluator.py): the first 7 channels of the
graph's node mixed_6/conv, which torch-fidelity's conversion calls Mixed_6d.branch1x1; that the node is the output after
the ReLU is read off the names of the graph, not checked against TensorFlow. The evaluator flattens an array (n, 17, 17, 7):
positions first, channels last. For efflite0 and the classifier the 7 channels of the 14 x 14 stage are our choice after that
pattern.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from labcore import encoders
from labcore.config import BaseRunConfig
from labcore.provenance import file_hash
from labcore.weight_files import find_file, read_weights

NAMES = ("inception", "efflite0", "classifier")
POOL, SPATIAL, LOGITS = "pool", "spatial", "logits"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SOURCE = (
    "at https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_HASH = "6726825d"
"""First digits of the file's sha256, which its name carries."""

FEATURE_VERSION = 2
"""Version of all features. It is part of the key of stored features and of statistics; those of another version are rejected or
made again. Raise it with every change to the values or to their order. Version 1 flattened spatial features channels first."""

_LAYERS = {
    "inception": {POOL: ("2048", 2048), SPATIAL: ("spatial", 7 * 17 * 17), LOGITS: ("logits_unbiased", 1008)},
    "efflite0": {POOL: ("pool", 1280), SPATIAL: ("spatial", 7 * 14 * 14), LOGITS: ("logits", 1000)},
    "classifier": {POOL: ("pool", 64), SPATIAL: ("spatial", 7 * 14 * 14), LOGITS: ("logits", 10)},
}
"""Our name of a layer -> (the registered extractor's name, values)."""

ENCODERS = {"efflite0": "efficientnet-lite0", "classifier": "fashion-classifier"}
"""Extractors that are encoders of `labcore.encoders`, which may also have taught a flow."""
GREY_ONLY = ("classifier",)
"""Extractors that take images of one channel only."""


def networks_of(config: BaseRunConfig) -> tuple[str, ...]:
    """Return the names of the frozen networks whose features are in a run's loss: of alignment and of perceptual distances."""
    aligned = () if config.encoder is None else (config.encoder.encoder,)
    return (*aligned, *(ENCODERS.get(name, name) for name in config.distances))


class Extractor:
    """A frozen network from uint8 images to the features that metrics are computed on.

    Attributes:
        name: one of NAMES, or a test's own.
        suffix: end of its metrics' names.
        widths: values of pool, spatial and logits.
        identity: name, weights hash, resize and FEATURE_VERSION; statistics can be compared only if these are equal.
    """

    def __init__(self, name: str, module: Any, widths: dict[str, int], weights: str, resize: str):
        self.name, self.module, self.widths = name, module, widths
        self.device = torch.device("cpu")
        self.identity = {
            "extractor": name,
            "weights": weights,
            "resize": resize,
            "feature_version": FEATURE_VERSION,
        }

    @property
    def suffix(self) -> str:
        return suffix_of(self.name)

    def to(self, device: torch.device | str) -> Any:
        self.module.to(device)
        self.device = torch.device(device)
        return self

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b d"]]:
        """Return {layer: (b, d) float32}; grey images are repeated to RGB."""
        if images.dtype != torch.uint8:
            raise ValueError(f"images have dtype {images.dtype}; extractors take uint8 0..255")
        check_channels(self.name, images.shape[1])
        images = images.to(self.device)
        repeated = images.shape[1] == 1 and self.name not in GREY_ONLY
        outputs = self.module(images.expand(-1, 3, -1, -1) if repeated else images)
        return dict(zip(self.widths, outputs, strict=True))


def check_channels(name: str, channels: int) -> None:
    """Raise ValueError for colour images if the extractor `name` takes only grey ones."""
    if name in GREY_ONLY and channels != 1:
        raise ValueError(
            f"images have {channels} channels; extractor {name!r} takes grey images only: use "
            f"{' or '.join(other for other in NAMES if other not in GREY_ONLY)}"
        )


def suffix_of(name: str) -> str:
    """Return the suffix of an extractor's metrics; empty for Inception, as in publications."""
    return "" if name == "inception" else f"_{name}"


def widths_of(name: str) -> dict[str, int]:
    """Return the values of pool, spatial and logits of one of NAMES."""
    return {layer: width for layer, (_, width) in _LAYERS[name].items()}


def load_extractor(name: str, weights: str | Path | None = None) -> Extractor:
    """Load the extractor `name` on the CPU, with weights from `weights` or from where `labcore.encoders` finds them.

    Raises ValueError for an unknown name or a wrong file, and FileNotFoundError (at once) that says which file to get.
    """
    if name not in NAMES:
        raise ValueError(f"extractor {name!r} is unknown; the names are {', '.join(NAMES)}")
    from torch_fidelity.utils import create_feature_extractor

    classes = _register()
    layers = widths_of(name)
    features = [registered for registered, _ in _LAYERS[name].values()]
    if name == "efflite0":
        encoder = encoders.load("efficientnet-lite0", weights)
        module = classes["efflite0"]("efflite0", features, encoder=encoder)
        resize = "bicubic, antialiased, to 224"
        return Extractor(name, module, layers, encoder.weights_hash, resize)
    if name == "classifier":
        encoder = encoders.load(ENCODERS[name], weights)
        resize = "bilinear, antialiased, to 28"
        return Extractor(name, _OfClassifier(encoder), layers, encoder.weights_hash, resize)
    path = find_inception(weights)
    module = create_feature_extractor(
        "inception-v3-adm", features, cuda=False, feature_extractor_weights_path=str(path), verbose=False
    )
    return Extractor(name, module, layers, file_hash(path), "bilinear to 299 as TensorFlow 1, in the graph")


def find_inception(path: str | Path | None = None) -> Path:
    """Find torch-fidelity's weight file, and check that it loads without running code and has the hash of its name."""
    found = find_file(INCEPTION_FILE, INCEPTION_SOURCE, path, [Path(torch.hub.get_dir()) / "checkpoints"])
    if not file_hash(found).startswith(INCEPTION_HASH):
        raise ValueError(
            f"{found} is not {INCEPTION_FILE}: its sha256 begins with {file_hash(found)[:8]}, not {INCEPTION_HASH}. Other "
            f"weights give numbers that cannot be compared; get the file from {INCEPTION_SOURCE}"
        )
    read_weights(found)  # torch-fidelity unpickles it without limits; this refuses anything but tensors first
    return found


def spatial_features(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    """Return the first 7 channels, flattened as ADM's evaluator does: by row, column, then channel."""
    return maps[:, :7].permute(0, 2, 3, 1).flatten(1)


class _OfClassifier(nn.Module):
    """The shipped classifier: uint8 (b, 1, h, w) to a tuple of features."""

    def __init__(self, encoder: encoders.Encoder):
        super().__init__()
        self.encoder = encoder

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:  # the encoder is not a submodule
        self.encoder.to(fn(torch.empty(0)).device)
        return super()._apply(fn, *args, **kwargs)

    def forward(self, x: UInt8[Tensor, "b 1 h w"]) -> tuple[Tensor, Tensor, Tensor]:
        out = self.encoder.outputs(x.float() / 127.5 - 1, widths=(32,))
        return out.pooled, spatial_features(out.maps[32]), out.logits


@cache
def _register() -> dict[str, type]:
    """Register inception and efflite0 with torch-fidelity, once per process; return {registered name: class}."""
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class InceptionAdm(FeatureExtractorInceptionV3):
        """Inception with "spatial", caught on the way to the pooled features."""

        def __init__(self, name, features_list, **options):
            self.asked = list(features_list)
            inner = [feature for feature in features_list if feature != "spatial"] or ["2048"]
            super().__init__(name, inner, **options)
            self.inner, self.caught = inner, None
            self.features_list = self.asked  # what torch-fidelity names the outputs by
            self.Mixed_6d.branch1x1.register_forward_hook(self._catch)

        def _catch(self, module, inputs, output):
            self.caught = spatial_features(output).float()

        def forward(self, x):
            self.features_list = self.inner
            try:
                outputs = dict(zip(self.inner, super().forward(x), strict=True))
                outputs["spatial"] = self.caught
            finally:
                self.features_list, self.caught = self.asked, None
            return tuple(outputs[feature] for feature in self.asked)

        @staticmethod
        def get_provided_features_list():
            return (*FeatureExtractorInceptionV3.get_provided_features_list(), "spatial")

    class EffLite0(FeatureExtractorBase):
        """The embedded encoder as torch-fidelity calls it: uint8 (b, 3, h, w) to a tuple of features."""

        def __init__(self, name, features_list, feature_extractor_weights_path=None, encoder=None, **_):
            super().__init__(name, features_list)
            self.encoder = encoder or encoders.load("efficientnet-lite0", feature_extractor_weights_path)

        def _apply(self, fn, *args, **kwargs):  # the encoder is not a submodule
            self.encoder.to(fn(torch.empty(0)).device)
            return super()._apply(fn, *args, **kwargs)

        def forward(self, x):
            out = self.encoder.outputs(x.float() / 127.5 - 1)
            found = {"pool": out.pooled, "spatial": spatial_features(out.maps[112]), "logits": out.logits}
            return tuple(found[feature] for feature in self.features_list)

        @staticmethod
        def get_provided_features_list():
            return ("pool", "spatial", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "pool"

        @staticmethod
        def can_be_compiled():
            return False

        @staticmethod
        def get_dummy_input_for_compile():
            return torch.zeros(1, 3, 224, 224, dtype=torch.uint8)

    register_feature_extractor("inception-v3-adm", InceptionAdm)
    register_feature_extractor("efflite0", EffLite0)
    return {"inception-v3-adm": InceptionAdm, "efflite0": EffLite0}
