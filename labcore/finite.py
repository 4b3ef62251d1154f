"""The rule for NaN and infinity: no public call accepts or returns them without an error.

1. Arguments that contain them raise a ValueError.
2. A result that contains them raises `NotFinite`, a ValueError. Its message says how many images are affected, which one is the
   first, from which block on, which settings were given, and what to do. Results are checked once, at the end of a call, on
   every device: images, latents, likelihoods, features, logits, moments, pixels that become uint8.
3. A training step does not wait for the device, so the calls inside of it are not checked: models in training mode, and on a
   GPU every pass that builds a gradient. The training loop checks loss and gradients itself (`labcore.train.loop`).
   `TarFlow.unchecked` and `BackwardModel.unchecked` are passes without a check; compiled programs and CUDA graphs have no check
   either.
4. Diagnoses report instead: `labcore.train.monitor.state_rms` logs the values of a flow that diverges.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

DIVERGED = "check the arguments for NaN, infinity and values far from [-1, 1]; with sound ones, the model has diverged"


class NotFinite(ValueError):
    """A result with NaN or infinity.

    Attributes:
        call: name of the computation.
        bad, total: number of affected images, and of all images in the batch.
        first: index of the first affected image.
        place: place where the values begin ("from block 2 on").
        given: the settings.
        advice: what to do.
    """

    def __init__(self, call: str, bad: int, total: int, first: int, place: str = "", given: str = "", advice: str = ""):
        super().__init__(call, bad, total, first, place, given, advice)
        self.call, self.bad, self.total, self.first = call, bad, total, first
        self.place, self.given, self.advice = place, given, advice

    def __str__(self) -> str:
        counted = f"{self.bad} of {self.total} images are not finite (NaN or infinity){self.place and ' ' + self.place}"
        parts = [f"{self.call}: {counted}, the first is image {self.first}", self.given, self.advice]
        return "; ".join(part for part in parts if part)

    def counted_from(self, start: int, given: str = "") -> NotFinite:
        """Return the same error with images counted from `start`; `given` replaces the settings if it is not empty."""
        first = self.first + start
        return NotFinite(self.call, self.bad, self.total, first, self.place, given or self.given, self.advice)


def all_finite(*tensors: Tensor) -> bool:
    """Return whether all values are finite, with one read of the device; True for tensors without values (torch.func, fake)."""
    try:
        return bool(torch.stack([x.isfinite().all() for x in tensors]).all())
    except RuntimeError:
        return True


def require_finite(x: Tensor, name: str, advice: str) -> None:
    """Raise ValueError for an argument (b, ...) with NaN or infinity."""
    if not all_finite(x):
        bad = _rows(x)
        raise ValueError(
            f"{name} holds NaN or infinity in {len(bad)} of {len(x)} images, first in image {bad[0]}; {advice}"
        )


def check_result(x: Tensor, call: str, place: str = "", given: str = "", advice: str = "") -> None:
    """Raise `NotFinite` for a result (b, ...) with NaN or infinity; the arguments are the fields of the error."""
    if not all_finite(x):
        bad = _rows(x)
        raise NotFinite(call, len(bad), len(x), bad[0], place, given, advice)


def is_looked_at(x: Tensor, training: bool = False) -> bool:
    """Return whether a result of a model may be checked.

    It may not in training, in a compiled program, while a CUDA graph is recorded, or with a gradient on another device than the
    CPU.
    """
    if training or torch.compiler.is_compiling():
        return False
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return x.device.type == "cpu" or not x.requires_grad


def check_states(module: nn.Module, call: str, states: tuple[Tensor, ...], log_det: Tensor | None = None) -> None:
    """Raise `NotFinite` if a state (b, ...) of a model, or the log-determinant (b,), is not finite; reads the device once.

    The error names the first block whose state is not finite, counted from 1 in the order of the states.
    """
    results = states if log_det is None else (*states, log_det)
    if not is_looked_at(states[-1], module.training) or all_finite(*results):
        return
    for number, state in enumerate(states, 1):
        if not all_finite(state):
            everything = torch.cat([other.flatten(1) for other in states], dim=1)
            check_result(everything, call, f"from block {number} on", advice=DIVERGED)
    check_result(results[-1], call, "in the log-determinant", advice=DIVERGED)


@contextlib.contextmanager
def images_from(start: int, given: Callable[[], str] = str) -> Iterator[None]:
    """Count the images of a `NotFinite` inside from `start`, and add the settings `given` in words, if there are any."""
    try:
        yield
    except NotFinite as error:
        raise error.counted_from(start, given()) from None


def _rows(x: Tensor) -> list[int]:
    """Return the indices of images with a value that is not finite."""
    return (~x.isfinite()).reshape(len(x), -1).any(1).nonzero().flatten().tolist()
