"""Rows 11 to 20, 27 and 30: exact inverses, token by token and otherwise, and images drawn in a second."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.measure import LEAST, Measured, in_turn, one, summary
from benchmarks.gpu.setting import GUIDANCE, Setting, at_least, at_most, entry, tf32, times_as_fast
from labcore import invert, sample
from labcore.timing import seconds_of

SLOWNESS = 3
"""Times its lower bound that drawing is expected to take."""


class Case(NamedTuple):
    """images: which of the sizes' batches. graph: tokens by a CUDA graph; on a CPU by the compiled program.

    seconds: target, None for no target. times: target of ml-tarflow's seconds by ours. beside: the row that has timed
    ml-tarflow on the same inverse already.
    """

    images: int
    guided: bool
    precision: str
    graph: bool
    seconds: float | None = None
    times: float | None = None
    beside: int | None = None


CASES = {
    11: Case(0, False, "fp32", False, 2.1, 1.3),
    12: Case(0, False, "fp32", True, 0.7, 3, 11),
    13: Case(0, False, "bf16", True, 0.5, 5),
    14: Case(0, True, "bf16", True, 0.5, 10),
    15: Case(1, False, "fp32", True, 1.0, 3),
    16: Case(1, True, "fp32", True, 1.4, 4),
    17: Case(2, False, "bf16", True, 0.8, 3),
    18: Case(2, True, "bf16", True, 1.2, 4),
    19: Case(2, False, "bf16", False, beside=17),
}


def ways_of(graph: bool) -> dict[str, bool | None]:
    """Name -> `compiled` of `labcore.invert`: the plain way, or every way to record a CUDA graph that there is."""
    if not graph:
        return {"eager": False}
    automatic = inspect.signature(invert).parameters["compiled"].default is None
    return {**({"graph": None} if automatic else {}), "compiled graph": True}


def inverse(s: Setting, n: int) -> list[dict[str, Any]]:
    """One inverse of `CASES`, its largest error against float32, and ml-tarflow's on the same weights in the same format."""
    case = CASES[n]
    images, g = s.sizes.images[case.images], GUIDANCE if case.guided else 0.0
    z, y = s.noise(s.flow, images)

    def ours(compiled: bool | None) -> Tensor:
        with s.autocast(case.precision):
            return invert(s.flow, z, y, g, compiled=compiled).x

    kinds = ways_of(case.graph)
    ways: dict[str, Callable[[], object]] = {name: partial(ours, compiled) for name, compiled in kinds.items()}
    known = theirs_of(s, case.beside)
    if s.theirs is not None and known is None:
        ways["theirs"] = their_inverse(s, z, y, g, case.precision)
        warm_up(s, z, y, g, case.precision)
    with tf32(False):
        found = in_turn(ways, s.budget, least=LEAST if case.graph else 0)
        errors = {name: difference(ways[name](), exact(s, images, g)) for name in kinds if found[name].reason is None}
    theirs = found.get("theirs", known)
    floor = s.bounds.inverse(s.flow, images, case.guided, case.precision)
    entries = []
    for name in kinds:
        if found[name].reason is not None:
            entries.append(entry(name, None, floor, theirs, reason=found[name].reason))
            continue
        checks = [] if case.seconds is None else [at_most("s", found[name].seconds, case.seconds)]
        if theirs is not None and case.times is not None:
            checks.append(at_least("times ml-tarflow", times_as_fast(found[name], theirs), case.times))
        more = {"images": images, "guidance": g, "precision": case.precision, "error": errors[name]}
        entries.append(entry(name, found[name], floor, theirs, tuple(checks), **more))
    return entries


def their_inverse(s: Setting, z: Tensor, y: Tensor, g: float, precision: str) -> Callable[[], Tensor]:
    """ml-tarflow's inverse of the same noise; without a gradient, and in autocast for "bf16"."""

    @torch.no_grad()
    def reverse() -> Tensor:
        with s.autocast(precision):
            x = s.theirs.reverse(z / s.flow.prior_var.sqrt(), y, g)
        if precision == "fp32":
            s.exact[len(z), g] = x
        return x

    return reverse


@torch.no_grad()
def warm_up(s: Setting, z: Tensor, y: Tensor, g: float, precision: str) -> None:
    """One block of ml-tarflow's inverse, untimed: kernels are loaded, and cuDNN's plans for every length are made.

    In bfloat16 the plans take about ten seconds for each batch size, in the first inverse of a process alone.
    """
    every = s.theirs.blocks
    s.theirs.blocks = every[:1]
    try:
        with s.autocast(precision):
            s.theirs.reverse(z, y, g)
    finally:
        s.theirs.blocks = every


def theirs_of(s: Setting, n: int | None) -> Measured | None:
    """What an earlier row has measured of ml-tarflow."""
    found = None if n is None else s.record.entry(n)
    theirs = None if found is None else found.get("theirs")
    return Measured(**theirs) if isinstance(theirs, dict) else None


def exact(s: Setting, images: int, g: float) -> Tensor:
    """The same inverse in float32: ml-tarflow's where it was computed, else ours as recorded, which tests/gpu compares."""
    if (images, g) not in s.exact:
        z, y = s.noise(s.flow, images)
        s.exact[images, g] = invert(s.flow, z, y, g).x
    return s.exact[images, g]


def difference(x: Tensor, reference: Tensor) -> float:
    """Largest |x - reference| by the largest |reference|."""
    return float((x - reference).abs().max() / reference.abs().max())


def recording(s: Setting) -> list[dict[str, Any]]:
    """Row 20: seconds of recording tokens as CUDA graphs for sizes of which no recording is kept.

    The first call of row 12 compiles too.
    """
    from labcore.inverse import graphed

    taken: list[float] = []
    record = graphed.record

    def timed(*args: Any, **options: Any) -> Any:
        result = []
        taken.append(seconds_of(lambda: result.append(record(*args, **options))))
        return result[0]

    z, y = s.noise(s.flow, s.sizes.images[0])
    forget_recordings()
    graphed.record = timed
    try:
        invert(s.flow, z, y, compiled=next(iter(ways_of(True).values())))
    finally:
        graphed.record = record
    if not taken:
        raise RuntimeError("nothing was recorded; a warning above says why")
    first = [row["ours"]["first_s"] for row in s.record.values["rows"] if row["n"] == 12 and row["ours"]]
    by = s.record.seconds(12)
    checks = (
        at_most("share of the inverse", by and sum(taken) / by, 0.05),
        at_most("s of the first call", max(first, default=None), 60),
    )
    more = {"all_s": sum(taken), "first_call_s": max(first, default=None)}
    return [entry("a recording", Measured(*summary(taken)), checks=checks, **more)]


def forget_recordings() -> None:
    """Drop the recordings that are kept between calls, where they are."""
    try:
        from labcore.inverse.workspaces import IDLE
    except ImportError:
        return
    with IDLE.lock:
        IDLE.idle.clear()


def drawing(s: Setting) -> Iterator[dict[str, Any]]:
    """Row 27: images/s of guided and denoised drawing in bfloat16, TF32 and float32; fewer images where time is short."""
    for precision in ("bf16", "tf32", "fp32"):
        images = s.sizes.sampled
        expected = SLOWNESS * (s.bounds.inverse(s.flow, images, True, precision) or 0.0)
        if expected > s.budget / 3:
            images = max(images // 4, 1)
        ours = one(draw(s, images, precision), s.budget / 3, least=0)
        parts = s.bounds.inverse(s.flow, images, True, precision), s.bounds.denoising(s.flow, images, precision)
        floor = None if None in parts else sum(parts)
        checks = [at_most("floors", floor and ours.seconds / floor, 2)]
        if precision == "bf16":
            checks.append(at_most("minutes of 50,000 images", 50_000 / images * ours.seconds / 60, 30))
        more = {"images": images, "images_per_s": images / ours.seconds}
        yield entry(precision, ours, floor, checks=tuple(checks), **more)


def draw(s: Setting, images: int, precision: str) -> Callable[[], Tensor]:
    """So many guided and denoised images at once, as `labcore.sample` draws them."""
    y = s.labels(s.flow, images)

    def drawn() -> Tensor:
        with tf32(precision == "tf32"), s.autocast(precision):
            return sample(s.flow, images, y, GUIDANCE, seed=0, batch_size=images)

    return drawn


def shipped(s: Setting) -> list[dict[str, Any]]:
    """Row 30: one image of the shipped flow by each way there is."""
    flow, student = s.shipped
    z, y = s.noise(flow, 1)
    ways: dict[str, Callable[[], object]] = {
        "eager": lambda: invert(flow, z, y, compiled=False),
        **{name: partial(lambda c: invert(flow, z, y, compiled=c), way) for name, way in ways_of(True).items()},
        "jacobi 1e-3": lambda: invert(flow, z, y, solver="jacobi", tolerance=1e-3),
        "student": torch.no_grad()(lambda: student(z, y)),
    }
    found = in_turn(ways, s.budget, least=3)
    best = min((each for each in found.values() if each.reason is None), key=lambda each: each.seconds)
    entries = []
    for name, each in found.items():
        if each.reason is not None:
            entries.append(entry(name, None, reason=each.reason))
        else:
            checks = (at_least("times as fast as eager", found["eager"].seconds / best.seconds, 10),)
            entries.append(entry(name, each, checks=checks if each is best else ()))
    return entries
