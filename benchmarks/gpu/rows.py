"""All rows in their order, and the loop that runs them until the deadline."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.gpu import aligned, ceilings, inverses, kernels, loaders, passes, profiles, steps
from benchmarks.gpu.measure import free_memory, reason_of
from benchmarks.gpu.setting import Setting

GRACE, TIMES = 90.0, 4.0
"""Seconds that every row may take, and times what is expected of it, before it counts as hanging; our choice."""
FATAL = ("CUDA error", "device-side assert", "an illegal memory access", "unspecified launch failure")
"""Words of errors after which a process cannot use its GPU any more."""


class Row(NamedTuple):
    """expected: seconds on an H200 for a warm-up and two repeats of all its ways, measured or estimated from measurements."""

    n: int
    name: str
    expected: float
    run: Callable[[Setting], Iterable[dict[str, Any]]]
    needs_cuda: bool = False


def inverse(n: int, name: str, expected: float) -> Row:
    """A row of `inverses.CASES`."""
    return Row(n, name, expected, partial(inverses.inverse, n=n))


PROFILE = 31
"""Number of the row that writes the profile."""
ROWS = [
    Row(1, "copy of 8 GB", 1, ceilings.copying),
    Row(2, "8192^3 product, bf16", 1, partial(ceilings.product, precision="bf16", wanted=790)),
    Row(3, "8192^3 product, TF32", 1, partial(ceilings.product, precision="tf32", wanted=380)),
    Row(4, "8192^3 product, fp32", 2, partial(ceilings.product, precision="fp32", wanted=50)),
    Row(5, "step of 64, bf16, plain", 5, steps.plain),
    Row(6, "step of 64, bf16, compiled", 12, steps.compiled),
    Row(7, "batch 256 as 4 x 64, compiled", 6, steps.in_parts),
    Row(8, "batch 256 as 1 x 256, recomputed", 8, steps.recomputed),
    Row(9, "optimizer, clipping, average", 2, steps.update),
    Row(10, "plan against measured", 5, steps.planned),
    inverse(11, "inverse, 1 image, fp32, eager", 15),
    inverse(12, "inverse, 1 image, fp32, graph", 5),
    inverse(13, "inverse, 1 image, bf16, graph", 24),
    inverse(14, "inverse, 1 image, guided, bf16, graph", 24),
    Row(23, "one pass of a student, 1 image: eager, compiled", 10, passes.of_one),
    inverse(18, "inverse, 64 images, guided, bf16, graph", 48),
    Row(24, "one pass of a student, 16 and 64 images, bf16", 5, passes.of_many),
    Row(25, "aligned step by plain: forward, reverse, 2 sites", 5, aligned.step),
    Row(26, "pseudo-reverse by token-by-token with gradient, MID", 8, aligned.pseudo_reverse),
    Row(28, "images/s of the student, bf16", 3, passes.in_a_second),
    Row(30, "49 tokens, shipped flow, 1 image", 6, inverses.shipped),
    Row(27, "images/s, guided, denoised: bf16, TF32, fp32", 30, inverses.drawing),
    inverse(17, "inverse, 64 images, bf16, graph", 22),
    Row(20, "recording of a block, of all eight; first call", 4, inverses.recording, needs_cuda=True),
    Row(21, "cached attention: Triton and torch", 3, kernels.cached_attention),
    Row(22, "affine step, change of a sweep: Triton and torch", 3, kernels.affine_and_change),
    inverse(16, "inverse, 16 images, guided, fp32, graph", 26),
    inverse(15, "inverse, 16 images, fp32, graph", 18),
    inverse(19, "inverse, 64 images, bf16, eager", 8),
    Row(PROFILE, "profile", 8, profiles.profiles),
    Row(29, "loader: JPEGs of 256 pixels to 64", 8, loaders.reading),
]
LAST_USE = {15: ("theirs",), 26: ("mid",)}
"""Models that no row after this one needs."""


class Broken(RuntimeError):
    """The process cannot use its GPU any more; a new one goes on with the rows that are left."""


def run(s: Setting, deadline: float, rows: list[Row] | None = None) -> None:
    """Run the rows that the record lacks, in order, until `deadline` (seconds since the epoch).

    A row that is expected to pass it is left out; one that fails is recorded with its error, and the next one goes on.
    Raises Broken after an error that leaves the device unusable; its row is recorded.
    """
    left = [row for row in (ROWS if rows is None else rows) if row.n not in s.record.done]
    pace: list[float] = []
    with torch.compiler.set_stance("force_eager") if s.toy else nullcontext():
        while left:
            row = left[0]
            needs = {each.n: 0.0 if s.toy else each.expected * slowness(pace) for each in left}
            time_left = deadline - time.time()
            if row.needs_cuda and not s.cuda:
                leave_out(s, row, "needs CUDA")
            elif needs[row.n] >= time_left:
                leave_out(s, row, "time: the deadline would pass")
            else:
                s.budget = share(needs, row.n, time_left)
                taken = attempt(s, row, needs[row.n], time_left)
                if not s.toy:
                    pace.append(taken / s.budget * needs[row.n] / row.expected)
            s.forget(*LAST_USE.get(row.n, ()))
            left = left[1:]
    s.record.values["running"], s.record.values["finished"] = None, True
    s.record.write()


def attempt(s: Setting, row: Row, needs: float, time_left: float) -> float:
    """Run one row and record what comes of it; the seconds it took."""
    s.record.begin(row.n, row.name, min(max(GRACE, TIMES * needs), time_left + 5))
    start = time.time()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for entry in row.run(s):
                if s.toy:
                    entry = {**entry, "targets": [{**each, "reached": None} for each in entry["targets"]]}
                said = list(dict.fromkeys(str(each.message).split("\n")[0][:200] for each in caught))
                s.record.add(row.n, [{"name": row.name, **entry, "warnings": said}])
                print("\n".join([line(row, entry), *(f"    warning: {text}" for text in said)]), flush=True)
        s.record.end()
    except Exception as error:
        traceback.print_exc(limit=-3)
        leave_out(s, row, reason_of(error))
        if any(words in str(error) for words in FATAL):
            raise Broken(reason_of(error)) from error
    free_memory()
    return time.time() - start


def leave_out(s: Setting, row: Row, reason: str) -> None:
    """Record and print that a row was not run."""
    s.record.leave_out(row.n, row.name, reason)
    print(f"{row.n:3d} {row.name}: not run: {reason}", flush=True)


def slowness(pace: list[float]) -> float:
    """How much longer than expected rows have taken so far: their median, at least 0.5 and at most 4."""
    if len(pace) < 5:
        return 1.0
    return min(max(sorted(pace)[len(pace) // 2], 0.5), 4.0)


def share(needs: dict[int, float], n: int, time_left: float) -> float:
    """Seconds that a row may take: what it needs, and its part of what is over when all rows have that."""
    total = sum(needs.values())
    spare = max(time_left - total, 0.0) / 2
    return needs[n] + spare * (needs[n] / total if total else 0.0)


def line(row: Row, entry: dict[str, Any]) -> str:
    """One entry as text."""
    ours, words = entry["ours"], [f"{row.n:3d} {row.name}, {entry['case']}:"]
    if ours:
        words.append(f"{1000 * ours['seconds']:.4g} ms (IQR {ours['spread']:.0%}, n {ours['n']})")
    if entry.get("reason"):
        words.append(f"not run: {entry['reason']}")
    if entry.get("theirs / ours"):
        words.append(f"{entry['theirs / ours']:.2f} x ml-tarflow")
    for target in entry["targets"]:
        found = "-" if target["found"] is None else f"{target['found']:.3g}"
        verdict = {True: "reached", False: "missed", None: "not judged"}[target["reached"]]
        words.append(f"[{target['says']}: {found}, {verdict}]")
    return " ".join(words)
