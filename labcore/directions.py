"""Directions of an alignment, the adjoint sweeps of "reverse" (`labcore.align.features`), and their checks."""

from __future__ import annotations

from typing import Literal, get_args

from labcore.hints import nearest

Direction = Literal["forward", "detach", "reverse", "reverse-literal"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def check_direction(direction: str, adjoint_sweeps: int) -> None:
    """Raise ValueError for an unknown direction, and for sweeps that are negative or not allowed with it."""
    if direction not in DIRECTIONS:
        raise ValueError(
            f"direction was {direction!r}{nearest(str(direction), DIRECTIONS)}; allowed are {', '.join(DIRECTIONS)}"
        )
    if adjoint_sweeps < 0:
        raise ValueError(f"adjoint_sweeps was {adjoint_sweeps}; it counts sweeps: 0 is the paper's, t - 1 is exact")
    if adjoint_sweeps and direction != "reverse":
        raise ValueError(
            f"adjoint_sweeps was {adjoint_sweeps} with direction {direction!r}; only 'reverse' has sweeps, leave it at 0"
        )


def check_sweeps(adjoint_sweeps: int, tokens: int) -> None:
    """Raise ValueError for more sweeps than the full gradient of this number of tokens needs."""
    if adjoint_sweeps >= tokens:
        raise ValueError(
            f"adjoint_sweeps was {adjoint_sweeps}; with {tokens} tokens, {tokens - 1} give the full gradient: give 0 to "
            f"{tokens - 1}"
        )
