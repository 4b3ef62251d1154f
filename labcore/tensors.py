"""Tensors in safetensors files, and whether they fit a model.

The file's header has names, shapes and formats. They are read first, so a configuration with other sizes is rejected before
memory is allocated. Files of `write_tensors` have a checksum of their values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...] | str]
"""Name -> shape of a tensor, or the type of any other value."""

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Formats in which weights are stored."""
CHECKSUM = "sha256"
POSITIVE = ("prior_var",)
"""Tensors whose values must be above 0: variances."""
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts that torch.compile, FSDP and activation checkpointing add to the names of a wrapped module."""


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with a checksum of its values. Raises as safetensors' save_file.

    metadata: further texts for the file's header. Equal tensors and metadata make equal files, byte for byte.
    """
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={**(metadata or {}), "format": "pt", CHECKSUM: checksum(tensors)})
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Sort a file's metadata by name, because safetensors writes them in random order."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # always so: it is the same text in another order
            file.seek(8)
            file.write(text.ljust(size))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU.

    Raises ValueError if the file is truncated, of another kind, or has changed since `write_tensors` wrote it.
    """
    from safetensors.torch import load_file

    tensors = _with_safetensors(path, lambda: load_file(path))
    expected = read_metadata(path).get(CHECKSUM)
    if expected is not None and expected != checksum(tensors):
        raise ValueError(
            f"{path} is damaged: its values have changed since it was saved (sha256 differs); copy it again"
        )
    return tensors


def read_formats(path: Path) -> dict[str, torch.dtype | str]:
    """Return {name: format} of the tensors in a safetensors file, from its header. Raises as `read_shapes`.

    A format that weights do not have gets safetensors' own name, such as "I8".
    """
    from safetensors import safe_open

    floating = dict(zip(("F16", "BF16", "F32", "F64"), FLOATING, strict=True))

    def read() -> dict[str, torch.dtype | str]:
        with safe_open(path, "pt") as file:
            names = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        return {name: floating.get(kind, kind) for name, kind in names.items()}

    return _with_safetensors(path, read)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata texts in the header of a safetensors file. Raises as `read_shapes`."""
    from safetensors import safe_open

    def read() -> dict[str, str]:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}

    return _with_safetensors(path, read)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of the tensors in a safetensors file, from its header. ValueError if that cannot be read."""
    from safetensors import safe_open

    def read() -> dict[str, tuple[int, ...]]:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    return _with_safetensors(path, read)


def check_architecture(build: Callable[[], nn.Module], least: int, shapes: Shapes, source: Path | str) -> None:
    """Raise ValueError unless tensors of these shapes are the weights of the model that `build` makes; allocates no memory.

    least: a lower bound on the number of the model's weights, from its configuration. It is compared first, so that a model of
    millions of layers is not built.
    """
    if least > len(shapes):
        raise ValueError(
            f"{source} does not fit its configuration (at least {least - len(shapes)} of {least} weights are missing): "
            "another architecture"
        )
    with torch.device("meta"):
        model = build()
    _check_shapes(model, shapes, source)


def only_shapes() -> bool:
    """Return True while `check_architecture` builds a model, whose tensors have shapes and no values.

    Code that computes first values asks this. Arithmetic on such tensors imports torch._dynamo and sympy, which takes seconds.
    """
    return torch.get_default_device().type == "meta"


def load_strictly(
    model: nn.Module, tensors: Mapping[str, Any], source: Path | str, remedy: str = "use an earlier checkpoint"
) -> None:
    """Load `tensors` if names, shapes and formats fit and values are finite in the model's format.

    source: origin of the tensors, for the message. remedy: advice for values that are not finite, for the message. Raises one
    ValueError that lists the differences.
    """
    _check_shapes(model, {name: _shape(x) for name, x in tensors.items()}, source)
    formats = {name: x.dtype for name, x in model.state_dict().items()}
    check_formats({name: x.dtype for name, x in tensors.items() if formats[name].is_floating_point}, source)
    check_finite(tensors, formats, source, remedy)
    for name in POSITIVE:
        if name in tensors and not bool((tensors[name].to(formats[name]) > 0).all()):
            raise ValueError(f"{source} holds a variance {name} that is not above 0; {remedy}")
    model.load_state_dict(dict(tensors), strict=True)


def check_formats(formats: Mapping[str, torch.dtype | str], source: Path | str) -> None:
    """Raise ValueError unless all of these are formats of weights."""
    if strange := sorted(name for name, kind in formats.items() if kind not in FLOATING):
        kinds = sorted({str(formats[name]) for name in strange})
        raise ValueError(
            f"{source} holds {', '.join(kinds)} in {len(strange)} tensors, first {strange[0]}; allowed are float16, "
            "bfloat16, float32 and float64: convert quantised weights back first"
        )


def check_finite(
    tensors: Mapping[str, Tensor], formats: Mapping[str, torch.dtype], source: Path | str, remedy: str
) -> None:
    """Raise ValueError unless all values are finite, each tensor converted to its format."""
    if bad := sorted(name for name, x in tensors.items() if not bool(x.to(formats[name]).isfinite().all())):
        raise ValueError(
            f"{source} holds NaN or infinity in {len(bad)} tensors, first {bad[0]}, as {formats[bad[0]]}; {remedy}"
        )


def stored_tensors(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the state dict, contiguous and on the CPU, with the names of an unwrapped model.

    dtype: number format of floating tensors; None keeps it. Raises ValueError for a format that weights do not have, and if a
    finite weight would overflow in it.
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
    """Return a weight's name without the parts that wrappers add."""
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


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _with_safetensors(path: Path, read: Callable[[], dict]) -> dict:
    from safetensors import SafetensorError

    try:
        return read()
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}); copy or download it again"
        ) from None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of names, shapes, formats and values of tensors on the CPU, 64 hex digits."""
    digest = hashlib.sha256()
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {tuple(x.shape)} {x.dtype}".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
