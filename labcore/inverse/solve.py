"""The exact inverse of a flow: x_i = z_i exp(log_scale_i(x_<i)) + shift_i(x_<i), block by block from z to the image.

A `Method` (`labcore.inverse.methods`) says how a block is solved: token by token, by sweeps over all tokens, or in
segments.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.finite import all_finite, check_result, require_finite
from labcore.flows.metablock import Labels
from labcore.flows.tarflow import TarFlow
from labcore.guidance import Schedule
from labcore.inverse import native
from labcore.inverse.compiled import CompiledDecoder
from labcore.inverse.decode import BlockDecoder
from labcore.inverse.fixed_point import Report, solve_block
from labcore.inverse.graphed import GraphedDecoder, RecordedDecoder
from labcore.inverse.methods import STARTS, Method, Solver, Start, check_methods, named
from labcore.inverse.params import GuidedBlock, GuidedParams, guided_blocks
from labcore.kernels.attention import without_cudnn
from labcore.nn.patch import check_tokens
from labcore.types import BlockStats, InverseOutput

_DECODERS = {"cpu": CompiledDecoder, "cuda": GraphedDecoder}
"""Device -> decoder of single tokens with compiled=True; other devices use plain code."""
_AUTOMATIC: dict[str, type[BlockDecoder]] = {"cuda": RecordedDecoder}
"""Device -> decoder of single tokens with compiled=None; other devices use plain code."""


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
    """Map noise to images; the exact inverse of `flow(x, y).z` at guidance 0. Builds no graph.

    A Method holds its own tolerance, max_sweeps, segments and named start; giving them next to a Method is an error.

    Args:
        flow: the flow.
        z: noise (b, t, d) in raster order; not changed, and not scaled by the prior's variance.
        y: labels, as in the flow; default None, no class.
        guidance: scale g in c + g (c - u). A number, one per image (b,), or a list with one per block 1..T. The default 0
            is off and skips the second branch.
        guidance_schedule: "constant" (default), or "linear": position j of a block's own order gets g j / (t - 1).
        attn_temp: temperature of the attention logits in the second branch, default 1. With an unconditional model or
            y=None, guidance needs a temperature other than 1, because the two branches are equal otherwise.
        solver: "sequential" (default), "jacobi", "gs-jacobi", a Method for all blocks, or one Method for each block 1..T.
        segments: number of segments for "gs-jacobi"; default 8, or fewer if 8 does not divide the tokens.
        tolerance: a block's segment is solved when a sweep changes no value of an image by more. The default None is
            exact with every solver.
        max_sweeps: most sweeps of a segment; default None, no limit. If the limit ends a segment without a tolerance,
            images are not exact, and one UserWarning says so.
        start: "z" (the block's input), "zeros", or a guess of every state in sampling order: T tensors (b, t, d), such as
            a student's `states`, of which the first T are used.
        callback: called with a `Sweep` after every sweep; default None.
        compiled: how the tokens of sequential blocks are computed; results differ by rounding. None (default) is
            automatic: compiled C code on a CPU in float32 (`labcore.inverse.native`; plain with a callback or without a C
            compiler), a recorded CUDA graph for small batches on CUDA, plain code elsewhere. True:
            programs of torch.compile, made once per power of two of images (about 10 s each, with a message), recorded on
            CUDA; ignored on other devices. False: plain code.

    Returns:
        Images (b, c, h, w), not clipped, and one BlockStats per block in sampling order.

    Raises:
        ValueError: shapes, labels or settings do not fit.
        NotFinite: images are not finite; the error names the first such block in sampling order.
    """
    check_latents(flow, z)
    flow.check_labels(y, z.shape[0], ranges=True)
    guesses = None if start is None or isinstance(start, str) else _guesses(flow, z, start)
    methods = _methods(flow, solver, segments, tolerance, max_sweeps, start if guesses is None else None)
    blocks = guided_blocks(flow, z, y, guidance, guidance_schedule, attn_temp)
    decoder_for(compiled, z.device)  # refuses other values before the first block
    tokens, stats, states = z, [], {}
    pairs = zip(reversed(blocks), guesses or [None] * len(blocks), strict=True)
    for guided, guess in pairs:  # x^T = z back to x^0, the image
        tokens, block_stats = invert_block(guided, tokens, methods[guided.number - 1], compiled, guess, callback)
        stats.append(block_stats)
        states[guided.number] = tokens
    _warn_of_unconverged(stats)
    _check_states(states, guidance, attn_temp)
    return InverseOutput(flow.unpatchify(tokens), tuple(stats))


def invert_block(
    guided: GuidedBlock,
    z: Float[Tensor, "b t d"],
    method: Method,
    compiled: bool | None = None,
    guess: Float[Tensor, "b t d"] | None = None,
    callback: Report | None = None,
) -> tuple[Float[Tensor, "b t d"], BlockStats]:
    """Return x with block(x) = z, and statistics; raster order in and out. `compiled` and `callback` as in `invert`.

    guess: values to start from; None (default) starts as the method says.
    """
    block, number, y, g, weights, attn_temp = guided
    token_by_token = method.segments == z.shape[1]
    if token_by_token and compiled is None and callback is None and native.fits(z):
        x = native.solve(block, z, y, g, weights, attn_temp)
        return x, BlockStats(number, z.shape[1] - 1, None, False)
    decoder = decoder_for(compiled, z.device) if token_by_token else BlockDecoder
    params = GuidedParams(block, y, z, g, weights, attn_temp, decoder)
    with without_cudnn(z.device):
        return solve_block(block, number, z, params, method, guess, callback)


def _check_states(states: Mapping[int, Tensor], guidance: Any, attn_temp: float) -> None:
    """Check that the last state is finite, with one read of the device. states: {block: its state}, in sampling order."""
    last = list(states.values())[-1]
    if not all_finite(last):
        block = next(number for number, state in states.items() if not all_finite(state))
        advice = "give less guidance, or a z of the scale of the flow's prior; else the flow has diverged"
        check_result(last, "invert", f"from block {block} on", settings_in_words(guidance, attn_temp), advice)


def settings_in_words(guidance: Any, attn_temp: float) -> str:
    """Describe the settings for messages; guidance by image or block is shown as its range."""
    values = torch.as_tensor(guidance, dtype=torch.float64).flatten().tolist()
    low, high = min(values), max(values)
    words = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return f"guidance was {words}, attn_temp {attn_temp:g}"


def decoder_for(compiled: bool | None, device: torch.device) -> type[BlockDecoder]:
    """Return the decoder of single tokens for `compiled`, as `invert` takes it. Raises ValueError for other values."""
    if compiled not in (None, True, False):
        raise ValueError(f"compiled was {compiled!r}; allowed are True, False, and None for automatic")
    if compiled is None:
        return _AUTOMATIC.get(device.type, BlockDecoder)
    return _DECODERS.get(device.type, BlockDecoder) if compiled else BlockDecoder


def way_of(
    flow: TarFlow, solver: Solver | Method | Sequence[Method] = "sequential", compiled: bool | None = None
) -> str:
    """Return how single tokens are computed: "plain", "native", "compiled", "recorded" or "compiled and recorded".

    The result is for the flow's device, and "plain" if no block is solved token by token. Records need it because the
    ways round differently. Batches that are too large for a recording use plain code in any case.
    """
    methods = _methods(flow, solver, None, None, None, None)
    has_single = any(method.segments == flow.config.tokens for method in methods)
    if has_single and compiled is None and native.fits(torch.empty(1, dtype=flow.dtype, device=flow.device)):
        return "native"
    return decoder_for(compiled, flow.device).way if has_single else BlockDecoder.way


def _warn_of_unconverged(stats: Sequence[BlockStats]) -> None:
    """Warn once if `max_sweeps` ended blocks that should be exact."""
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
    """Return one method per block 1..T."""
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
            raise ValueError(
                f"{', '.join(refused)} was given next to a Method; set it in the Method, or give a solver by its name"
            )
        methods = [solver] * blocks if isinstance(solver, Method) else list(solver)
    check_methods(methods, flow.config.tokens, blocks)
    return methods


def _guesses(flow: TarFlow, z: Tensor, start: Sequence[Tensor]) -> list[Tensor]:
    """Return the first T states of `start` in z's dtype; ValueError unless they are finite and have z's shape."""
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
    """Check that z is a floating, finite (b, t, d) of this flow; ValueError otherwise."""
    c = flow.config
    check_tokens(z, c.tokens, c.token_dim, flow.dtype)
    require_finite(z, "z", "check what made it, for example with flow(x).z.isfinite()")
