"""Measurements of notebook 06 on solving a flow's blocks: errors after each sweep, comparison of ways, and starting guesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.flows.metablock import Labels
from labcore.flows.tarflow import TarFlow
from labcore.inverse.fixed_point import Sweep
from labcore.inverse.methods import Method, Solver, Start
from labcore.inverse.solve import invert
from labcore.timing import alternate


class Trace(NamedTuple):
    """Sweeps of one block. Numbers are the largest over images and values; tokens are in the block's own order.

    changes: (sweeps,) change of each sweep. errors: (sweeps, t) distance of each token from the solution after each sweep.
    """

    changes: Tensor
    errors: Tensor


def solutions(flow: TarFlow, z: Float[Tensor, "b t d"], y: Labels = None, guidance: float = 0.0) -> list[Tensor]:
    """Return the states x^(T-1) ... x^0 of the sequential inverse, in sampling order; tokens are in raster order."""
    found: dict[int, Tensor] = {}
    invert(flow, z, y, guidance, callback=lambda sweep: found.__setitem__(sweep.block, sweep.x))
    return [found[number] for number in range(len(flow.blocks), 0, -1)]


def trace(
    flow: TarFlow,
    z: Float[Tensor, "b t d"],
    y: Labels = None,
    guidance: float = 0.0,
    start: Start | Sequence[Tensor] = "z",
    sweeps: int | None = None,
) -> dict[int, Trace]:
    """Trace at most `sweeps` Jacobi sweeps of every block T ... 1; each block starts from its exact input."""
    blocks = len(flow.blocks)
    wanted = dict(zip(range(blocks, 0, -1), solutions(flow, z, y, guidance), strict=True))
    seen: dict[int, list[tuple[float, Tensor]]] = {number: [] for number in wanted}

    def look(sweep: Sweep) -> None:
        error = (sweep.x - wanted[sweep.block]).abs().amax((0, 2))
        change = 0.0 if sweep.change is None else float(sweep.change.max())
        seen[sweep.block].append((change, flow.blocks[sweep.block - 1].permute(error[None, :, None])[0, :, 0].cpu()))

    invert(flow, z, y, guidance, solver="jacobi", start=start, callback=look)
    found = {}
    for number, rows in seen.items():
        changes, errors = zip(*rows[:sweeps], strict=True)
        found[number] = Trace(torch.tensor(changes), torch.stack(errors))
    return found


class Compared(NamedTuple):
    """One way of inverting: median seconds, largest error of a pixel, and the sweeps of each block in sampling order."""

    seconds: float
    error: float
    sweeps: tuple[int, ...]


def compare(
    flow: TarFlow,
    z: Float[Tensor, "b t d"],
    y: Labels,
    guidance: float,
    ways: Mapping[str, Solver | Sequence[Method]],
    repeats: int = 3,
) -> dict[str, Compared]:
    """Compare ways with the sequential inverse, which is the first; they are timed in turn, so drift affects all equally."""
    solvers: dict[str, Solver | Sequence[Method]] = {"sequential": "sequential", **ways}
    outputs = {}

    def once(name: str) -> None:
        outputs[name] = invert(flow, z, y, guidance, solver=solvers[name])

    times = alternate({name: partial(once, name) for name in solvers}, repeats, warmup=0)
    exact = outputs["sequential"].x
    return {
        name: Compared(
            times[name].seconds,
            float((out.x - exact).abs().max()),
            tuple(stats.sweeps for stats in out.stats),
        )
        for name, out in outputs.items()
    }


def sweeps_by_guess(
    flow: TarFlow,
    z: Float[Tensor, "b t d"],
    y: Labels,
    guidance: float,
    distances: Sequence[float],
    tolerance: float = 1e-3,
    seed: int = 0,
) -> dict[float, tuple[int, ...]]:
    """Return {distance: sweeps of each block in sampling order}; starts are the solution plus normal noise of that RMS."""
    states = solutions(flow, z, y, guidance)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed)).to(z)
    found = {}
    for distance in distances:
        start = [state + distance * noise for state in states]
        out = invert(flow, z, y, guidance, solver="jacobi", tolerance=tolerance, start=start)
        found[distance] = tuple(stats.sweeps for stats in out.stats)
    return found


PAPERS = (
    ("GS-Jacobi", "ImageNet 128, conditional", "133.2", "29.4", "4.53", "5.06 / 5.09"),
    ("GS-Jacobi", "AFHQ", "109.2", "20.5", "5.32", "13.60 / 13.73"),
    ("GS-Jacobi", "ImageNet 64, unconditional", "109.1", "36.8", "2.96", "14.67 / 14.80"),
    ("GS-Jacobi", "ImageNet 64, conditional", "12.2", "5.0", "2.51", "4.42 / 4.42"),
    ("SeJD", "CIFAR-10", "9.56", "2.63", "3.6", "9.71 / 10.20"),
    ("SeJD", "CIFAR-100", "9.57", "2.04", "4.7", "8.22 / 8.19"),
    ("SeJD", "AFHQ", "186.3", "41.2", "4.5", "15.42 / 15.44"),
)
"""Reported results of arXiv 2505.12849 (8 A800) and 2505.24791 (two L40S): paper, flow, seconds of the sequential inverse and
of the paper's method, speed-up as the paper gives it, and FID of both."""


def papers_table() -> str:
    """Write the papers' reported results as a Markdown table."""
    head = "| paper | flow | sequential, s | paper's method, s | speed-up | FID, sequential / paper's method |"
    return "\n".join([head, "|---" * 6 + "|", *(f"| {' | '.join(row)} |" for row in PAPERS), ""])


def compared_table(found: Mapping[str, Compared]) -> str:
    """Write a Markdown table of ways compared with the first one, the sequential inverse."""
    first = next(iter(found.values()))
    lines = ["| way | ms | speed-up | largest error | sweeps of each block, from z to the image |", "|---" * 5 + "|"]
    for name, one in found.items():
        sweeps = ", ".join(map(str, one.sweeps))
        lines.append(
            f"| {name} | {1000 * one.seconds:.0f} | {first.seconds / one.seconds:.2f} | {one.error:.1e} | {sweeps} |"
        )
    return "\n".join([*lines, ""])
