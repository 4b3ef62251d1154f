"""The kind of run that trains a student: a learned inverse of a frozen flow (BiFlow)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labcore import provenance
from labcore.biflow.model import BackwardModel
from labcore.config import StudentRunConfig, TarFlowConfig, TokensConfig
from labcore.data.batch import spread_images
from labcore.data.protocol import Dataset
from labcore.encoders.perceptual import load_perceptual
from labcore.flows.tarflow import TarFlow
from labcore.kinds.kind import Kind, Parts, small_sections, without_label_check
from labcore.latents import codec_of
from labcore.processes import process_device
from labcore.rng import StepNoise
from labcore.train.distillation import Distillation, check_pair, measure_rms

MEASURED = 512
"""Number of training images on which the constants of normalise "block" are measured; our choice."""
EVALUATED = 512
"""Number of test images whose distances are logged during training; our choice."""


class StudentKind(Kind):
    """The kind of run that trains a student. The flow is not copied into the run's folder."""

    name, config, model, has_teacher = "student", StudentRunConfig, BackwardModel, True

    def check_teacher(self, teacher: TarFlow, model: TokensConfig) -> None:
        """As `labcore.train.distillation.check_pair`."""
        check_pair(teacher, model)

    def identity(self, config: StudentRunConfig, teacher: TarFlow) -> dict[str, str]:
        """Return the hash of the flow's weights, which does not depend on the flow's name or path."""
        return {"flow": provenance.weights_hash(teacher)}

    def objective(self, config: StudentRunConfig, images: Dataset, teacher: TarFlow) -> Distillation:
        """Return the distances to the flow's states, whose RMS is measured on some of `images`. Raises as `load_perceptual`."""
        device = process_device()
        perceptual = {name: load_perceptual(name) for name in config.student.perceptual}
        batch = spread_images(images, MEASURED, config.model.num_classes > 0, device)
        noise = StepNoise(config.train.seed, 0, len(batch.x), device)
        constants = measure_rms(teacher.to(device), batch, noise, config.model.denoiser)
        decode = codec_of(config.model).decode
        dropout = config.train.label_dropout
        return Distillation(config.student, config.model, teacher, constants, dropout, perceptual, decode)

    @torch.no_grad()
    def evaluation(self, model: BackwardModel, objective: Distillation, test: Dataset) -> dict[str, float]:
        """Return the distances on test images, with labels and always the same noise: `test_image`, `test_state-i`."""
        batch = spread_images(test, EVALUATED, model.config.num_classes > 0, model.device)
        taught = objective.taught(batch, StepNoise(0, 0, len(batch.x), model.device))
        found: dict[str, Tensor] = objective.distances(model(taught.z, batch.y), taught.targets(model.config.denoiser))
        return {f"test_{name}": float(distance.mean()) for name, distance in found.items()}

    def parts(self, config: StudentRunConfig, teacher: TarFlowConfig | None) -> Parts:
        """As `Kind.parts`, without perceptual distances, which `labcore.plan.frozen` counts. ValueError without a teacher."""
        if teacher is None:
            raise ValueError("a student needs its flow's configuration too; give flow")
        model, flow = without_label_check(BackwardModel(config.model)), without_label_check(TarFlow(teacher))
        plain, constants = config.student.replace(perceptual={}), torch.ones(config.model.num_states)
        return Parts(model, Distillation(plain, config.model, flow, constants, config.train.label_dropout), flow)

    def smoke(self, config: StudentRunConfig, flow: str | None = None) -> StudentRunConfig:
        """As `Kind.smoke`; the perceptual distance is the embedded encoder's."""
        perceptual = {"efflite0": 1.0} if config.student.perceptual else {}
        student = config.student.replace(perceptual=perceptual).model_dump()
        return StudentRunConfig(flow=flow, **small_sections(config), student=student)

    def check_shipped(self, model: TokensConfig, guidance: float) -> None:
        """Raise ValueError unless the student has a denoising block and takes guidance as an input."""
        if not model.denoiser or model.max_guidance < guidance:
            raise ValueError(
                f"denoiser is {model.denoiser}, max_guidance {model.max_guidance}; a student can ship only with a denoising "
                f"block and a max_guidance of {guidance:g} or more"
            )

    def card(
        self, name: str, model: BackwardModel, config: StudentRunConfig, record: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], str, str]:
        """As `Kind.card`; the rows describe the reconstruction of encoded test images."""
        c, back = model.config, record["brought_back"]
        colour = "colour " if c.channels == 3 else ""
        head = f"""A learned inverse (BiFlow) of `{config.flow}` with {record["parameters"]:,} parameters. It maps noise to a
clean {c.image_size}x{c.image_size} {colour}image of one of {c.num_classes} classes in one evaluation,
with guidance from 0 to {c.max_guidance:g} as an input;"""
        rows = [
            (
                f"mean squared error of {back['n']:,} test images, encoded with training noise and reconstructed",
                f"{back['learned']['image_mse']:.4f} (the exact inverse, denoised: {back['exact']['image_mse']:.4f})",
            ),
            (
                "RMS of F(G(z)) - z, before denoising",
                f"{back['learned']['cycle_rms']:.2f} (exact: {back['exact']['cycle_rms']:.1e})",
            ),
            (
                "nats/dim of its images under the flow",
                f"{back['learned']['nats_per_dim']:.3f} (the exact inverse's: {back['exact']['nats_per_dim']:.3f})",
            ),
        ]
        limits = (
            f"It inverts `{config.flow}` and no other flow; it was not trained with guidance above {c.max_guidance:g}."
        )
        command = f"lab train --invert {config.flow} --config labcore/zoo/{name}/spec.yaml --out runs/{name}"
        return head, rows, limits, command
