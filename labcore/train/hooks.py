"""Hooks of the training loop: diagnoses, evaluations, previews, and the reporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from labcore.train.log import Reporter

Values = dict[str, float]


class Hooks(NamedTuple):
    """Functions that a run calls, each optional.

    Attributes:
        diagnose: diagnose(model, x, y) -> values, at every log record, with the current weights and a sample of clean
            images: up to 32 of the step's last micro-batch on the first process. Values of the whole step belong to the
            objective.
        evaluate: evaluate(ema) -> values, every eval_every steps and at the end.
        preview: preview(ema, step) writes pictures at the same steps.
        reporter: shows the progress; None is `labcore.train.log.usual_reporter`.
    """

    diagnose: Callable[[nn.Module, Tensor, Tensor | None], Values] | None = None
    evaluate: Callable[[nn.Module], Values] | None = None
    preview: Callable[[nn.Module, int], None] | None = None
    reporter: Reporter | None = None

    def look(self, ema: nn.Module, step: int) -> Values:
        """Evaluate and preview the averaged weights; return the evaluation's values."""
        values = self.evaluate(ema) if self.evaluate else {}
        if self.preview:
            self.preview(ema, step)
        return values
