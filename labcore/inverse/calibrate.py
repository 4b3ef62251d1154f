"""Calibration: the fastest sufficiently exact method for each block, measured on the model and this machine.

The change of a sweep says little about the remaining error, and the time of a sweep depends on machine, batch and dtype.
So both are measured against the sequential inverse, block by block from the same input, and then for the whole chain. The
sequential inverse is also tried as compiled C code on a CPU, and as a recorded CUDA graph. The result
is a `Calibration`: one `Method` per block, with a bound of twice the block's largest value. It is stored in a file next
to the model, and rejected if loaded with different weights.
"""

from __future__ import annotations

import itertools
import math
import platform
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from labcore import provenance
from labcore.files import sha256_of
from labcore.flows.metablock import Labels
from labcore.flows.tarflow import TarFlow
from labcore.guidance import Schedule
from labcore.inverse import native
from labcore.inverse.fixed_point import Sweep
from labcore.inverse.methods import STARTS, Method, check_methods, divisors
from labcore.inverse.params import GuidedBlock, guided_blocks
from labcore.inverse.solve import invert, invert_block
from labcore.jsonfile import alone, read_json, write_json
from labcore.timing import alternate

FILE = "solvers.json"
"""Name of the file, which is next to a model's weights."""
CHECKSUM = "sha256"
"""Name of an entry's checksum in the file."""

CALIBRATION_VERSION = 1
"""Version of the solvers and of how they are measured. Raise it with every change after which measured methods may be slower
or less exact than a calibration says; older calibrations are refused then."""

RECORDINGS: dict[str, tuple[bool | None, ...]] = {"cuda": (None, True)}
"""Device -> values of `compiled` that are tried in addition to plain code."""

TIGHTER = (1.0, 0.1, 0.01)
"""Fractions of the allowed error that are tried as the tolerance of the sweeps, in this order; our choice."""


class Trial(BaseModel):
    """Measurement of one method on one block.

    Attributes:
        block: number of the block, from 1.
        method: the method.
        seconds: median time of a solution, in seconds.
        error: largest |difference| from the sequential solution, in units of pixels.
        sweeps: number of sweeps.
        compiled: as in `labcore.invert`; False for methods that sweep.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: int
    method: Method
    seconds: float
    error: float
    sweeps: int
    compiled: bool | None = False


class Calibration(BaseModel):
    """The fastest methods within `tolerance` for one model, and the machine on which they were measured.

    Attributes:
        model: hash of the model's weights.
        device: name of the device, with the number of threads of a CPU.
        dtype: number format of z.
        batch: number of images.
        guided: whether guidance was on.
        tolerance: largest allowed error, in units of pixels.
        methods: one per block 1..T.
        error: largest |difference| of an image from the sequential inverse's, in units of pixels.
        speedup: seconds of the plain sequential inverse divided by the seconds of these methods, for the whole inverse.
        trials: all measurements.
        compiled: how sequential blocks are computed, as `labcore.invert` takes it; None (automatic) in older
            calibrations.
        version: `CALIBRATION_VERSION` of the code that measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    device: str
    dtype: str
    batch: int = Field(ge=1)
    guided: bool
    tolerance: float = Field(gt=0)
    methods: tuple[Method, ...]
    error: float
    speedup: float
    trials: tuple[Trial, ...]
    compiled: bool | None = None
    version: int = 1

    def check(self, flow: TarFlow) -> None:
        """Raise ValueError if this was measured on another model, or by another version of the solvers."""
        if self.version != CALIBRATION_VERSION:
            raise ValueError(
                f"this calibration was measured by version {self.version} of the solvers, and this is version "
                f"{CALIBRATION_VERSION}; calibrate again"
            )
        if (found := provenance.weights_hash(flow)) != self.model:
            raise ValueError(
                f"this calibration was measured on a model with weights {self.model}, and this one has {found}; "
                "calibrate again"
            )


@torch.no_grad()
def calibrate(
    flow: TarFlow,
    z: Float[Tensor, "b t d"],
    y: Labels = None,
    guidance: float = 0.0,
    guidance_schedule: Schedule = "constant",
    attn_temp: float = 1.0,
    tolerance: float = 1e-3,
    segments: Sequence[int] | None = None,
    repeats: int = 3,
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Try methods on every block, and keep the fastest whose error stays within `tolerance`.

    A block that no method solves faster stays sequential. If the errors of the blocks add up to more than the tolerance,
    all blocks are solved to a tenth of it, and so on.

    Args:
        flow: the flow.
        z: noise (b, t, d) to measure with, standard normal, of the batch size that will be used.
        y: as in `invert`.
        guidance: as in `invert`.
        guidance_schedule: as in `invert`.
        attn_temp: as in `invert`.
        tolerance: largest allowed error, in units of pixels; above 0.
        segments: numbers of segments to try; default the divisors of the tokens that are at most half of them.
        repeats: timings of each method; the median counts.
        progress: called with a line of text for each step; default None.

    Raises:
        ValueError: as `invert`, and for a tolerance that is not above 0.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance was {tolerance}; it must be above 0")
    tokens, settings = flow.config.tokens, (y, guidance, guidance_schedule, attn_temp)
    parts = [n for n in divisors(tokens) if 2 * n <= tokens] if segments is None else list(segments)
    for n in parts:
        check_methods([Method(segments=n)] * len(flow.blocks), tokens, len(flow.blocks))
    states: dict[int, Tensor] = {}

    def keep(sweep: Sweep) -> None:
        states[sweep.block] = sweep.x

    exact = invert(flow, z, *settings, callback=keep, compiled=False).x
    guided = guided_blocks(flow, z, *settings)
    blocks = [_Trials(one, states.get(one.number + 1, z), states[one.number], repeats) for one in guided]
    compiled = _fastest_recording(blocks, _faster_ways(z), tolerance)
    for block in blocks:
        block.sequential = block.plain if compiled is False else block.recorded[compiled]
    sequential = [block.plain.method for block in blocks]
    choices = (_choice(blocks, parts, tolerance * share, progress) for share in TIGHTER)  # made as they are asked for
    methods, error = sequential, 0.0
    for choice in itertools.chain(choices, [sequential]):
        x = invert(flow, z, *settings, solver=choice, compiled=compiled).x
        error_of_choice = float((x - exact).abs().max())
        if error_of_choice <= tolerance:
            methods, error = choice, error_of_choice
            break
    else:
        compiled = False
    inverses = {
        "sequential": lambda: invert(flow, z, *settings, compiled=False),
        "chosen": lambda: invert(flow, z, *settings, solver=methods, compiled=compiled),
    }
    seconds = {name: timing.seconds for name, timing in alternate(inverses, repeats, warmup=0).items()}
    if seconds["chosen"] > seconds["sequential"]:  # each block's choice won by chance
        methods, compiled, error = sequential, False, 0.0
        seconds["chosen"] = seconds["sequential"]
    return Calibration(
        model=provenance.weights_hash(flow),
        device=device_of(flow),
        dtype=str(z.dtype).removeprefix("torch."),
        batch=len(z),
        guided=any(one.g is not None for one in guided),
        tolerance=tolerance,
        methods=tuple(methods),
        error=error,
        speedup=seconds["sequential"] / seconds["chosen"],
        trials=tuple(trial for block in blocks for trial in block.trials),
        compiled=compiled,
        version=CALIBRATION_VERSION,
    )


def _choice(
    blocks: Sequence[_Trials], parts: Sequence[int], wished: float, progress: Callable[[str], None] | None
) -> list[Method]:
    """Return the fastest method of each block with an error of at most `wished`."""
    methods = []
    for block in blocks:
        method = block.best(parts, wished)
        methods.append(method)
        if progress is not None:
            progress(f"block {block.guided.number}: {method.segments} segments, {len(block.trials)} methods tried")
    return methods


def _fastest_recording(blocks: Sequence[_Trials], candidates: Sequence[bool | None], tolerance: float) -> bool | None:
    """Return the value of `compiled` that solves all blocks sequentially in the least time; False is plain code.

    A candidate whose error exceeds the tolerance in a block is left out.
    """
    best, least = False, sum(block.plain.seconds for block in blocks)
    for compiled in candidates:
        trials = [block.try_recording(compiled) for block in blocks]
        seconds = sum(trial.seconds for trial in trials)
        if seconds < least and all(trial.error <= tolerance for trial in trials):
            best, least = compiled, seconds
    return best


def _faster_ways(z: Tensor) -> tuple[bool | None, ...]:
    """Return the values of `compiled` that may be faster than plain code for this batch."""
    return (None,) if native.fits(z) else RECORDINGS.get(z.device.type, ())


class _Trials:
    """All trials on one block. z: its input when it is inverted. exact: the state that the sequential solver makes of that."""

    def __init__(self, guided: GuidedBlock, z: Tensor, exact: Tensor, repeats: int):
        self.guided, self.z, self.exact, self.repeats = guided, z, exact, repeats
        self.bound = 2 * float(self.exact.abs().max()) or None
        self.trials: list[Trial] = []
        self.plain = self.sequential = self._try(Method(segments=z.shape[1]))
        self.recorded: dict[bool | None, Trial] = {}

    def try_recording(self, compiled: bool | None) -> Trial:
        """Measure time and error of the sequential method with this value of `compiled`."""
        self.recorded[compiled] = self._try(self.plain.method, compiled)
        return self.recorded[compiled]

    def best(self, parts: Sequence[int], wished: float) -> Method:
        """Return the fastest method with an error of at most `wished`; each is tried with smaller and smaller tolerances."""
        good = [self.sequential]
        for segments in parts:
            for start in STARTS:
                for share in TIGHTER:
                    method = Method(segments=segments, start=start, tolerance=wished * share, bound=self.bound)
                    trial = self._try(method)
                    if trial.error <= wished:
                        good.append(trial)
                        break
        return min(good, key=lambda trial: trial.seconds).method

    def _try(self, method: Method, compiled: bool | None = False) -> Trial:
        solve = partial(invert_block, self.guided, self.z, method, compiled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a method that diverges is slow, and not chosen for that
            x, stats = solve()
            seconds = alternate({"": solve}, self.repeats, warmup=0)[""].seconds
        error = float((x - self.exact).abs().max())
        number, sweeps = self.guided.number, stats.sweeps
        trial = Trial(block=number, method=method, seconds=seconds, error=error, sweeps=sweeps, compiled=compiled)
        self.trials.append(trial)
        return trial


def save(calibration: Calibration, file: Path) -> None:
    """Add a calibration to `file`, replacing one for the same circumstances.

    Calibrations of another model or of another version are dropped. A damaged file is replaced, with a warning.
    """
    same = (calibration.model, calibration.version)
    with alone(file):
        try:
            saved = read(file) if file.is_file() else []
        except ValueError as error:
            warnings.warn(f"{error}. The file is replaced now", stacklevel=2)
            saved = []
        others = [c for c in saved if (c.model, c.version) == same and _key(c) != _key(calibration)]
        write_json(file, [_with_checksum(c.model_dump(mode="json")) for c in [*others, calibration]])


def load(file: Path, flow: TarFlow, batch: int, guided: bool = False, tolerance: float | None = None) -> Calibration:
    """Return the calibration in `file` for this model, device and dtype with the nearest batch size.

    tolerance: None (default) takes the tightest measured one. Raises ValueError if there is none, or if the file is
    damaged or belongs to another model; the message says how to make one.
    """
    if batch < 1:
        raise ValueError(f"batch was {batch}; it must be at least 1")
    wish = "" if tolerance is None else f" --tolerance {tolerance:g}"
    how = f"make one with  lab calibrate MODEL --batch-size {batch}{' --guidance G' if guided else ''}{wish}"
    if not file.is_file():
        raise ValueError(f"there is no calibration {file}; {how}")
    calibrations = read(file)
    calibrations[0].check(flow)
    device, dtype = device_of(flow), str(flow.dtype).removeprefix("torch.")
    of_this_kind = [c for c in calibrations if (c.device, c.dtype, c.guided) == (device, dtype, guided)]
    fits = [c for c in of_this_kind if tolerance in (None, c.tolerance)]
    if not fits:
        has = "; ".join(
            f"{c.device}, {c.dtype}, batch {c.batch}, guided {c.guided}, to {c.tolerance:g}" for c in calibrations
        )
        raise ValueError(f"{file} has no calibration for {device}, {dtype}, guided {guided}{wish}: it has {has}; {how}")
    return min(fits, key=lambda c: (c.tolerance, abs(math.log(c.batch / batch))))


def described(calibration: Calibration) -> str:
    """Return a table with each block's method in sampling order, its error, and its time next to the sequential one."""
    rows = [("block", "segments", "start", "last change", "sweeps", "error", "ms", "sequential ms")]
    for number in range(len(calibration.methods), 0, -1):
        chosen = calibration.methods[number - 1]
        trials = [trial for trial in calibration.trials if trial.block == number]  # the first is the sequential one
        of_chosen = [trial for trial in trials if trial.method == chosen]
        best = next((trial for trial in of_chosen if trial.compiled == calibration.compiled), of_chosen[0])
        last = "exact" if chosen.tolerance is None else f"{chosen.tolerance:.0e}"
        times = (f"{1000 * best.seconds:.1f}", f"{1000 * trials[0].seconds:.1f}")
        rows.append(
            (str(number), str(chosen.segments), chosen.start, last, str(best.sweeps), f"{best.error:.1e}", *times)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    summary = f"{calibration.speedup:.2f} times as fast as sequential, error {calibration.error:.1e}"
    if any(trial.compiled is not False for trial in calibration.trials):
        summary += {False: "", None: ", native or recorded", True: ", compiled and recorded"}[calibration.compiled]
    return "\n".join([*lines, f"the whole inverse at batch {calibration.batch}: {summary}"])


def device_of(flow: TarFlow) -> str:
    """Return the device's name, with the number of threads of a CPU: a calibration is valid only there."""
    if flow.device.type == "cuda":
        return torch.cuda.get_device_name(flow.device)
    return f"{platform.machine()} {flow.device.type}, {torch.get_num_threads()} threads"


def read(file: Path) -> list[Calibration]:
    """Return all calibrations in a file; ValueError if it is damaged."""
    try:
        calibrations = [Calibration.model_validate(_checked(entry)) for entry in read_json(file)]
    except (ValueError, TypeError):
        calibrations = []
    if not calibrations:
        raise ValueError(f"{file} is damaged or is not a calibration; delete it and calibrate again")
    return calibrations


def _with_checksum(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, CHECKSUM: sha256_of(entry)}


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without its checksum; ValueError if it has changed. Entries of earlier versions have no checksum."""
    values = {name: value for name, value in entry.items() if name != CHECKSUM}
    if entry.get(CHECKSUM, sha256_of(values)) != sha256_of(values):
        raise ValueError(f"{CHECKSUM} differs")
    return values


def _key(c: Calibration) -> tuple:
    return c.device, c.dtype, c.batch, c.guided, c.tolerance
