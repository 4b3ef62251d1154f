"""Parameters, FLOPs and memory of a training step, and the days of all steps on a kind of GPU.

The run's own code carries out a step on tensors without values, so nothing is computed or downloaded. torch counts parameters
and FLOPs. Memory includes what the run holds between forward and backward pass, but not the working memory of kernels. Frozen
networks are included (`labcore.plan.frozen`).

Seconds are FLOPs divided by (the vendor's peak x an assumed efficiency). If starting all operators of a step takes longer, as
in small models, seconds are the time of that. Memory and seconds have been compared with a GPU for one training step only
(docs/full-size.md).
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labcore.config import BaseRunConfig, TarFlowConfig
from labcore.encoders.specs import token_width
from labcore.evaluate.flops import count_flops, count_saved, count_step
from labcore.flows.tarflow import TarFlow
from labcore.kinds import kind_of
from labcore.plan.frozen import frozen
from labcore.rng import StepNoise
from labcore.train.loop import Trained
from labcore.train.recompute import recompute_layers
from labcore.types import Batch

BYTES_PER_PARAMETER = 20
"""Bytes for float32 weights, gradients, AdamW's two moments and the averaged weights."""
EFFICIENCY = 0.4
"""Fraction of a GPU's peak that training reaches; our assumption."""
STARTED = 1e-5
"""Seconds to start an operator from Python on a GPU; our assumption."""
STARTED_ON_CPU = 3e-5
"""The same on a CPU, with the operator's own fixed cost; our choice, near the steps of small flows that we measured."""
ROOM = 0.9
"""Fraction of a GPU's memory that a run may fill; our choice."""


class Gpu(NamedTuple):
    """A kind of GPU, with its vendor's numbers. The peak of TensorFloat-32 is half of bfloat16's for all of them.

    Attributes:
        peak: dense bfloat16 peak in FLOP/s.
        single: float32 peak in FLOP/s.
        memory: memory in bytes.
        started: seconds to start an operator.
    """

    peak: float
    single: float
    memory: float
    started: float = STARTED


GPUS = {
    "h200": Gpu(989e12, 67e12, 141e9),
    "h100": Gpu(989e12, 67e12, 80e9),
    "a100": Gpu(312e12, 19.5e12, 80e9),
    "a100-40": Gpu(312e12, 19.5e12, 40e9),
    "l40s": Gpu(362e12, 91.6e12, 48e9),
    "rtx-4090": Gpu(165e12, 82.6e12, 24e9),
}


class Plan(NamedTuple):
    """Requirements of a run that do not depend on the hardware. A multiply-add counts as two FLOPs.

    Attributes:
        parameters: parameters of the model.
        trained: trained parameters, including the heads of an alignment.
        flops: FLOPs of one image in a training step, forward and backward.
        activations: bytes of one image that are held between the passes.
        held: bytes of weights, gradients, optimizer state, averaged weights, bfloat16 copies and frozen networks.
        tokens: tokens of one image.
        batch_size: images of one optimizer step.
        steps: optimizer steps.
        frozen: the part of `flops` in frozen networks, without a frozen teacher.
        once: FLOPs of one training image before the first step.
        half: whether training uses bfloat16; precision "auto" does, as on a GPU that supports it.
        teacher: the part of `flops` in the frozen teacher of a student, which runs in TensorFloat-32 if training uses bfloat16.
        operators: operators of one micro-batch, forward and backward, without those of frozen encoders and distances.
    """

    parameters: int
    trained: int
    flops: int
    activations: int
    held: int
    tokens: int
    batch_size: int
    steps: int
    frozen: int = 0
    once: int = 0
    half: bool = True
    teacher: int = 0
    operators: int = 0


class Estimate(NamedTuple):
    """A plan on some GPUs of one kind.

    Attributes:
        micro_batch: most images that fit on one GPU at a time; 0 if not even one fits.
        accumulation: micro-batches of a step.
        memory: bytes on each GPU with this micro-batch.
        seconds_per_step: seconds of one optimizer step.
        tokens: tokens per second.
        days: days of all steps.
        by_starting: whether starting operators takes longer than their arithmetic.
    """

    micro_batch: int
    accumulation: int
    memory: float
    seconds_per_step: float
    tokens: float
    days: float
    by_starting: bool = False

    @property
    def duration(self) -> str:
        """The days as text, as by the function `duration`."""
        return duration(86_400 * self.days)


def duration(seconds: int | float) -> str:
    """Write seconds as text, in the largest unit of which there is at least one."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:{',.0f' if seconds >= 100 * length else '.3g'}} {unit}"
    return f"{seconds:.2g} seconds" if seconds >= 1 else "under a second"


def plan(config: BaseRunConfig, flow: TarFlowConfig | None = None) -> Plan:
    """Count the requirements of a run.

    flow: configuration of the teacher, which a student's run needs; default None. Raises ValueError if it is missing, and as
    `frozen`.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    of_frozen = frozen(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, objective, teacher = kind_of(config).parts(config, flow)
        if config.train.recompute:
            recompute_layers(model)
        trained = Trained(model, objective)
        parameters = sum(p.numel() for p in trained.parameters())
        resident_bytes = BYTES_PER_PARAMETER * parameters
        if teacher is not None:
            resident_bytes += 4 * sum(p.numel() for p in teacher.parameters())
        flops, operators = count_step(lambda: _loss(trained, config.model, 1).backward())
        teaching = 0 if teacher is None else count_flops(lambda: _taught(teacher))
        half = config.train.precision != "fp32"
        of_one_image, of_two_images = (_activation_bytes(trained, config.model, images, half) for images in (1, 2))
    activation_bytes = of_two_images - of_one_image
    resident_bytes += of_one_image - activation_bytes
    return Plan(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=parameters,
        flops=flops + of_frozen.flops,
        activations=activation_bytes + of_frozen.activations,
        held=resident_bytes + of_frozen.held,
        tokens=config.model.tokens,
        batch_size=config.train.batch_size,
        steps=config.train.steps,
        frozen=of_frozen.flops,
        once=of_frozen.once,
        half=half,
        teacher=teaching,
        operators=operators,
    )


def estimate(plan: Plan, gpu: Gpu, gpus: int = 8, efficiency: float = EFFICIENCY) -> Estimate:
    """Estimate the plan on `gpus` GPUs that each hold the whole model.

    efficiency: fraction of a GPU's peak that training reaches; default EFFICIENCY, an assumption. Raises ValueError if `gpus`
    does not divide the batch, or if the efficiency is not in (0, 1].
    """
    if gpus < 1 or plan.batch_size % gpus:
        raise ValueError(f"gpus was {gpus}; it must divide the batch of {plan.batch_size} images")
    if not 0 < efficiency <= 1:
        raise ValueError(f"efficiency was {efficiency}; it must be above 0 and at most 1")
    share = plan.batch_size // gpus
    room = math.floor((ROOM * gpu.memory - plan.held) / plan.activations)
    micro = max((d for d in range(1, min(share, room) + 1) if share % d == 0), default=0)
    work = plan.flops + plan.teacher if plan.half else plan.flops  # a teacher's operation takes as long as two
    parts = share // micro if micro else 0
    arithmetic = plan.batch_size * work / (gpus * (gpu.peak if plan.half else gpu.single) * efficiency)
    seconds = max(arithmetic, max(parts, 1) * plan.operators * gpu.started)
    return Estimate(
        micro,
        parts,
        plan.held + max(micro, 1) * plan.activations,
        seconds,
        plan.batch_size * plan.tokens / seconds,
        plan.steps * seconds / 86_400,
        seconds > arithmetic,
    )


def on_disk(config: BaseRunConfig) -> dict[str, int]:
    """Return the bytes that are stored on disk for each training image, {"latents" or "encoder tokens": bytes}.

    With data.flip, mirrored images are included.
    """
    m, found, each = config.model, {}, 2 * (1 + config.data.flip)
    if m.codec is not None:
        found["latents"] = each * 2 * m.dims  # means and deviations
    align = config.encoder
    if align is not None and align.targets == "cached":
        found["encoder tokens"] = each * m.tokens * token_width(align.encoder, m.grid, align.stage)
    return found


def _loss(trained: nn.Module, model: Any, images: int) -> Tensor:
    """Compute the loss of a step of `images` images."""
    y = torch.zeros(images, dtype=torch.int64) if model.num_classes else None
    x, mirrored = torch.zeros(images, *model.image_shape), torch.zeros(images, dtype=torch.bool)
    return trained(Batch(x, y, torch.arange(images), mirrored), StepNoise(0, 0, images, "cpu"))[0]


@torch.no_grad()
def _taught(flow: TarFlow) -> None:
    """Compute the flow's states of one image."""
    y = torch.zeros(1, dtype=torch.int64) if flow.config.num_classes else None
    flow(torch.zeros(1, *flow.config.image_shape), y)


def _activation_bytes(trained: nn.Module, model: Any, images: int, half: bool) -> int:
    """Count the bytes that a forward pass, in bfloat16 if `half`, keeps for the backward pass.

    Parameters are left out, and matrices of all pairs of tokens too: attention keeps these here, but a GPU's fused attention
    does not.
    """
    heads = model.width // model.head_dim

    def is_pairs(x: Tensor) -> bool:
        square = x.ndim > 2 and x.shape[-1] == x.shape[-2] >= model.tokens and x.shape[-1] != model.head_dim
        return square and x.shape[:-2] in ((images, heads), (images * heads,)) and heads > 1

    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        warnings.filterwarnings(
            "ignore", message="Mismatch dtype"
        )  # of a CPU's layer norm, which is not what is planned
        return count_saved(lambda: _loss(trained, model, images), trained.parameters(), is_pairs)
