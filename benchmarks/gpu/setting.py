"""What all rows share: device, sizes, models, ml-tarflow's with the same weights, and the record so far."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.gpu.bounds import Bounds
from benchmarks.gpu.measure import Failed, Measured
from benchmarks.gpu.record import Check, Record
from labcore import BackwardConfig, BackwardModel, TarFlow, TarFlowConfig, zoo
from labcore.experiments.bench import reference_of
from labcore.rng import generator
from labcore.types import Batch

GUIDANCE = 1.5
STD = 0.002
"""Standard deviation by which weights are moved: at initialisation a flow is the identity."""


class Sizes(NamedTuple):
    """What is measured. images: the batches of inverses. sampled: images drawn at once. Shapes of kernels as in `kernels`."""

    flow: dict[str, Any]
    student: dict[str, Any]
    mid: dict[str, Any]
    images: tuple[int, int, int]
    batch: int
    parts: int
    mid_batch: int
    sampled: int
    copied: int  # bytes
    product: int  # rows and columns
    attention: tuple[int, int, int, int]
    affine: tuple[int, int, int]
    pictures: int
    workers: int


FULL = Sizes(
    flow=dict(
        image_size=64, channels=3, patch_size=4, width=1024, num_blocks=8, layers_per_block=8, num_classes=1000
    ),  # 817.6 M parameters
    student=dict(
        image_size=64, channels=3, patch_size=4, width=1024, num_blocks=8, layers_per_block=8, num_classes=1000
    ),
    mid=dict(image_size=64, channels=3, patch_size=4, width=256, num_blocks=4, layers_per_block=4, num_classes=10),
    images=(1, 16, 64),
    batch=64,
    parts=4,
    mid_batch=8,
    sampled=512,
    copied=8 * 10**9,
    product=8192,
    attention=(64, 16, 256, 64),
    affine=(256, 256, 48),
    pictures=2000,
    workers=16,
)
_SMALL = dict(image_size=8, channels=3, patch_size=4, width=64, num_blocks=2, layers_per_block=1, num_classes=5)
TOY = Sizes(
    flow=_SMALL,
    student=_SMALL,
    mid=_SMALL,
    images=(1, 2, 3),
    batch=2,
    parts=2,
    mid_batch=2,
    sampled=4,
    copied=2**16,
    product=32,
    attention=(2, 2, 8, 4),
    affine=(2, 4, 6),
    pictures=8,
    workers=0,
)


class Setting:
    """Models are made when a row first asks for them, and kept. `budget`: seconds that the row at hand may take for repeats."""

    def __init__(self, record: Record, reference: Path | None = None, sizes: Sizes | None = None):
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.sizes = sizes or (FULL if self.cuda else TOY)
        self.toy = self.sizes is TOY
        self.record, self.reference, self.budget = record, reference, 0.0
        self.exact: dict[tuple[int, float], Tensor] = {}  # (images, guidance) -> images of a float32 inverse

    @functools.cached_property
    def flow(self) -> TarFlow:
        """The flow that is trained and inverted, in eval mode and float32."""
        return self.moved(TarFlow, TarFlowConfig(**self.sizes.flow))

    @functools.cached_property
    def theirs(self) -> nn.Module | None:
        """ml-tarflow's model with the flow's weights; None where no clone was given."""
        if self.reference is None:
            return None
        with self.device:
            return reference_of(self.flow, self.reference)

    @functools.cached_property
    def student(self) -> BackwardModel:
        """A learned inverse with a block for each of the flow's, and one that denoises."""
        return self.moved(BackwardModel, BackwardConfig(**self.sizes.student, max_guidance=2 * GUIDANCE))

    @functools.cached_property
    def mid(self) -> TarFlow:
        """A smaller flow for what takes a gradient token by token."""
        return self.moved(TarFlow, TarFlowConfig(**self.sizes.mid))

    @functools.cached_property
    def shipped(self) -> tuple[TarFlow, BackwardModel]:
        """The trained flow that ships and its learned inverse; at toy size the toy ones."""
        if self.toy:
            return self.flow, self.student
        return tuple(zoo.load(name).to(self.device).eval() for name in ("fashion-tarflow", "fashion-biflow"))

    def moved(self, kind: type, config: Any) -> Any:
        """A model made on the device, with every weight moved by N(0, STD^2), in eval mode."""
        with torch.random.fork_rng(), self.device:
            torch.manual_seed(0)
            model = kind(config)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn_like(p), alpha=STD)
        return model.eval()

    def forget(self, *names: str) -> None:
        """Drop models that no later row needs."""
        for name in names:
            self.__dict__.pop(name, None)

    @property
    def bounds(self) -> Bounds:
        """Lower bounds by the ceilings measured so far."""
        return Bounds(self.record.values["ceilings"])

    def noise(self, model: nn.Module, images: int) -> tuple[Tensor, Tensor]:
        """Standard normal tokens (b, t, d) and labels (b,)."""
        c = model.config
        z = torch.randn(
            images, c.tokens, c.token_dim, generator=generator(0, "gpu", device=self.device), device=self.device
        )
        return z, self.labels(model, images)

    def labels(self, model: nn.Module, images: int) -> Tensor:
        """(b,) classes in turn."""
        return torch.arange(images, device=self.device) % model.config.num_classes

    def batch(self, images: int) -> Batch:
        """Images to train on."""
        z, y = self.noise(self.flow, images)
        return Batch(self.flow.unpatchify(z).clamp(-1, 1), y, torch.arange(images, device=self.device), y < 0)

    def autocast(self, precision: str) -> torch.autocast:
        """Autocast to bfloat16 for "bf16", off for any other."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")


def twin(module: nn.Module) -> Any:
    """Another module with the same weights in the same memory: to compile it leaves the first one as it is."""
    return copy.deepcopy(module, {id(x): x for x in (*module.parameters(), *module.buffers())})


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Products and convolutions of float32 in TensorFloat-32, or not."""
    try:
        from labcore.tf32 import use
    except ImportError:
        use = _use_tf32
    with use(on):
        yield


@contextlib.contextmanager
def _use_tf32(on: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def entry(
    case: str,
    ours: Measured | None,
    floor: float | None = None,
    theirs: Measured | Failed | None = None,
    checks: tuple[Check, ...] = (),
    **more: Any,
) -> dict[str, Any]:
    """One line of the record. floor: lower bound of our seconds. more: further facts that are finite numbers or texts."""
    found: dict[str, Any] = {"case": case, "floor_s": floor, "ours": ours and ours._asdict()}
    if theirs is not None:
        found["theirs"] = theirs.reason if isinstance(theirs, Failed) else theirs._asdict()
        found["theirs / ours"] = times_as_fast(ours, theirs)
    if ours is not None and floor:
        found["ours / floor"] = ours.seconds / floor
    return {**found, **more, "targets": [{**c._asdict(), "reached": c.reached} for c in checks]}


def times_as_fast(ours: Measured | None, theirs: Measured | Failed | None) -> float | None:
    """Their seconds by ours; None where one of them was not measured."""
    known = isinstance(ours, Measured) and isinstance(theirs, Measured)
    return theirs.seconds / ours.seconds if known else None


def at_most(name: str, found: float | None, limit: float, form: str = "") -> Check:
    """A target that is an upper bound."""
    return Check(f"{name} at most {form or f'{limit:g}'}", found, high=limit)


def at_least(name: str, found: float | None, limit: float) -> Check:
    """A target that is a lower bound."""
    return Check(f"{name} at least {limit:g}", found, low=limit)


def tf32_state() -> str:
    """The state of TensorFloat-32 outside of rows that set it, as text."""
    try:
        from labcore.tf32 import describe
    except ImportError:
        return f"products {torch.get_float32_matmul_precision()}, convolutions {torch.backends.cudnn.allow_tf32}"
    return describe()
