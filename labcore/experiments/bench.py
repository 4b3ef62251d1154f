"""Benchmark of a flow's forward pass, training step and inverses, with ml-tarflow's for comparison: `lab bench`.

The lower bound (`floor`) of an inverse is one parallel forward pass over the same tokens: an inverse does the same arithmetic,
but serially. All ways of one task are timed in turn, with the same weights, threads and number format. Errors are differences
from the sequential inverse in float64.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from labcore.flows.tarflow import TarFlow
from labcore.inverse import native
from labcore.inverse.calibrate import calibrate
from labcore.inverse.compiled import fits
from labcore.inverse.solve import invert
from labcore.memory import peak_of
from labcore.rng import StepNoise, normal_per_item
from labcore.timing import Timing, alternate, seconds_of
from labcore.train.objectives import Likelihood
from labcore.train.precision import try_compile
from labcore.train.recompute import transformer_layers
from labcore.types import Batch

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
FORWARD, STEP, INVERSE = "forward", "training step", "inverse"
THEIRS, OURS = "ml-tarflow", "sequential"
NATIVE, COMPILED = "native", "compiled"
WAYS = (THEIRS, OURS, NATIVE, COMPILED, "jacobi", "gs-jacobi", "calibrated")
TOLERANCE = 1e-4
"""Largest error of a pixel that "calibrated" may have, before rounding; our choice."""


class Row(NamedTuple):
    """The measurement of one way to compute one task.

    Attributes:
        precision: "fp32", or "bf16", which is autocast.
        ms: median milliseconds of a batch.
        first_ms: milliseconds of the first call, including compilation.
        spread: (max - min) / median of the times; None if the first call is the only one.
        floor: ms divided by the ms of the forward pass with the same batch and precision, without guidance. A guided inverse
            computes twice as much.
        error: largest error of a pixel.
        mb: peak memory in MB, measured in a separate call; on a CPU, the memory that the call adds to the process.
    """

    task: str
    way: str
    tokens: int
    blocks: int
    batch: int
    guidance: float
    precision: str
    ms: float
    first_ms: float
    spread: float | None
    floor: float | None
    error: float | None
    mb: float | None


class Cases(NamedTuple):
    """The cases of a benchmark: every batch with every precision, and inverses also with every guidance.

    Attributes:
        batches: numbers of images at a time.
        guidances: guidance scales of inverses; 0 is off.
        precisions: names out of `PRECISIONS`.
        ways: names out of `WAYS`; other ways are not timed.
    """

    batches: Sequence[int] = (1, 16, 100)
    guidances: Sequence[float] = (0.0,)
    precisions: Sequence[Precision] = ("fp32",)
    ways: Sequence[str] = WAYS


def bench(
    flow: TarFlow,
    cases: Cases = Cases(),  # noqa: B008
    reference: Path | None = None,
    repeats: int = 5,
    limit: float = 20.0,
    progress: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Time a flow's forward pass, training step and inverses on its device, in all cases.

    Args:
        flow: the flow, which is not changed.
        cases: the cases to time. Inverses in "bf16" are timed for "sequential" and "ml-tarflow" only. "native" needs a CPU with
            a C compiler, "compiled" a CPU and at most 32 rows, and "calibrated" a sequential inverse that takes at most a
            twentieth of the limit.
        reference: folder of a clone of apple/ml-tarflow; None (default) leaves ml-tarflow out.
        repeats: number of timings of each way; the median counts.
        limit: seconds; a way that takes longer is run once, and not with larger batches.
        progress: called with each row when it is done; default None.

    Raises:
        ValueError: the reference is not a clone of ml-tarflow, or ml-tarflow has no such model.
    """
    ml_tarflow = None if reference is None else reference_of(flow, reference)
    bencher = _Bench(flow, ml_tarflow, repeats, limit, progress or (lambda row: None))
    for precision in cases.precisions:
        for batch in cases.batches:
            bencher.batch(batch, precision, cases.guidances, cases.ways)
    return bencher.rows


def load_reference(folder: Path) -> Any:
    """Import the module transformer_flow from a clone's folder; ValueError if it is missing."""
    path = folder / "transformer_flow.py"
    if not path.is_file():
        raise ValueError(f"no {path}: give the folder of a clone of github.com/apple/ml-tarflow")
    spec = importlib.util.spec_from_file_location("ml_tarflow", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "Model"):
        raise ValueError(f"{path} has no Model: give the folder of a clone of github.com/apple/ml-tarflow")
    return module


def reference_of(flow: TarFlow, folder: Path) -> nn.Module:
    """Return ml-tarflow's model with this flow's weights, on its device; ValueError if ml-tarflow has no such model."""
    c, weights = flow.config, flow.to_apple()
    if c.width % 64:
        raise ValueError(
            f"the flow's width is {c.width}, and ml-tarflow's widths are multiples of 64; leave the reference out"
        )
    sizes = dict(img_size=c.image_size, channels=c.width, in_channels=c.channels, patch_size=c.patch_size)
    sizes |= dict(num_blocks=c.num_blocks, layers_per_block=c.layers_per_block, num_classes=c.num_classes)
    ml_tarflow = load_reference(folder).Model(**sizes, nvp=not c.volume_preserving)
    ml_tarflow.load_state_dict(weights)
    for module in ml_tarflow.modules():  # ml-tarflow makes all heads 64 channels wide
        if hasattr(module, "num_heads"):
            module.num_heads, module.sqrt_scale = c.width // c.head_dim, c.head_dim**-0.25
    return ml_tarflow.to(flow.device).eval()


class _Bench:
    """State of a benchmark: the rows so far, and the ways that were too slow to be run with more images."""

    def __init__(
        self, flow: TarFlow, ml_tarflow: nn.Module | None, repeats: int, limit: float, progress: Callable[[Row], None]
    ):
        self.flow = copy.deepcopy(flow).eval().requires_grad_(True)
        self.compiled = copy.deepcopy(self.flow)  # for the compiled training step
        self.ml_tarflow, self.repeats, self.limit, self.progress = ml_tarflow, repeats, limit, progress
        self.rows: list[Row] = []
        self.slow: dict[tuple[str, str, float, str], int] = {}  # the batch at which a way took too long

    def batch(self, batch: int, precision: Precision, guidances: Sequence[float], wanted: Sequence[str]) -> None:
        c = self.flow.config
        z = normal_per_item(0, "bench", range(batch), (c.tokens, c.token_dim)).to(self.flow.device, self.flow.dtype)
        y = torch.arange(batch, device=self.flow.device) % c.num_classes if c.num_classes else None
        x = self.flow.unpatchify(z).clamp(-1, 1)
        floor = self.time(FORWARD, self.forwards(x, y), batch, 0.0, precision)[OURS]
        self.time(STEP, self.steps(x, y, wanted), batch, 0.0, precision)
        for g in guidances:
            known = self.inverses(z, y, g, precision, wanted)
            slow = self.is_slow(INVERSE, OURS, g, precision, batch)
            exact = None if slow or not known else invert(copy.deepcopy(self.flow).double(), z.double(), y, g).x
            self.time(INVERSE, known, batch, g, precision, floor.seconds, exact)

    def forwards(self, x: Tensor, y: Tensor | None) -> dict[str, Callable[[], object]]:
        ways = {OURS: torch.no_grad()(partial(self.flow, x, y))}
        if self.ml_tarflow is not None:
            ways[THEIRS] = torch.no_grad()(partial(self.ml_tarflow, x, y))
        return ways

    def steps(self, x: Tensor, y: Tensor | None, wanted: Sequence[str]) -> dict[str, Callable[[], object]]:
        """Return the ways of a forward and backward pass of the likelihood, without an optimizer.

        "compiled" compiles the layers as `train.compile` does.
        """
        objective, noise = Likelihood(label_dropout=0.0).eval(), StepNoise(0, 0, len(x), str(x.device))
        no_class = None if y is None else y < 0

        def step(flow: TarFlow) -> None:
            objective(flow, Batch(x, y, y, no_class), noise)[0].backward()
            flow.zero_grad(set_to_none=True)

        def ml_tarflow() -> None:
            z, _, log_det = self.ml_tarflow(x + self.flow.config.noise_std * torch.randn_like(x), y)
            self.ml_tarflow.get_loss(z, log_det).backward()
            self.ml_tarflow.zero_grad(set_to_none=True)

        ways: dict[str, Callable[[], object]] = {OURS: partial(step, self.flow)}
        if self.ml_tarflow is not None:
            ways[THEIRS] = ml_tarflow
        if COMPILED in wanted and try_compile(transformer_layers(self.compiled), partial(step, self.compiled)):
            ways[COMPILED] = partial(step, self.compiled)
        return ways

    def inverses(
        self, z: Tensor, y: Tensor | None, g: float, precision: Precision, wanted: Sequence[str]
    ) -> dict[str, Callable[[], Tensor]]:
        def ours(**settings: Any) -> Callable[[], Tensor]:
            return lambda: invert(self.flow, z, y, g, **settings).x

        ways = {OURS: ours(compiled=False)}
        if self.ml_tarflow is not None:
            ways[THEIRS] = torch.no_grad()(lambda: self.ml_tarflow.reverse(z / self.flow.prior_var.sqrt(), y, g))
        if precision == "fp32":
            ways |= {name: ours(solver=name, tolerance=TOLERANCE / 10) for name in ("jacobi", "gs-jacobi")}
            if native.fits(z):
                ways[NATIVE] = ours()  # the default on a CPU
            if fits(len(z) * (2 if g else 1), z.device):
                ways[COMPILED] = ours(compiled=True)
            if (
                "calibrated" in wanted and seconds_of(ways[OURS]) <= self.limit / 20
            ):  # a calibration runs some hundred inverses
                ways["calibrated"] = ours(solver=calibrate(self.flow, z, y, g, tolerance=TOLERANCE).methods)
        return {name: way for name, way in ways.items() if name in wanted}

    def time(
        self,
        task: str,
        ways: dict[str, Callable[[], object]],
        batch: int,
        g: float,
        precision: Precision,
        floor: float | None = None,
        exact: Tensor | None = None,
    ) -> dict[str, Timing]:
        """Time the ways of one task, under autocast for "bf16", and add their rows."""
        ways = {name: way for name, way in ways.items() if not self.is_slow(task, name, g, precision, batch)}
        c, device = self.flow.config, self.flow.device.type
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sweeps that diverge are slow, and the row shows that
            first = {name: seconds_of(way) for name, way in ways.items()}
            for name, seconds in first.items():
                if self.too_slow(name, seconds):
                    self.slow[task, name, g, precision] = batch
            again = {name: way for name, way in ways.items() if not self.is_slow(task, name, g, precision, batch)}
            times = {name: Timing(first[name], math.nan) for name in ways} | alternate(again, self.repeats, warmup=0)
            for name, timing in times.items():
                by_floor = None if floor is None else timing.seconds / floor
                way = again.get(name)
                error = None if way is None or exact is None else float((way().double() - exact).abs().max())
                mb = None if way is None else self.memory(way)
                spread = None if way is None else timing.spread
                numbers = (1000 * timing.seconds, 1000 * first[name], spread, by_floor, error, mb)
                row = Row(task, name, c.tokens, c.num_blocks, batch, g, precision, *numbers)
                self.rows.append(row)
                self.progress(row)
        return times

    def too_slow(self, way: str, seconds: float) -> bool:
        """Return whether a first call exceeds the limit; that of "compiled" is exempt, because it compiles."""
        return way != COMPILED and seconds > self.limit

    def is_slow(self, task: str, way: str, g: float, precision: str, batch: int) -> bool:
        """Return whether the way was too slow with at most as many images; the forward pass is needed and never left out."""
        return task != FORWARD and batch >= self.slow.get((task, way, g, precision), math.inf)

    def memory(self, way: Callable[[], object]) -> float | None:
        if self.flow.device.type == "cpu":
            found = peak_of(way)
            return None if found is None else found / 1e6
        if self.flow.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.flow.device)
        way()
        return torch.cuda.max_memory_allocated(self.flow.device) / 1e6


def described(rows: Sequence[Row]) -> str:
    """Write a Markdown table of the rows; the speed-up is over ml-tarflow if it was timed, else over the sequential way."""
    than = THEIRS if any(row.way == THEIRS for row in rows) else OURS
    case = ("task", "tokens", "blocks", "batch", "g", "precision", "way")
    head = (*case, "ms", "spread", f"speed-up over {than}", "time / lower bound", "error", "MB")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        others = [r for r in rows if r[:1] + r[2:7] == row[:1] + row[2:7]]
        times = next((r.ms / row.ms for r in others if r.way == than), None)
        cells = (
            row.task,
            row.tokens,
            row.blocks,
            row.batch,
            f"{row.guidance:g}",
            row.precision,
            row.way,
            f"{row.ms:.4g}",
        )
        cells += ("once" if row.spread is None else f"{row.spread:.0%}", _number(times, ".2f"))
        cells += (_number(row.floor, ".1f"), _number(row.error, ".0e"), _number(row.mb, ".0f"))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


def threads() -> int:
    """Return the number of threads that torch uses on the CPU."""
    return torch.get_num_threads()


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
