"""Breakdown of the time of token-by-token inverses, to see which part keeps them from their targets.

The way by torch is measured with torch's profiler: the time of each operator alone, as a share of the sum of these times.
Python between the operators takes the rest of the wall time. Compiled code is measured by the speed at which it reads the
weights; for each token of each block it reads all weights of the block.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.align import make_flow
from benchmarks.speed import DEPTH, GUIDANCE, STD
from labcore import invert
from labcore.inverse import native
from labcore.timing import alternate, seconds_of

KINDS = {
    "matrix products": ("addmm", "mm", "linear", "bmm", "baddbmm"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax"),
    "copies, into the cache above all": ("copy_", "cat", "clone", "index_copy"),
    "normalisation": ("layer_norm", "native_layer_norm", "rms_norm"),
    "activation": ("gelu", "silu"),
}
CASES = ((1, 0.0), (100, 0.0), (100, GUIDANCE))


def where(repeats: int) -> dict:
    """Measure the shares of kinds of operators in an inverse of 49 tokens, for each of CASES, and in a forward pass.

    The record also has the speed at which compiled code reads weights for one image.
    """
    flow = make_flow({**DEPTH, "image_size": 28, "num_blocks": 4}, STD)
    rows = []
    for batch, guidance in CASES:
        z = torch.randn(batch, flow.config.tokens, flow.config.token_dim, generator=torch.Generator().manual_seed(0))
        y, x = torch.arange(batch) % 10, flow.unpatchify(z)
        rows.append(
            {
                "batch": batch,
                "guidance": guidance,
                **measured(lambda z=z, y=y, g=guidance: invert(flow, z, y, g, compiled=False), repeats),
            }
        )
        if not guidance:
            rows.append({"batch": batch, "forward": True, **measured(lambda x=x, y=y: flow(x, y), repeats)})
    for row in rows:
        print("where      ", row)
    return {"shares": rows, "reading": [reading(size, repeats) for size in (28, 64)]}


def reading(image_size: int, repeats: int) -> dict:
    """Measure compiled code on one image, by threads: milliseconds of an inverse and a pass, and GB of weights per second."""
    flow = make_flow({**DEPTH, "image_size": image_size, "num_blocks": 4}, STD)
    z, y = torch.randn(1, flow.config.tokens, flow.config.token_dim), torch.zeros(1, dtype=torch.long)
    weights, once = torch.ones(flow.config.tokens), [p for p in flow.blocks[0].layers.parameters() if p.ndim > 1]

    def solved(threads: int) -> None:
        for block in flow.blocks:
            native.solve(block, z, y, None, weights, threads=threads)

    ways = {threads: partial(solved, threads) for threads in sorted({1, torch.get_num_threads()})}
    with torch.no_grad():
        found = alternate({**ways, "pass": lambda: flow(flow.unpatchify(z), y)}, repeats)
    megabytes, tokens = sum(4 * p.numel() for p in once) / 1e6, (flow.config.tokens - 1) * len(flow.blocks)
    row = {
        "tokens": flow.config.tokens,
        "MB a token": round(megabytes, 2),
        "pass ms": round(1000 * found["pass"].seconds, 2),
        "ms": {threads: round(1000 * found[threads].seconds, 1) for threads in ways},
        "GB/s": {threads: round(megabytes * tokens / 1000 / found[threads].seconds, 1) for threads in ways},
    }
    print("where      ", row)
    return row


@torch.no_grad()
def measured(way, repeats: int) -> dict:
    """Return the median ms of a call without the profiler, and the profiled shares.

    The shares are the time in operators divided by the profiled wall time, and the share of each kind in that time.
    """
    from torch.profiler import ProfilerActivity, profile

    seconds = alternate({"way": way}, repeats)["way"].seconds
    with profile(activities=[ProfilerActivity.CPU]) as found:
        wall = seconds_of(way)
    own = {event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    whole = sum(own.values())
    shares = {
        kind: sum(own[key] for key in own if key.lstrip("_").startswith(names)) / whole for kind, names in KINDS.items()
    }
    shares["all others"] = 1 - sum(shares.values())
    return {
        "ms": round(1000 * seconds, 1),
        "of the profiled time in operators": round(whole / wall, 2),
        "operators": sum(event.count for event in found.key_averages()),
        **{kind: round(share, 2) for kind, share in shares.items()},
    }
