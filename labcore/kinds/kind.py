"""Interface of a kind of training run: its configuration, model, objective, plan, evaluation and card."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from torch import nn

from labcore.config import BaseRunConfig, TarFlowConfig, TokensConfig
from labcore.data.protocol import Dataset
from labcore.flows.tarflow import TarFlow
from labcore.latents.weights import RANDOM

SMOKE_IMAGES = 64


class Parts(NamedTuple):
    """Networks of a run, for its plan: the trained model, the objective, and the frozen teacher, if there is one."""

    model: nn.Module
    objective: nn.Module
    teacher: TarFlow | None = None


class Kind(ABC):
    """One kind of training run. It holds no state: every method takes the run's configuration.

    In all methods `teacher` is the flow that `config.teacher` names; None for a kind without one.
    """

    name: ClassVar[str]
    """Name in messages, where it follows an article."""
    config: ClassVar[type[BaseRunConfig]]
    model: ClassVar[type]
    """The trained module; `model(config.model)` makes one."""
    has_teacher: ClassVar[bool] = False
    """Whether the configuration names a frozen flow under `flow`."""
    guidance_schedule: ClassVar[str] = "constant"
    """Schedule of the guidance along the tokens when images are drawn for an evaluation."""

    @property
    def own_keys(self) -> set[str]:
        """Keys of the configuration that not every kind has."""
        return self.config.model_fields.keys() - BaseRunConfig.model_fields.keys()

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the configuration's sections."""
        return tuple(name for name in self.config.model_fields if name != "flow")

    def validated(self, sections: dict[str, dict[str, Any]]) -> BaseRunConfig:
        """Return the configuration of a run without a teacher. Raises ValueError for values that do not fit."""
        return self.config(**sections)

    def check_teacher(self, teacher: TarFlow, model: TokensConfig) -> None:
        """Raise ValueError if a model cannot learn from the teacher."""
        raise ValueError(f"a {self.name} has no teacher; leave flow out")

    def identity(self, config: BaseRunConfig, teacher: TarFlow | None) -> dict[str, str]:
        """Return further values that distinguish this run: hashes of the files that it reads, independent of their paths."""
        return {}

    @abstractmethod
    def objective(self, config: BaseRunConfig, images: Dataset, teacher: TarFlow | None) -> nn.Module:
        """Return the objective, a module (model, batch, noise) -> (loss, logs). images: the training images."""

    @abstractmethod
    def evaluation(self, model: nn.Module, objective: nn.Module, test: Dataset) -> dict[str, float]:
        """Return the values to log for the averaged weights, measured on test images."""

    diagnose: Any = None
    """(model, x, y) -> values for each log record, as in `labcore.train.loop.Hooks`; None: no diagnosis."""

    @abstractmethod
    def parts(self, config: BaseRunConfig, teacher: TarFlowConfig | None) -> Parts:
        """Return the networks of a run for its plan, whose tensors have no values. teacher: the flow's configuration."""

    def test_metrics(self, model: TokensConfig) -> list[str]:
        """Return the metrics of the test set with which a finished run is evaluated."""
        return []

    @abstractmethod
    def smoke(self, config: BaseRunConfig, flow: str | None = None) -> BaseRunConfig:
        """Return the run at its smoke size (`small_sections`). flow: the teacher at its own smoke size."""

    def check_shipped(self, model: TokensConfig, guidance: float) -> None:
        """Raise ValueError for a model that a card cannot describe. guidance: guidance of the samples."""
        return

    def card(
        self, name: str, model: Any, config: BaseRunConfig, record: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], str, str]:
        """Return a shipped model's head, rows of its table, limits and command (`labcore.zoo.cards`)."""
        raise ValueError(f"there is no card for a {self.name}; add a method `card` to its kind")


def small_sections(config: BaseRunConfig) -> dict[str, dict[str, Any]]:
    """Return model, data and train of a run at its smoke size.

    It has two steps of four 16x16 pictures of the embedded set, or of their latents by an autoencoder with random weights, and
    a width of 32. Blocks, layers and losses are those of the full run, so the same code runs.
    """
    m, channels = config.model, config.model.channels if config.model.codec is None else 3
    images = {"image_size": 16} if m.codec is None else {"image_size": 8, "codec": RANDOM}  # 4 x 8 x 8 latents
    model = m.replace(**images, num_classes=10 if m.num_classes else 0, width=32, head_dim=16)
    few = dict(
        steps=2, batch_size=4, warmup_steps=1, log_every=1, eval_every=2, save_every=2, precision="fp32", num_workers=0
    )
    data = dict(name="fashion-mnist-12k", image_size=16, channels=channels, limit=SMOKE_IMAGES, flip=config.data.flip)
    return dict(model=model.model_dump(), data=data, train=config.train.replace(**few).model_dump())


def without_label_check(model: nn.Module) -> nn.Module:
    """Return the model without its check of labels, which needs values: a plan's tensors have none."""
    model.check_labels = lambda *_, **__: None
    return model
