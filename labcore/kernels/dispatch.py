"""Which implementation of a kernel runs: torch's, which is the specification, its twin in Triton, or C code.

Every twin is held to its reference by a test, through Triton's interpreter where there is no GPU. "native" is the token loop of
an exact inverse in C (`labcore.inverse.native`), on a CPU; kernels without such code run torch's. DEFAULT says what runs where
nothing was chosen; `use` chooses. The twins are untested on GPU, so that torch's implementations are the default there too.
A twin that cannot run (no Triton, one that is too old, a kernel that does not compile) is left out with one warning.
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
DEFAULT: dict[str, Choice] = {"cuda": "torch", "cpu": "native"}
"""Device -> what runs there where nothing was chosen; torch's on all others."""

_chosen: Choice | None = None
_broken: set[str] = set()  # twins that failed in this process


@contextmanager
def use(choice: Choice) -> Iterator[None]:
    """Run kernels by this implementation inside a `with` block, in all threads. ValueError for a name that is none."""
    global _chosen
    if choice not in CHOICES:
        raise ValueError(f"unknown kernel backend {choice!r}; choose one of {', '.join(CHOICES)}")
    before, _chosen = _chosen, choice
    try:
        yield
    finally:
        _chosen = before


def by_triton(*tensors: Tensor) -> bool:
    """Whether Triton is to run on these. ValueError where it was chosen and they are on no GPU, without TRITON_INTERPRET=1."""
    if (_chosen or DEFAULT.get(tensors[0].device.type, "torch")) != "triton":
        return False
    if not all(x.is_cuda for x in tensors) and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"Triton's kernels run on CUDA, and these tensors are on {', '.join(sorted({x.device.type for x in tensors}))}; "
            "set TRITON_INTERPRET=1 before Python starts to run them interpreted, which is slow"
        )
    return True


def by_native(*tensors: Tensor) -> bool:
    """Whether compiled C code may run on these: on a CPU, unless something else was chosen."""
    return all(x.device.type == "cpu" for x in tensors) and (_chosen or DEFAULT["cpu"]) == "native"


def by_twin(module: str, function: str, *arguments: Any) -> Any | None:
    """The result of a twin, a function of a module of labcore.kernels; None where it cannot run, with one warning.

    Running out of memory is an error as everywhere.
    """
    if module in _broken:
        return None
    try:
        twin: Callable = getattr(import_module(f"labcore.kernels.{module}"), function)
        return twin(*arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an import, a compiler or a driver can meet
        _broken.add(module)
        warnings.warn(
            f"Triton's {module} does not work here ({first_line(error)}); going on with torch's", stacklevel=3
        )
        return None
