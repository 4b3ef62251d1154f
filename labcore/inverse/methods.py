"""Methods to solve a block's fixed point: number of segments, start, and when a segment is solved.

The inverse of a block is the fixed point of x -> z exp(log_scale(x)) + shift(x), where token i's parameters depend on the
tokens before it. One solver with three settings covers the literature. As many segments as tokens is the sequential
inverse (TARFlow, sampling). One segment is Jacobi's method (SeJD, arXiv 2505.24791). A number between is
Gauss-Seidel-Jacobi (GS-Jacobi, arXiv 2505.12849). Named settings of papers are functions here; each names the choices
that its paper leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Start = Literal["z", "zeros"]
Rule = Literal["largest", "root-sum-square", "relative-square"]
Solver = Literal["sequential", "jacobi", "gs-jacobi"]
SOLVERS: tuple[Solver, ...] = ("sequential", "jacobi", "gs-jacobi")
STARTS: tuple[Start, ...] = ("z", "zeros")
SEGMENTS = 8
"""Default number of segments of "gs-jacobi": GS-Jacobi's number for its hard blocks."""


class Method(BaseModel):
    """How one block is solved. Each image is judged alone.

    Attributes:
        segments: number of equal parts of the tokens, solved one after another by sweeps. A sweep updates all tokens of a
            part.
        tolerance: a segment is solved when the change of a sweep, measured by `rule`, is at most this. None (default)
            sweeps until no value changes by more than rounding; this is exact and takes at most as many sweeps as a
            segment has tokens.
        max_sweeps: most sweeps of a segment; None (default) is no limit. Without a tolerance, `invert` warns if the limit
            ends a segment before it is exact. With a tolerance, as in GS-Jacobi's settings, `BlockStats.residual` has the
            final change.
        rule: "largest", the largest |change| of any value; "root-sum-square" of the change over the token width;
            "relative-square", the mean square of the change divided by that of the values.
        start: "z" (the block's input, which is the state of the block sampled before) or "zeros". The first token is
            always z's.
        bound: values that are not exact yet are clamped to [-bound, bound]; None (default) is no bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    segments: int = Field(ge=1)
    tolerance: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_sweeps: int | None = Field(None, ge=1)
    rule: Rule = "largest"
    start: Start = "z"
    bound: float | None = Field(None, gt=0, allow_inf_nan=False)


def named(
    solver: Solver,
    tokens: int,
    segments: int | None = None,
    tolerance: float | None = None,
    max_sweeps: int | None = None,
    start: Start = "z",
) -> Method:
    """Return the method of a solver's name, with the settings of `Method`. Raises ValueError for settings that do not fit."""
    if solver not in SOLVERS:
        raise ValueError(f"solver was {solver!r}; allowed are {', '.join(SOLVERS)}, a Method, or one Method per block")
    if tolerance is not None and not 0 < tolerance < float("inf"):
        raise ValueError(f"tolerance was {tolerance}; it must be above 0 and finite, and None is exact")
    if max_sweeps is not None and max_sweeps < 1:
        raise ValueError(f"max_sweeps was {max_sweeps}; it must be at least 1, and None is as many as it takes")
    if segments is not None and solver != "gs-jacobi":
        raise ValueError(f"segments={segments} is for solver 'gs-jacobi'; {solver!r} has a number of its own")
    if segments is not None and segments < 1:
        raise ValueError(f"segments was {segments}; it must be at least 1")
    usual = {"sequential": tokens, "jacobi": 1, "gs-jacobi": _largest_divisor(tokens, SEGMENTS)}[solver]
    return Method(segments=segments or usual, tolerance=tolerance, max_sweeps=max_sweeps, start=start)


def check_methods(methods: Sequence[Method], tokens: int, blocks: int) -> None:
    """Check that there is one method per block, and that its segments divide the tokens; ValueError otherwise."""
    if not all(isinstance(method, Method) for method in methods):
        raise ValueError(f"solver was {methods!r}; give a name, a Method, or one Method per block")
    if len(methods) != blocks:
        raise ValueError(f"{len(methods)} methods were given; one per block 1..T is needed, {blocks} of them")
    for number, method in enumerate(methods, 1):
        if tokens % method.segments:
            raise ValueError(
                f"block {number} has {method.segments} segments, which do not divide {tokens} tokens; allowed are "
                f"{', '.join(map(str, divisors(tokens)))}"
            )


def divisors(tokens: int) -> list[int]:
    """Return the divisors of `tokens`."""
    return [n for n in range(1, tokens + 1) if tokens % n == 0]


def _largest_divisor(tokens: int, most: int) -> int:
    return max(n for n in divisors(tokens) if n <= most)


def sejd(tokens: int, blocks: int, tau: float = 0.5) -> list[Method]:
    """Return selective Jacobi decoding (arXiv 2505.24791): the block next to z sequentially, the others by Jacobi from zeros.

    tau: a block is solved when a sweep changes no value by more; 0.5 (the paper's) by default.
    """
    jacobi = Method(segments=1, tolerance=tau, start="zeros")
    return [jacobi] * (blocks - 1) + [Method(segments=tokens)]


def gs_jacobi(
    blocks: int, stacked: dict[int, tuple[int, int]], others: int, tolerance: float = 1e-8, bound: float = 3.0
) -> list[Method]:
    """Return GS-Jacobi's "Stack-GS-J-Else" (arXiv 2505.12849, experiments): hard blocks in segments, each other block in one.

    Args:
        blocks: number of blocks.
        stacked: {block, counted from 1: (segments, most sweeps of each)}. The paper's "6-8-32-10" of 8 blocks, counted
            from 0 there, is `gs_jacobi(8, {7: (8, 32)}, 10)`.
        others: most sweeps of all other blocks.
        tolerance: as in `Method`; the default is that of the paper's code.
        bound: as in `Method`; the default is that of the paper's code.

    Raises:
        ValueError: a block in `stacked` does not exist.
    """
    common = {"tolerance": tolerance, "bound": bound, "rule": "root-sum-square"}
    methods = [Method(segments=1, max_sweeps=others, **common)] * blocks
    for number, (segments, sweeps) in stacked.items():
        if not 1 <= number <= blocks:
            raise ValueError(f"block {number} is stacked; blocks are 1 to {blocks}")
        methods[number - 1] = Method(segments=segments, max_sweeps=sweeps, **common)
    return methods


def starflow(tokens: int, blocks: int, chunk: int = 32, tolerance: float = 1e-3, sweeps: int = 32) -> list[Method]:
    """Return STARFlow-V's block-wise Jacobi: chunks of 32 tokens, from z, until the relative squared change is below 1e-3.

    Raises ValueError if `chunk` does not divide the tokens.
    """
    if chunk < 1 or tokens % chunk:
        raise ValueError(f"chunk was {chunk}; it must divide {tokens} tokens: {', '.join(map(str, divisors(tokens)))}")
    method = Method(segments=tokens // chunk, tolerance=tolerance, max_sweeps=sweeps, rule="relative-square")
    return [method] * blocks
