"""Training runs: their sections as one validated value for each kind of run, and the names of earlier versions."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from labcore.config.sections import (
    AlignConfig,
    BackwardConfig,
    DataConfig,
    StudentConfig,
    TarFlowConfig,
    TokensConfig,
    TrainConfig,
)
from labcore.directions import check_sweeps
from labcore.sites import check_inside
from labcore.strict import Config

RENAMED = {"inversion": "student"}
"""Sections of a run's configuration that earlier versions called by another name: old name -> present name."""


def with_present_names(values: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration with the sections of earlier versions under their present names.

    Raises ValueError if a section is given by both names.
    """
    both = [(old, new) for old, new in RENAMED.items() if old in values and new in values]
    if both:
        old, new = both[0]
        raise ValueError(f"the configuration has {old} and {new}; {old} is the former name of {new}: give {new} alone")
    return {RENAMED.get(name, name): value for name, value in values.items()}


class BaseRunConfig(Config):
    """One training run of any kind: a model, its data, and how it is trained.

    A kind of run adds its own sections, and names here the frozen networks that its training needs. Plans, checks of files,
    rehearsals and records read these names and do not ask which kind a run is of.
    """

    model: TokensConfig
    data: DataConfig = DataConfig()
    train: TrainConfig

    @property
    def encoder(self) -> AlignConfig | None:
        """The use of a frozen encoder's tokens (the section `align`); None: there is no alignment."""
        return None

    @property
    def distances(self) -> tuple[str, ...]:
        """Names of the perceptual distances in the loss (`labcore.encoders.perceptual`)."""
        return ()

    @property
    def teacher(self) -> str | None:
        """The frozen flow that teaches (the key `flow`), for `labcore.runs.models.find_model`; None: there is no teacher."""
        return None


class RunConfig(BaseRunConfig):
    """One training run of a flow; `align` is None if its features are not aligned."""

    model: TarFlowConfig
    align: AlignConfig | None = None

    @model_validator(mode="after")
    def _sites_exist(self) -> RunConfig:
        m = self.model
        if self.align:
            check_inside(self.align.sites, m.depths)
            check_sweeps(self.align.adjoint_sweeps, m.tokens)
        if self.align and self.align.image_size is not None and self.data.name != "folder":
            raise ValueError(
                f"align.image_size was {self.align.image_size} for {self.data.name}; only the pictures of a folder can be "
                "read at another size: leave it out (null)"
            )
        if self.align and self.align.loss == "nt-xent" and m.tokens == 1:
            raise ValueError("loss 'nt-xent' compares tokens with each other, and this model has one; take 'cosine'")
        return self

    @property
    def encoder(self) -> AlignConfig | None:
        return self.align


class StudentRunConfig(BaseRunConfig):
    """One training run of a student: the learned inverse of the flow that `flow` names."""

    flow: str  # what find_model takes: a zoo name, a run's folder, a saved model
    model: BackwardConfig
    student: StudentConfig = StudentConfig()

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        return with_present_names(values) if isinstance(values, dict) else values

    @property
    def distances(self) -> tuple[str, ...]:
        return tuple(self.student.perceptual)

    @property
    def teacher(self) -> str:
        return self.flow
