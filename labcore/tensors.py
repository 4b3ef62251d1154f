"""Tensors in safetensors files, and whether they fit a model.

The file's header says names, shapes and formats before any value is read, so a configuration that claims other sizes is
refused before anything of these sizes is allocated. Files that `write_tensors` wrote carry a checksum of their values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Formats in which weights are stored."""
CHECKSUM = "sha256"
POSITIVE = ("prior_var",)
"""Tensors whose values must be above 0: variances."""
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What torch.compile, FSDP and activation checkpointing put into the names of a module that they wrap."""


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with a checksum of its values. Raises as safetensors' save_file.

    metadata: further texts for the file's header. Equal tensors and metadata make equal files, byte for byte.
    """
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={**(metadata or {}), "format": "pt", CHECKSUM: checksum(tensors)})
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Put a file's metadata into the order of their names: safetensors writes them in a random one."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # always so: it is the same text in another order
            file.seek(8)
            file.write(text.ljust(size))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises ValueError where the file is truncated, something else, or has changed since `write_tensors` wrote it.
    """
    from safetensors.torch import load_file

    tensors = _with_safetensors(path, lambda: load_file(path))
    expected = read_metadata(path).get(CHECKSUM)
    if expected not in (None, checksum(tensors)):
        raise ValueError(
            f"{path} is damaged: its values have changed since it was saved (sha256 differs); copy it again"
        )
    return tensors


def read_formats(path: Path) -> dict[str, str]:
    """Name -> format, as in "F32", of the tensors in a safetensors file, by its header. Raises as `read_shapes`."""
    from safetensors import safe_open

    def read() -> dict[str, str]:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118

    return _with_safetensors(path, read)


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file. Raises as `read_shapes`."""
    from safetensors import safe_open

    def read() -> dict[str, str]:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}

    return _with_safetensors(path, read)


def first_not_finite(tensors: Mapping[str, Tensor], formats: Mapping[str, torch.dtype] | None = None) -> str | None:
    """The first name whose values are not all finite, after conversion to its format where one is given; None without."""
    formats = formats or {}
    return next((k for k, x in tensors.items() if not bool(x.to(formats.get(k, x.dtype)).isfinite().all())), None)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in a safetensors file, by its header. Raises ValueError where that cannot be read."""
    from safetensors import safe_open

    def read() -> dict[str, tuple[int, ...]]:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    return _with_safetensors(path, read)


def check_architecture(build: Callable[[], nn.Module], least: int, shapes: Shapes, source: Path | str) -> None:
    """ValueError unless tensors of these shapes are the weights of what `build` makes; no memory is taken for them.

    least: a lower bound of the number of weights that `build` makes, from its configuration. It is compared first, so that a
    model of millions of layers is not built.
    """
    if least > len(shapes):
        raise ValueError(
            f"{source} does not fit its configuration (at least {least - len(shapes)} of {least} weights are missing): "
            "another architecture"
        )
    with torch.device("meta"):
        model = build()
    _check_shapes(model, shapes, source)


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Load `tensors` where names, shapes and formats fit and values are finite in the model's format.

    Raises one ValueError that says what differs.
    """
    _check_shapes(model, {name: tuple(x.shape) for name, x in tensors.items()}, source)
    own = model.state_dict()
    if strange := sorted(name for name, x in tensors.items() if x.dtype not in FLOATING):
        formats = sorted({str(tensors[name].dtype) for name in strange})
        raise ValueError(
            f"{source} holds {', '.join(formats)} in {len(strange)} tensors, first {strange[0]}; allowed are float16, "
            "bfloat16, float32 and float64: convert quantised weights back first"
        )
    bad = sorted(name for name, x in tensors.items() if not bool(x.to(own[name].dtype).isfinite().all()))
    if bad:
        raise ValueError(
            f"{source} holds NaN or infinity in {len(bad)} tensors, first {bad[0]}, as {own[bad[0]].dtype}; use an "
            "earlier checkpoint"
        )
    for name in POSITIVE:
        if name in tensors and not bool((tensors[name].to(own[name].dtype) > 0).all()):
            raise ValueError(f"{source} holds a variance {name} that is not above 0; use an earlier checkpoint")
    model.load_state_dict(dict(tensors), strict=True)


def stored_tensors(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The state dict, contiguous and on the CPU, under the names of a model that nothing wraps.

    dtype: the format of floating tensors; None leaves it. Raises ValueError where that is no floating format of weights, or
    where a finite weight would overflow in it.
    """
    if dtype not in (None, *FLOATING):
        raise ValueError(f"dtype was {dtype}; weights are stored as float16, bfloat16, float32 or float64")
    stored = {}
    for name, x in model.state_dict().items():
        kept = x.detach().to(dtype) if dtype is not None and x.is_floating_point() else x.detach()
        if kept.dtype != x.dtype and not torch.equal(kept.isfinite(), x.isfinite()):
            raise ValueError(f"{name} has weights that overflow in {dtype}; take bfloat16 or float32")
        stored[without_wrappers(name)] = kept.cpu().contiguous()
    return stored


def without_wrappers(name: str) -> str:
    """A weight's name without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _check_shapes(model: nn.Module, shapes: Shapes, source: Path | str) -> None:
    own = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    missing, extra = sorted(own.keys() - shapes.keys()), sorted(shapes.keys() - own.keys())
    others = [
        f"{name} is {shapes[name]}, the model has {own[name]}"
        for name in own.keys() & shapes.keys()
        if shapes[name] != own[name]
    ]
    problems = [
        f"{len(names)} {what}, first {names[0]}"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", sorted(others)))
        if names
    ]
    if problems:
        raise ValueError(f"{source} does not fit {type(model).__name__} ({'; '.join(problems)}): another architecture")


def _with_safetensors(path: Path, read: Callable[[], dict]) -> dict:
    from safetensors import SafetensorError

    try:
        return read()
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}); copy or download it again"
        ) from None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of names, shapes, formats and values of tensors on the CPU, 64 hex digits."""
    digest = hashlib.sha256()
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {tuple(x.shape)} {x.dtype}".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
