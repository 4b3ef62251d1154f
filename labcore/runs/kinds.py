"""The two kinds of training run, a flow's and a learned inverse's, and everything in which starting one differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from labcore.biflow.model import BackwardModel
from labcore.config import RunConfig, StudentRunConfig
from labcore.flows.tarflow import TarFlow
from labcore.runs.train_flow import identity as identity_of_flow
from labcore.runs.train_flow import objective_of, run_training
from labcore.runs.train_student import distillation_of, find_flow, identity, run_student
from labcore.train.loop import TrainResult

AnyRun = RunConfig | StudentRunConfig


class Kind(NamedTuple):
    """What a run trains, how, and what beside configuration and data makes it another run."""

    model: type[TarFlow] | type[BackwardModel]
    run: Callable[..., TrainResult]  # (configuration, folder, previews, reporter)
    identity: Callable[[Any], dict[str, str]]  # of its configuration; raises for what cannot be trained
    objective: Callable[[Any, Any], nn.Module]  # of its configuration and training images: what is minimised


KINDS = {
    RunConfig: Kind(TarFlow, run_training, identity_of_flow, objective_of),
    StudentRunConfig: Kind(
        BackwardModel,
        run_student,
        lambda config: identity(find_flow(config)),
        lambda config, images: distillation_of(config, find_flow(config), images),
    ),
}


def kind_of(config: AnyRun) -> Kind:
    """The kind of run that a configuration is of."""
    return KINDS[type(config)]
