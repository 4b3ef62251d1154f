"""Hidden features of a flow for alignment, and the reach of their gradient (FlowBack, arXiv 2511.22345, section "R-REPA").

The hidden h^(t,l) is the output of layer l of block t. Block 1 touches the image, block T touches z. Four directions give
the same values. They differ in the parameters that a loss on the features trains:

    forward          features of the flow's forward pass: trains the site's block and every block nearer the image
    detach           the block's input is detached: trains only the site's block
    reverse          z is detached and generated back to the block: trains the site's block and every block nearer z
    reverse-literal  the paper's Algorithm 2 as printed: trains only the site's block, as "detach"

In Algorithm 2 the transformer of every block reads the detached cache, and the generated state only enters the affine
step after it. So no feature depends on the blocks nearer z, although the text says that these are trained. "reverse"
follows the text: the layers run on the generated state, which carries the graph. The paper stops the gradient between the
tokens of a block (its eq. 9); `adjoint_sweeps` restores it in part or completely, see `labcore.align.adjoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.align.adjoint import rebuild
from labcore.align.protocol import Block, Flow
from labcore.directions import Direction, check_direction, check_sweeps
from labcore.finite import DIVERGED, check_result, is_looked_at
from labcore.flows.metablock import Labels
from labcore.sites import Site, check_distinct, check_sites, layers_by_block
from labcore.types import FlowOutput

Step = Callable[..., tuple[Tensor, dict[int, Tensor]]]
"""(block, cached input, z, y, layers) -> (the block's input generated from z, {layer: hidden})."""


def features(
    flow: Flow,
    x: Float[Tensor, "b c h w"],
    y: Labels,
    sites: Iterable[Site],
    direction: Direction,
    adjoint_sweeps: int = 0,
    states: FlowOutput | None = None,
) -> dict[Site, Float[Tensor, "b t width"]]:
    """Return the hidden features {site: (b, t, width)} in raster order, in the order of `sites`.

    Gradient reaches parameters, and x in direction "forward" only.

    Args:
        flow: the flow; in eval mode the values of the features are checked.
        x: images (b, c, h, w), as in the flow.
        y: labels, as in the flow.
        sites: (block, layer) pairs, both counted from 1.
        direction: "forward", "detach", "reverse" or "reverse-literal"; see the module.
        adjoint_sweeps: for "reverse": 0 (the paper's, default) to t - 1 (the full gradient of generation).
        states: output of the flow for the same x, y and weights; default None, which computes it. "forward" uses its
            hiddens if they contain all sites with gradients; the other directions use its latents as the cache. Shapes
            are checked, values are not.

    Raises:
        ValueError: sites are outside the model, repeated or empty; the direction is unknown; sweeps are negative, more
            than t - 1 or given for another direction than "reverse"; or states have another shape.
        NotFinite: in eval mode, features are not finite; the error names the first such site.
    """
    hiddens = _features(flow, x, y, sites, direction, adjoint_sweeps, states)
    for site, hidden in hiddens.items():
        if is_looked_at(hidden, training=getattr(flow, "training", False)):
            check_result(hidden, "features", f"at site {site}", f"direction was {direction!r}", DIVERGED)
    return hiddens


def _features(
    flow: Flow,
    x: Tensor,
    y: Labels,
    sites: Iterable[Site],
    direction: Direction,
    adjoint_sweeps: int,
    states: FlowOutput | None,
) -> dict[Site, Tensor]:
    """Compute `features` without a check of values."""
    check_direction(direction, adjoint_sweeps)
    sites = check_sites(sites, [len(block.layers) for block in flow.blocks])
    check_distinct(sites)
    flow.check_images(x)
    flow.check_labels(y, x.shape[0])
    tokens = flow.patchify(x)
    check_sweeps(adjoint_sweeps, tokens.shape[1])
    if states is not None:
        check_given_states(flow, tokens, states)
    if direction == "forward":
        hiddens = forward_hiddens(flow, x, y, sites, states)
        return {site: hiddens[site] for site in sites}
    if states is None:
        with torch.no_grad():
            states = flow(x, y, ())
    cache = [state.detach() for state in (tokens, *states.latents)]  # x^0 ... x^T
    layers = layers_by_block(sites)
    if direction == "detach":
        hiddens = detached_hiddens(flow, cache, y, layers)
    elif direction == "reverse":
        hiddens = generated_hiddens(flow, cache, y, layers, partial(rebuild, sweeps=adjoint_sweeps))
    else:
        hiddens = generated_hiddens(flow, cache, y, layers, literal_step)
    return {site: hiddens[site] for site in sites}


def forward_hiddens(
    flow: Flow, x: Tensor, y: Labels, sites: list[Site], states: FlowOutput | None
) -> dict[Site, Tensor]:
    """Return the hiddens of `states` if all are there with the required gradient, else those of a new pass."""
    known = {} if states is None else states.hiddens
    gradient_wanted = torch.is_grad_enabled()
    if all(site in known and (known[site].requires_grad or not gradient_wanted) for site in sites):
        return known
    return flow(x, y, sites).hiddens


def detached_hiddens(flow: Flow, cache: list[Tensor], y: Labels, layers: dict[int, list[int]]) -> dict[Site, Tensor]:
    """Compute each block alone, on its cached input; cache[t - 1] is the input of block t."""
    hiddens = {}
    for number, of_block in layers.items():
        out = flow.blocks[number - 1](cache[number - 1], y, of_block)
        hiddens.update({(number, layer): h for layer, h in out.hiddens.items()})
    return hiddens


def generated_hiddens(
    flow: Flow, cache: list[Tensor], y: Labels, layers: dict[int, list[int]], step: Step
) -> dict[Site, Tensor]:
    """Generate each block's input from its output, from the last block down to the lowest site's (the loop of Algorithm 2)."""
    hiddens, state = {}, cache[-1]  # z
    for number in range(len(flow.blocks), min(layers) - 1, -1):
        block, cached = flow.blocks[number - 1], cache[number - 1]
        state, of_block = step(block, cached, state, y, layers.get(number, ()))
        hiddens.update({(number, layer): h for layer, h in of_block.items()})
    return hiddens


def literal_step(
    block: Block, cached: Tensor, z: Tensor, y: Labels, layers: Iterable[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Take Algorithm 2's step: the transformer reads only the cache, and eq. 9 then gives the state, which no feature reads.

    Eq. 9, exp(log_scale) z + shift, is written with shift = cached - exp(log_scale) f(cached): the same values and
    gradients.
    """
    out = block(cached, y, layers)
    return cached + out.log_scale.exp() * (z - out.z), out.hiddens


def check_given_states(flow: Flow, tokens: Float[Tensor, "b t d"], states: FlowOutput) -> None:
    """Raise ValueError unless number, shape, device and dtype of the latents in `states` fit these tokens and the flow."""
    expected = (tuple(tokens.shape), tokens.device, torch.promote_types(tokens.dtype, torch.float32))
    given = [(tuple(s.shape), s.device, s.dtype) for s in states.latents]
    if given != [expected] * len(flow.blocks):
        of_what = f" of {_in_words(*given[0])}" if given else ""
        raise ValueError(
            f"states hold {len(given)} latents{of_what}; this x and flow give "
            f"{len(flow.blocks)} of {_in_words(*expected)}. Pass what flow(x, y) returned for the same x and y, or None"
        )


def _in_words(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> str:
    return f"shape {shape}, {dtype} on {device}"
