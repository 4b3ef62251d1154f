"""Parameters, FLOPs and memory of a training step, and the days of all steps on GPUs of a kind.

A step of the run's own code is carried out on tensors without values, so nothing is computed and nothing is downloaded.
Parameters and FLOPs are torch's counts. Memory counts what the run holds between forward and backward pass, and not what
kernels need besides. Frozen networks take part (`labcore.plan.frozen`). Seconds are FLOPs by the vendor's peak times an
efficiency that is assumed. Neither memory nor seconds have been compared with a GPU yet.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labcore.config import BaseRunConfig, TarFlowConfig
from labcore.encoders.specs import token_width
from labcore.evaluate.flops import count_flops, count_saved
from labcore.flows.tarflow import TarFlow
from labcore.kinds import kind_of
from labcore.plan.frozen import frozen
from labcore.rng import StepNoise
from labcore.train.loop import Trained
from labcore.train.recompute import recompute_layers
from labcore.types import Batch

BYTES_PER_PARAMETER = 20
"""float32 weights, gradient, AdamW's two moments, and the averaged weights."""
EFFICIENCY = 0.4
"""Of a GPU's peak in training; our assumption."""
ROOM = 0.9
"""Of a GPU's memory that a run may fill; our choice."""


class Gpu(NamedTuple):
    """A kind of GPU: dense bfloat16 peak and float32 peak in FLOP/s, and memory in bytes, as its vendor says.

    Of all of these TensorFloat-32's peak is half of bfloat16's.
    """

    peak: float
    single: float
    memory: float


GPUS = {
    "h200": Gpu(989e12, 67e12, 141e9),
    "h100": Gpu(989e12, 67e12, 80e9),
    "a100": Gpu(312e12, 19.5e12, 80e9),
    "a100-40": Gpu(312e12, 19.5e12, 40e9),
    "l40s": Gpu(362e12, 91.6e12, 48e9),
    "rtx-4090": Gpu(165e12, 82.6e12, 24e9),
}


class Plan(NamedTuple):
    """What a run takes, whatever it runs on.

    parameters: of the model. trained: with the heads of an alignment. flops: of one image in a training step, forward and
    backward, a multiply-add being two; frozen: those of them that frozen networks take beside a frozen flow. activations:
    bytes that one image holds between the passes. held: bytes of weights, gradients, optimizer and average, of weights in
    bfloat16, and of frozen networks. tokens: of one image. once: FLOPs of one training image before the first step. half:
    whether it trains in bfloat16; "auto" does, as on a GPU that has it. teacher: those FLOPs that the flow under a learned
    inverse takes, in TensorFloat-32 where the rest is in bfloat16.
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


class Estimate(NamedTuple):
    """A plan on `gpus` GPUs of a kind. micro_batch: the most images that fit on one at a time, 0 where not even one does.

    memory: bytes on each GPU with it. accumulation: micro-batches of a step. tokens: per second. days: of all steps.
    """

    micro_batch: int
    accumulation: int
    memory: float
    seconds_per_step: float
    tokens: float
    days: float

    @property
    def duration(self) -> str:
        """The days in words, as `duration`."""
        return duration(86_400 * self.days)


def duration(seconds: int | float) -> str:
    """Seconds in words, in the largest unit of which there is at least one."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:{',.0f' if seconds >= 100 * length else '.3g'}} {unit}"
    return f"{seconds:.2g} seconds" if seconds >= 1 else "under a second"


def plan(config: BaseRunConfig, flow: TarFlowConfig | None = None) -> Plan:
    """What a run takes. flow: the flow that a learned inverse inverts; ValueError where it is missing. Raises as `frozen`."""
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
        flops = count_flops(lambda: _loss(trained, config.model, 1).backward())
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
    )


def estimate(plan: Plan, gpu: Gpu, gpus: int = 8, efficiency: float = EFFICIENCY) -> Estimate:
    """The plan on `gpus` GPUs that each hold the whole model. ValueError for numbers that cannot be."""
    if gpus < 1 or plan.batch_size % gpus:
        raise ValueError(f"gpus was {gpus}; it must divide the batch of {plan.batch_size} images")
    if not 0 < efficiency <= 1:
        raise ValueError(f"efficiency was {efficiency}; it must be above 0 and at most 1")
    share = plan.batch_size // gpus
    room = math.floor((ROOM * gpu.memory - plan.held) / plan.activations)
    micro = max((d for d in range(1, share + 1) if share % d == 0 and d <= room), default=0)
    work = plan.flops + plan.teacher if plan.half else plan.flops  # a teacher's operation takes as long as two
    seconds = plan.batch_size * work / (gpus * (gpu.peak if plan.half else gpu.single) * efficiency)
    return Estimate(
        micro,
        share // micro if micro else 0,
        plan.held + max(micro, 1) * plan.activations,
        seconds,
        plan.batch_size * plan.tokens / seconds,
        plan.steps * seconds / 86_400,
    )


def on_disk(config: BaseRunConfig) -> dict[str, int]:
    """Bytes that are kept on disk for each training image, by what they are; mirrored images have their own."""
    m, found, each = config.model, {}, 2 * (1 + config.data.flip)
    if m.codec is not None:
        found["latents"] = each * 2 * m.dims  # means and deviations
    align = config.encoder
    if align is not None and align.targets == "cached":
        found["encoder tokens"] = each * m.tokens * token_width(align.encoder, m.grid, align.stage)
    return found


def _loss(trained: nn.Module, model: Any, images: int) -> Tensor:
    """The loss of a step of so many images."""
    y = torch.zeros(images, dtype=torch.int64) if model.num_classes else None
    x, mirrored = torch.zeros(images, *model.image_shape), torch.zeros(images, dtype=torch.bool)
    return trained(Batch(x, y, torch.arange(images), mirrored), StepNoise(0, 0, images, "cpu"))[0]


@torch.no_grad()
def _taught(flow: TarFlow) -> None:
    """The flow's states of one image."""
    y = torch.zeros(1, dtype=torch.int64) if flow.config.num_classes else None
    flow(torch.zeros(1, *flow.config.image_shape), y)


def _activation_bytes(trained: nn.Module, model: Any, images: int, half: bool) -> int:
    """Bytes that a forward pass, in bfloat16 if `half`, keeps for the backward pass, parameters left out.

    Left out too: matrices of all pairs of tokens, which attention keeps here and a GPU's fused attention does not.
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
