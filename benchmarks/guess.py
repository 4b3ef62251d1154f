"""Sweeps that a start from the learned inverse saves in the shipped flow's hardest block, which is next to z.

Target: save half of the sweeps. To reach it, a start must be within some thousandths of the solution (notebook 06, section 5).
"""

from __future__ import annotations

import torch

from labcore import zoo
from labcore.experiments import solvers
from labcore.inverse.sample import prior_noise

FLOW, STUDENT = "fashion-itarflow", "fashion-biflow"
TOLERANCE = 1e-3
"""Largest change of a value in the last sweep."""


@torch.no_grad()
def guess(batches: tuple[int, ...] = (1, 16), seeds: tuple[int, ...] = (0, 1, 2)) -> dict:
    """Return one row for each batch and seed: RMS distance of each start (z, learned) from the solution, and its sweeps."""
    flow, student = zoo.load(FLOW), zoo.load(STUDENT)
    rows, block = [], len(flow.blocks)
    for batch in batches:
        for seed in seeds:
            z, y = prior_noise(flow, seed, range(batch)), torch.arange(batch) % flow.config.num_classes
            states, solution = student(z, y, 0.0).states, solvers.solutions(flow, z, y, 0.0)[0]
            row = {"batch": batch, "seed": seed}
            for name, start, first in (("z", "z", z), ("learned", states, states[0])):
                changes = solvers.trace(flow, z, y, 0.0, start)[block].changes.tolist()
                row[f"{name} off"] = round(float((first - solution).square().mean().sqrt()), 3)
                row[f"sweeps from {name}"] = next(
                    (i + 1 for i, c in enumerate(changes) if c <= TOLERANCE), len(changes)
                )
            rows.append(row)
            print("guess      ", row)
    return {"block": block, "tolerance": TOLERANCE, "rows": rows}
