"""One switch for TensorFloat-32: float32 products and cuDNN's convolutions on a GPU, always in the same state.

TensorFloat-32 (TF32) rounds the factors of a float32 product to 10 bits of mantissa: about 3 decimal digits, and several
times the speed on an H100. torch has it off for matrix products and on for convolutions. Here both are off unless
`train.tf32` or `--tf32` says otherwise. The switch belongs to the process: every thread sees it. The CPU has no TF32. Untested
on GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch

_MATMUL, _CONV, _RNN = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn


class _State(NamedTuple):
    """torch's settings: "tf32", "ieee" or "none" for each, and whether its oldest function was set to "medium"."""

    matmul: str
    conv: str
    rnn: str
    medium: bool


def enabled() -> bool:
    """Return whether products and convolutions of float32 use TF32."""
    return _MATMUL.fp32_precision == _CONV.fp32_precision == "tf32"


def describe() -> str:
    """Return the state for records: "on", "off", or, if torch was set without this switch, "products" or "convolutions"."""
    matmul, conv = (part.fp32_precision == "tf32" for part in (_MATMUL, _CONV))
    return {(True, True): "on", (True, False): "products", (False, True): "convolutions"}.get((matmul, conv), "off")


def set(on: bool) -> None:
    """Switch TF32 on or off for the process from here on."""
    precision = "tf32" if on else "ieee"
    _write(_State(precision, precision, precision, False))


@contextlib.contextmanager
def use(on: bool) -> Iterator[None]:
    """Switch TF32 on or off inside, and restore the previous settings, also after an exception."""
    before = _read()
    set(on)
    try:
        yield
    finally:
        _write(before)


def _read() -> _State:
    try:
        medium = torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:  # only torch's newer names were set
        medium = False
    return _State(_MATMUL.fp32_precision, _CONV.fp32_precision, _RNN.fp32_precision, medium)


def _write(state: _State) -> None:
    """Set torch's older names first, then its newer ones: torch refuses to read an older name that disagrees with a newer."""
    _MATMUL.allow_tf32 = state.matmul == "tf32"
    torch.backends.cudnn.allow_tf32 = state.conv == state.rnn == "tf32"
    if state.medium:
        torch.set_float32_matmul_precision("medium")
    _MATMUL.fp32_precision, _CONV.fp32_precision, _RNN.fp32_precision = state.matmul, state.conv, state.rnn
