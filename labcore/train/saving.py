"""Checkpoints of a training: at regular steps, and after an error."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from labcore import provenance
from labcore.train import checkpoint, faults
from labcore.train.log import count_records
from labcore.train.state import Snapshot, TrainState
from labcore.train.strategies import Strategy


class Saving:
    """The checkpoints of one training.

    folder: the run's folder.
    about: entries of state.json that describe the run: `precision`, and the configuration `run`.
    keep: newest checkpoints that stay on the disk.
    saved: the newest step that a checkpoint holds.
    """

    def __init__(self, folder: Path, about: dict[str, Any], keep: int, state: TrainState, strategy: Strategy):
        self.folder, self.about, self.keep = folder, about, keep
        self.state, self.strategy = state, strategy
        self.saved = state.step

    def save(self) -> None:
        """Save the last step. Every process must call it. Raises as `checkpoint.save`, and FloatingPointError."""
        snapshot = self.strategy.snapshot()
        if snapshot is not None:
            self._write(snapshot)
        self.saved = self.state.step

    def rescue(self) -> None:
        """After an error, save the steps since the last checkpoint if this process can do it alone; raises nothing."""
        if self.state.step == self.saved:
            return
        with contextlib.suppress(Exception):  # the error at hand matters more
            snapshot = self.strategy.snapshot_alone()
            if snapshot is not None:
                self._write(snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        step, scaler = self.state.step, self.state.scaler
        if not all(bool(p.isfinite().all()) for p in snapshot.weights.values()):
            raise faults.not_finite(step, self.folder)
        training = {
            "optimizer": snapshot.optimizer,
            "objective": snapshot.objective,
            "scaler": scaler.state_dict() if scaler else {},
            **snapshot.means,
        }
        state = {**self.about, "log_records": count_records(self.folder, step), **provenance.stamp()}
        checkpoint.save(self.folder, step, snapshot.models, training, state, self.keep)
