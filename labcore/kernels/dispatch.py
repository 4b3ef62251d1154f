"""Choice of a kernel's implementation: torch's, which is the specification, its twin in Triton, or C code.

A test compares every twin with its reference, by Triton's interpreter on machines without a GPU. "native" is the token loop of
an exact inverse in C (`labcore.inverse.native`), on a CPU; kernels without C code run torch's implementation. DEFAULT has the
default choices; `use` makes another. On CUDA the twins are the default for computations without gradient. A twin that can be
differentiated only once runs only if it was chosen. A twin that cannot run (no Triton, a version that is too old, or a kernel
that does not compile) is replaced by torch's implementation, with one warning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

from labcore.hints import first_line

Choice = Literal["torch", "triton", "native"]
CHOICES: tuple[Choice, ...] = ("torch", "triton", "native")
DEFAULT: dict[str, Choice] = {"cuda": "triton", "cpu": "native"}
"""Device -> default implementation; torch's on all other devices."""

_chosen: Choice | None = None
_broken: set[str] = set()  # twins that failed in this process


@contextmanager
def use(choice: Choice) -> Iterator[None]:
    """Run kernels by this implementation inside a `with` block, in all threads. ValueError for an unknown name."""
    global _chosen
    if choice not in CHOICES:
        raise ValueError(f"unknown kernel backend {choice!r}; choose one of {', '.join(CHOICES)}")
    before, _chosen = _chosen, choice
    try:
        yield
    finally:
        _chosen = before


def chosen(device: torch.device) -> Choice:
    """Return the implementation that runs on a device: the choice of `use`, else the default."""
    return _chosen or DEFAULT.get(device.type, "torch")


def by_triton(*tensors: Tensor, by_default: bool = True) -> bool:
    """Return whether Triton runs on these tensors. by_default: False for a twin that runs only if `use` chose Triton.

    Raises ValueError if Triton was chosen for tensors that are not on a GPU, without TRITON_INTERPRET=1.
    """
    if (chosen(tensors[0].device) if by_default else _chosen) != "triton":
        return False
    if not all(x.is_cuda for x in tensors) and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"Triton's kernels run on CUDA, and these tensors are on {', '.join(sorted({x.device.type for x in tensors}))}; "
            "set TRITON_INTERPRET=1 before Python starts to run them interpreted, which is slow"
        )
    return True


def by_native(*tensors: Tensor) -> bool:
    """Return whether compiled C code may run on these tensors: on a CPU, unless another implementation was chosen."""
    return all(x.device.type == "cpu" for x in tensors) and (_chosen or DEFAULT["cpu"]) == "native"


def by_twin(module: str, function: str, *arguments: Any) -> Any | None:
    """Return the result of a twin, a function in a module of labcore.kernels; None, with one warning, if it cannot run.

    Out-of-memory errors are raised.
    """
    return attempt(module, lambda: getattr(import_module(f"labcore.kernels.{module}"), function)(*arguments))


def attempt(module: str, call: Callable[[], Any]) -> Any | None:
    """Return the result of a call that needs a module of twins; None, warning and errors as in `by_twin`."""
    if module in _broken:
        return None
    try:
        return call()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # any error of an import, a compiler or a driver
        _broken.add(module)
        warnings.warn(
            f"Triton's {module} does not work here ({first_line(error)}); going on with torch's", stacklevel=4
        )
        return None
