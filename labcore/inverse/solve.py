"""The exact inverse of a flow: x_i = z_i exp(log_scale_i(x_<i)) + shift_i(x_<i), block by block from z to the image.

How a block is solved is a `Method` (`labcore.inverse.methods`): token by token, by sweeps over all tokens, or in segments.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.finite import all_finite, check_result, require_finite
from labcore.flows.metablock import Labels, MetaBlock
from labcore.flows.tarflow import TarFlow
from labcore.guidance import Schedule, per_block, token_weights
from labcore.inverse import native
from labcore.inverse.compiled import CompiledDecoder
from labcore.inverse.decode import BlockDecoder
from labcore.inverse.fixed_point import Report, solve_block
from labcore.inverse.graphed import GraphedDecoder, RecordedDecoder
from labcore.inverse.methods import STARTS, Method, Solver, Start, check_methods, named
from labcore.inverse.params import GuidedParams
from labcore.kernels.attention import without_cudnn
from labcore.nn.patch import check_tokens
from labcore.types import BlockStats, InverseOutput

_DECODERS = {"cpu": CompiledDecoder, "cuda": GraphedDecoder}
"""Device -> how single tokens are computed with compiled=True; on others the plain way."""
_AUTOMATIC: dict[str, type[BlockDecoder]] = {"cuda": RecordedDecoder}
"""Device -> how single tokens are computed where nothing is said; on others the plain way. Untested on GPU."""


@torch.no_grad()
def invert(
    flow: TarFlow,
    z: Float[Tensor, "b t d"],
    y: Labels = None,
    guidance: float | Tensor | list[float] | tuple[float, ...] = 0.0,
    guidance_schedule: Schedule = "constant",
    attn_temp: float = 1.0,
    solver: Solver | Method | Sequence[Method] = "sequential",
    tolerance: float | None = None,
    max_sweeps: int | None = None,
    start: Start | Sequence[Tensor] | None = None,
    segments: int | None = None,
    callback: Report | None = None,
    compiled: bool | None = None,
) -> InverseOutput:
    """Noise to images; the exact inverse of `flow(x, y).z` at guidance 0.

    z: (b, t, d) in raster order, left as it was; not scaled by the prior's variance. y: as in the flow.
    guidance: g in c + g (c - u), 0 is off and skips the second branch; a number, one per image (b,), or a list with one
    per block 1..T. guidance_schedule: "linear" gives position j of a block's own order g j / (t - 1).
    attn_temp: temperature of the attention logits in the second branch; an unconditional model (or y=None) needs one other
    than 1 to have two different branches at all.
    solver: "sequential", "jacobi", "gs-jacobi" with `segments` (8, or fewer where that does not divide the tokens), a Method
    for all blocks, or a Method for each block 1..T. tolerance: a block's segment is done when no value of an image changes by
    more in a sweep; None is exact with every solver. max_sweeps: of a segment; None is as many as it takes; where it ends a
    segment that no tolerance ends, images are not exact, and a UserWarning says so once for the call. start: "z" (what
    the block is given) or "zeros", or a guess of every state in sampling order, T tensors (b, t, d): a learned inverse's
    `states`, of which only the first T are looked at. callback: called after every sweep with a `Sweep`.
    compiled: how the tokens of blocks that are solved token by token are computed. None is automatic: on a CPU in float32 by
    compiled C code (`labcore.inverse.native`; the plain way with a callback and without a C compiler), on CUDA in small
    batches by a recorded CUDA graph, which takes no compiling (untested on GPU), elsewhere the plain way. True: by programs
    that torch.compile makes once for a power of two of images (some 10 s; it says so), recorded on CUDA; ignored on other
    devices than a CPU and CUDA. False: the plain way. The results differ by rounding.
    tolerance, max_sweeps and segments are parts of a Method, and refused beside one; so is a named start.
    Returns images (b, c, h, w), not clipped, and one BlockStats per block in sampling order. Builds no graph.
    Raises ValueError for shapes, labels or settings that do not fit, and `labcore.finite.NotFinite` where images are not
    finite, with the first such block in sampling order.
    """
    check_latents(flow, z)
    flow.check_labels(y, z.shape[0], ranges=True)
    guesses = None if start is None or isinstance(start, str) else _guesses(flow, z, start)
    methods = _methods(flow, solver, segments, tolerance, max_sweeps, start if guesses is None else None)
    if not 0 < attn_temp < math.inf:
        raise ValueError(
            f"attn_temp was {attn_temp}; it divides attention logits and must be above 0 and finite (1 changes nothing)"
        )
    weights = token_weights(guidance_schedule, flow.config.tokens, z.device)
    strengths = per_block(guidance, len(flow.blocks), z)
    if y is None and attn_temp == 1.0 and any(g is not None for g in strengths):
        raise ValueError(
            "guidance without labels compares two equal branches; give labels y, or attn_temp other than 1 (0.3 at "
            "guidance 0.2 is what ImageNet 64 without classes uses)"
        )
    decoder_for(compiled, z.device)  # refuses other values before the first block
    tokens, stats, states = z, [], {}
    for number in range(len(flow.blocks), 0, -1):  # x^T = z back to x^0, the image
        block, method, g = flow.blocks[number - 1], methods[number - 1], strengths[number - 1]
        guess = None if guesses is None else guesses[len(flow.blocks) - number]
        tokens, block_stats = invert_block(
            block, number, tokens, y, g, weights, attn_temp, method, compiled, guess, callback
        )
        stats.append(block_stats)
        states[number] = tokens
    _warn_of_unconverged(stats)
    _check_states(states, guidance, attn_temp)
    return InverseOutput(flow.unpatchify(tokens), tuple(stats))


def invert_block(
    block: MetaBlock,
    number: int,
    z: Float[Tensor, "b t d"],
    y: Labels,
    g: Float[Tensor, "b 1"] | None,
    weights: Float[Tensor, " t"],
    attn_temp: float,
    method: Method,
    compiled: bool | None = None,
    guess: Float[Tensor, "b t d"] | None = None,
    callback: Report | None = None,
) -> tuple[Float[Tensor, "b t d"], BlockStats]:
    """x with block(x) = z, and how it went; raster order in and out. Arguments as in `invert` and `GuidedParams`."""
    token_by_token = method.segments == z.shape[1]
    if token_by_token and compiled is None and callback is None and native.fits(z):
        x = native.solve(block, z, y, g, weights, attn_temp)
        return x, BlockStats(number, z.shape[1] - 1, None, False)
    decoder = decoder_for(compiled, z.device) if token_by_token else BlockDecoder
    params = GuidedParams(block, y, z, g, weights, attn_temp, decoder)
    with without_cudnn(z.device):
        return solve_block(block, number, z, params, method, guess, callback)


def _check_states(states: Mapping[int, Tensor], guidance: Any, attn_temp: float) -> None:
    """`NotFinite` unless the last state is finite; one look. states: {block: its state}, in sampling order."""
    last = list(states.values())[-1]
    if not all_finite(last):
        block = next(number for number, state in states.items() if not all_finite(state))
        advice = "give less guidance, or a z of the scale of the flow's prior; else the flow has diverged"
        check_result(last, "invert", f"from block {block} on", settings_in_words(guidance, attn_temp), advice)


def settings_in_words(guidance: Any, attn_temp: float) -> str:
    """What was given, for messages; guidance by image or block is its range."""
    values = torch.as_tensor(guidance, dtype=torch.float64).flatten().tolist()
    low, high = min(values), max(values)
    words = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return f"guidance was {words}, attn_temp {attn_temp:g}"


def decoder_for(compiled: bool | None, device: torch.device) -> type[BlockDecoder]:
    """The decoder of single tokens for `compiled`, as `invert` takes it. ValueError for other values."""
    if compiled not in (None, True, False):
        raise ValueError(f"compiled was {compiled!r}; allowed are True, False, and None for automatic")
    if compiled is None:
        return _AUTOMATIC.get(device.type, BlockDecoder)
    return _DECODERS.get(device.type, BlockDecoder) if compiled else BlockDecoder


def way_of(
    flow: TarFlow, solver: Solver | Method | Sequence[Method] = "sequential", compiled: bool | None = None
) -> str:
    """How single tokens are computed on the flow's device: "plain", "native", "compiled", "recorded", "compiled and recorded".

    "plain" too where no block is solved token by token. For records, since each way rounds differently. Batches too large for
    a recording go the plain way all the same.
    """
    methods = _methods(flow, solver, None, None, None, None)
    has_single = any(method.segments == flow.config.tokens for method in methods)
    if has_single and compiled is None and native.fits(torch.empty(1, dtype=flow.dtype, device=flow.device)):
        return "native"
    return decoder_for(compiled, flow.device).way if has_single else BlockDecoder.way


def _warn_of_unconverged(stats: Sequence[BlockStats]) -> None:
    """One UserWarning where blocks that were to be exact were ended by `max_sweeps`."""
    inexact = [block_stats for block_stats in stats if not block_stats.converged]
    if inexact:
        worst = max(inexact, key=lambda block_stats: block_stats.residual)
        warnings.warn(
            f"max_sweeps ended {len(inexact)} of {len(stats)} blocks before they were exact: block {worst.block} still changed "
            f"by {worst.residual:.2g}; leave max_sweeps out for exact images, or give a tolerance to accept such changes",
            stacklevel=4,
        )


def _methods(
    flow: TarFlow,
    solver: Solver | Method | Sequence[Method],
    segments: int | None,
    tolerance: float | None,
    max_sweeps: int | None,
    start: Start | None,
) -> list[Method]:
    """One method per block 1..T."""
    blocks = len(flow.blocks)
    settings = {"segments": segments, "tolerance": tolerance, "max_sweeps": max_sweeps}
    if start is not None and start not in STARTS:
        raise ValueError(
            f"start was {start!r}; allowed are {', '.join(STARTS)}, or T states (b, t, d) in sampling order"
        )
    if isinstance(solver, str):
        methods = [named(solver, flow.config.tokens, start=start or "z", **settings)] * blocks
    else:
        refused = [name for name, value in {**settings, "start": start}.items() if value is not None]
        if refused:
            raise ValueError(f"{', '.join(refused)} stand in a Method; give them there, or a solver by its name")
        methods = [solver] * blocks if isinstance(solver, Method) else list(solver)
    check_methods(methods, flow.config.tokens, blocks)
    return methods


def _guesses(flow: TarFlow, z: Tensor, start: Sequence[Tensor]) -> list[Tensor]:
    """The first T states of `start` in z's dtype; ValueError unless they are finite and of z's shape."""
    states = list(start)[: len(flow.blocks)]
    if len(states) < len(flow.blocks):
        raise ValueError(f"start has {len(states)} states; one per block is needed, {len(flow.blocks)} of them")
    for state in states:
        if state.shape != z.shape or not bool(state.isfinite().all()):
            raise ValueError(
                f"a state of start has shape {tuple(state.shape)} or is not finite; z's is {tuple(z.shape)}"
            )
    return [state.to(z) for state in states]


def check_latents(flow: TarFlow, z: Tensor) -> None:
    """ValueError unless z is a floating, finite (b, t, d) of this flow."""
    c = flow.config
    check_tokens(z, c.tokens, c.token_dim, flow.dtype)
    require_finite(z, "z", "check what made it, for example with flow(x).z.isfinite()")
