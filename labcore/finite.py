"""The rule for NaN and infinity: no public call hands them on in silence.

1. Arguments that hold them are refused with a ValueError.
2. A result that holds them ends the call with `NotFinite`, a ValueError. Its message says how many images are affected, which
   one is the first, from which block on, which settings were given, and what to do. Results are looked at once, at the end
   of a call, on every device: images, latents, likelihoods, features, logits, moments, pixels that become uint8.
3. A training step does not wait for the device, so the calls inside of it are not looked at: models in training mode, and on a
   GPU every pass that builds a gradient. The training loop checks loss and gradients itself (`labcore.train.loop`).
   `TarFlow.unchecked` and `BackwardModel.unchecked` are the passes that look at nothing; compiled programs and CUDA graphs have
   no look either.
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

    call: what was computed. bad, total: affected images, and all images of the batch. first: number of the first affected one.
    place: where it begins ("from block 2 on"). given: the settings. advice: what to do.
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
        """The same with images counted from `start`; other settings, where given."""
        first = self.first + start
        return NotFinite(self.call, self.bad, self.total, first, self.place, given or self.given, self.advice)


def all_finite(*tensors: Tensor) -> bool:
    """Whether all values are finite, by one look. True where there are no values to look at (torch.func's transforms, fake
    tensors)."""
    try:
        return bool(torch.stack([x.isfinite().all() for x in tensors]).all())
    except RuntimeError:
        return True


def require_finite(x: Tensor, name: str, advice: str) -> None:
    """ValueError for an argument (b, ...) with NaN or infinity."""
    if not all_finite(x):
        bad = _rows(x)
        raise ValueError(
            f"{name} holds NaN or infinity in {len(bad)} of {len(x)} images, first in image {bad[0]}; {advice}"
        )


def check_result(x: Tensor, call: str, place: str = "", given: str = "", advice: str = "") -> None:
    """`NotFinite` for a result (b, ...) with NaN or infinity; the arguments are its fields."""
    if not all_finite(x):
        bad = _rows(x)
        raise NotFinite(call, len(bad), len(x), bad[0], place, given, advice)


def is_looked_at(x: Tensor, training: bool = False) -> bool:
    """Whether a result of a model may be looked at: not in training, nor in a compiled program or a CUDA graph that is being
    recorded, nor where it carries a gradient on another device than the CPU."""
    if training or torch.compiler.is_compiling():
        return False
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return x.device.type == "cpu" or not x.requires_grad


def check_states(module: nn.Module, call: str, states: tuple[Tensor, ...], log_det: Tensor | None = None) -> None:
    """`NotFinite` where one of a model's states (b, ...), or the log-determinant (b,), is not finite; one look.

    Names the first block whose state is not finite, counted from 1 in the order of the states.
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
    """Count the images of a `NotFinite` inside from `start`, and name the settings `given`, in words, where there are any."""
    try:
        yield
    except NotFinite as error:
        raise error.counted_from(start, given()) from None


def _rows(x: Tensor) -> list[int]:
    """Images with a value that is not finite."""
    return (~x.isfinite()).reshape(len(x), -1).any(1).nonzero().flatten().tolist()
