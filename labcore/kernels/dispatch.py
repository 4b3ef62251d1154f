"""Which implementation of a kernel runs: torch's, which is the specification, or its twin in Triton.

Every twin is held to its reference by a test, through Triton's interpreter where there is no GPU.
The twins have never run on a GPU, so that nothing chooses them by itself yet: `use("triton")` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

from torch import Tensor

Choice = Literal["torch", "triton"]
CHOICES: tuple[Choice, ...] = ("torch", "triton")
_chosen: Choice = "torch"


@contextmanager
def use(choice: Choice) -> Iterator[None]:
    """Run kernels by this implementation inside a `with` block, in all threads. ValueError for a name that is none."""
    global _chosen
    if choice not in CHOICES:
        raise ValueError(f"kernels are by {' or '.join(CHOICES)}, not {choice!r}")
    before, _chosen = _chosen, choice
    try:
        yield
    finally:
        _chosen = before


def by_triton(*tensors: Tensor) -> bool:
    """Whether Triton is to run on these. ValueError where it cannot: no GPU, and no interpreter (TRITON_INTERPRET=1)."""
    if _chosen == "torch":
        return False
    if find_spec("triton") is None:
        raise ValueError("there is no Triton here; pip install triton, or leave the kernels to torch")
    if not all(x.is_cuda for x in tensors) and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"Triton's kernels run on CUDA, and these tensors are on {', '.join(sorted({x.device.type for x in tensors}))}; "
            "set TRITON_INTERPRET=1 before Python starts to run them interpreted, which is slow"
        )
    return True
