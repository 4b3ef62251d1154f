"""One block's inverse as a fixed point: x_i = z_i exp(log_scale_i(x_<i)) + shift_i(x_<i), solved segment by segment.

A sweep gives all tokens of a segment new values at once, from the parameters at their previous values. Parameters are
strictly causal, so the first token that a sweep updates is exact after it, for any other values. So a segment of n tokens
is exact after n sweeps at the latest (GS-Jacobi, arXiv 2505.12849; SeJD, arXiv 2505.24791), and segments of one token are
the sequential inverse. Exact tokens, and leading tokens that a sweep leaves within the tolerance, are not swept again:
their keys and values stay in the cache.

A change is not an error: `labcore.inverse.calibrate` measures the error that a small change leaves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labcore.flows.metablock import MetaBlock
from labcore.inverse.methods import Method
from labcore.inverse.params import GuidedParams
from labcore.kernels.affine import affine_inverse
from labcore.kernels.change import sweep_change
from labcore.types import BlockStats

GROWTH = 1.25
"""An image diverges if the change of its last sweep allowed is this many times the smallest before; our choice."""


class Sweep(NamedTuple):
    """Argument of a callback, after every sweep.

    Attributes:
        block: number of the block, from 1.
        number: number of the sweep in its block, from 1.
        first: first updated token, in the block's own order.
        last: first token after the updated ones.
        rows: (r,) the updated images.
        x: (b, t, d) all values now, in raster order; a copy.
        change: (r,) by the method's rule; None for a single token, which is exact.
    """

    block: int
    number: int
    first: int
    last: int
    rows: Tensor
    x: Tensor
    change: Tensor | None


Report = Callable[[Sweep], None]


def solve_block(
    block: MetaBlock,
    number: int,
    z: Float[Tensor, "b t d"],
    params: GuidedParams,
    method: Method,
    guess: Float[Tensor, "b t d"] | None = None,
    report: Report | None = None,
) -> tuple[Float[Tensor, "b t d"], BlockStats]:
    """Return x with block(x) = z, and statistics. Raster order in and out; `guess` replaces the method's start.

    An image whose sweeps lead to NaN or infinity, or whose last allowed sweep changes clearly more than an earlier one,
    is solved token by token in the rest of that segment, with a warning.
    """
    z = block.permute(z)
    x = z.clone() if method.start == "z" else torch.zeros_like(z)
    if guess is not None:
        x = block.permute(guess).clone()
    x[:, :1] = z[:, :1]
    solving = _Solving(x, z, params, method, _reporter(block, number, report))
    length = z.shape[1] // method.segments
    for begin in range(0, z.shape[1], length):
        if begin + length > 1:  # the first token is z's
            solving.segment(max(begin, 1), begin + length)
    if solving.diverged:
        warnings.warn(
            f"block {number}: sweeps diverged after token {solving.diverged}, and the rest of the segment was solved token by "
            "token; more segments, a bound or a better start may help",
            stacklevel=5,
        )
    residual = None if method.segments == z.shape[1] else solving.residual
    return block.permute(x), BlockStats(number, solving.sweeps, residual, solving.diverged > 0, solving.converged)


class _Solving:
    """One block being solved: x holds the values so far, all in the block's own order."""

    def __init__(self, x: Tensor, z: Tensor, params: GuidedParams, method: Method, report: Callable):
        self.x, self.z, self.params, self.method, self.report = x, z, params, method, report
        self.sweeps, self.residual, self.diverged, self.converged = 0, 0.0, 0, True
        self.all = torch.arange(len(x), device=x.device)

    def segment(self, first: int, last: int) -> None:
        """Solve tokens first ... last - 1; all before are done, and the cache holds all but the last of those."""
        self._sweep_until_done(first, last)
        self.params.keep(last - 1)

    def _sweep_until_done(self, first: int, last: int) -> None:
        rows, part = self.all, self.params  # the images that are still swept, and their parameters
        exact = first  # the first token that is not exact yet
        sweeps_before, least_change = self.sweeps, [float("inf")] * len(self.x)
        while exact < last:
            where = slice(None) if part is self.params else rows
            new = self._new(part, where, exact, last)
            if last - exact == 1:
                self._set(where, rows, exact, last, new, None)
                break
            sweep = _compare(new, self.x[where, exact:last], self.method)
            least_change = [min(pair) for pair in zip(least_change, sweep.change, strict=True)]
            at_end = self.sweeps - sweeps_before == self.method.max_sweeps
            outcome = _outcome(sweep, least_change, at_end)
            # the first token is exact after a sweep; those that settled in every image still swept go with it
            front = 1 + min((sweep.settled[i] for i in outcome.going_on), default=0)
            self._set(where, rows, exact, last, self._bounded(new, sweep, front), sweep.change)
            some_ended = len(outcome.going_on) < len(rows)
            if some_ended:
                self._note(sweep, outcome.finished, at_end)
                self._merge(rows, part, first, last)
                if outcome.diverged:
                    self._token_by_token(rows, part, outcome.diverged, first, exact, last)
                if not outcome.going_on:
                    return
            exact += front
            part.keep(exact - 1)
            if some_ended:
                going_on = torch.tensor(outcome.going_on, device=rows.device)
                least_change = [least_change[i] for i in outcome.going_on]
                rows, part = rows[going_on], part.take(going_on)
        self._merge(rows, part, first, last)

    def _note(self, sweep: _Comparison, finished: list[int], at_end: bool) -> None:
        """Record the largest final change of the images, and whether all images became exact that should be."""
        self.residual = max([self.residual, *(sweep.change[i] for i in finished)])
        to_be_exact = self.method.tolerance is None
        if to_be_exact and at_end and not all(sweep.done[i] for i in finished):
            self.converged = False

    def _new(self, part: GuidedParams, where: slice | Tensor, first: int, last: int) -> Tensor:
        """Return the values of tokens first ... last - 1 with the parameters at their current values: one sweep."""
        self.sweeps += 1
        log_scale, shift = part.after(self.x[where, first - 1 : last - 1])
        return affine_inverse(self.z[where, first:last], log_scale, shift).to(self.x.dtype)

    def _set(
        self, where: slice | Tensor, rows: Tensor, first: int, last: int, new: Tensor, change: list[float] | None
    ) -> None:
        """Give the images `rows` new values, and report the sweep. where: the same images, as an index of x."""
        self.x[where, first:last] = new
        self.report(self, rows, first, last, change)

    def _bounded(self, new: Tensor, sweep: _Comparison, front: int) -> Tensor:
        """Clamp `new` to the bound, except its first `front` tokens, each image's settled tokens, and images that are done."""
        if self.method.bound is None:
            return new
        all_tokens = new.shape[1]
        free_tokens = [
            all_tokens if done else max(front, settled + 1)
            for done, settled in zip(sweep.done, sweep.settled, strict=True)
        ]
        is_free = torch.arange(all_tokens)[None] < torch.tensor(free_tokens)[:, None]
        bounded = new.clamp(-self.method.bound, self.method.bound)
        return torch.where(is_free[:, :, None].to(new.device), new, bounded)

    def _token_by_token(
        self, rows: Tensor, part: GuidedParams, diverged: list[int], first: int, exact: int, last: int
    ) -> None:
        """Solve those of `rows` at the places `diverged` sequentially, from the first token that is not exact.

        Their values are no start: a NaN among later tokens reaches all tokens through the matrix product of attention.
        """
        self.diverged = self.diverged or exact
        places = torch.tensor(diverged, device=rows.device)
        part.keep(exact - 1)
        rows, part = rows[places], part.take(places)
        for i in range(exact, last):
            self._set(rows, rows, i, i + 1, self._new(part, rows, i, i + 1), None)
        self._merge(rows, part, first, last)

    def _merge(self, rows: Tensor, part: GuidedParams, first: int, last: int) -> None:
        """Copy keys and values of this segment into the cache of the whole batch, which later segments need."""
        if part is not self.params and last < self.z.shape[1]:
            self.params.put(rows, part, first - 1, last - 1)


class _Comparison(NamedTuple):
    """Of each image: its change by the method's rule, how many of its first tokens have settled, whether it is done, and
    whether anything changed by more than rounding."""

    change: list[float]
    settled: list[int]
    done: list[bool]
    rough: list[bool]


def _compare(new: Tensor, old: Tensor, method: Method) -> _Comparison:
    """Compare the values of one sweep with those before it. The host reads the device once."""
    largest, still = sweep_change(new, old)  # of each token
    settled = still
    if method.tolerance is None or method.rule == "largest":
        change = largest.amax(1)
        if method.tolerance is not None:
            settled = largest <= method.tolerance
    elif method.rule == "root-sum-square":
        change = (new - old).square().sum((1, 2)).sqrt() / new.shape[-1]
    else:
        change = (new - old).square().mean((1, 2)) / new.square().mean((1, 2)).clamp(min=torch.finfo(new.dtype).tiny)
    done = still.all(-1) if method.tolerance is None else change <= method.tolerance
    settled_in_front = settled.cumprod(-1).sum(-1)  # tokens before the first that has not settled
    columns = [change, settled_in_front, done, ~still.all(-1)]
    change, counts, done, rough = torch.stack([column.double() for column in columns]).tolist()
    return _Comparison(change, list(map(int, counts)), list(map(bool, done)), list(map(bool, rough)))


class _Outcome(NamedTuple):
    """Places of images among those swept: to be solved token by token, solved as far as it goes, and to be swept again."""

    diverged: list[int]
    finished: list[int]
    going_on: list[int]


def _outcome(sweep: _Comparison, least_change: list[float], at_end: bool) -> _Outcome:
    """Decide for each image what follows a sweep. least_change: of each so far. at_end: it was the last allowed sweep."""
    outcome = _Outcome([], [], [])
    for i, change in enumerate(sweep.change):
        if _diverges(change, least_change[i], sweep.rough[i], at_end):
            outcome.diverged.append(i)
        elif at_end or sweep.done[i]:
            outcome.finished.append(i)
        else:
            outcome.going_on.append(i)
    return outcome


def _diverges(change: float, least: float, rough: bool, at_end: bool) -> bool:
    """Return whether an image diverges: its change is not finite or, at the last allowed sweep, well above its smallest."""
    return not change < float("inf") or (at_end and rough and change > GROWTH * least)


def _reporter(block: MetaBlock, number: int, report: Report | None) -> Callable:
    """Return a function for `_Solving` to call after every sweep: it passes a `Sweep` to `report`, if there is one."""
    if report is None:
        return lambda *_: None

    def report_sweep(
        solving: _Solving, rows: Int[Tensor, " r"], first: int, last: int, change: list[float] | None
    ) -> None:
        x = block.permute(solving.x).clone()
        changes = None if change is None else torch.tensor(change)
        report(Sweep(number, solving.sweeps, first, last, rows, x, changes))

    return report_sweep
