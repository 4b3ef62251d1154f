"""Where the time of token-by-token inverses goes, by torch's profiler: what stands in the way of what was wanted.

Times are the operators' own, as shares of their sum; what Python takes between them is the rest of the wall time.
"""

from __future__ import annotations

import torch

from benchmarks.align import make_flow
from benchmarks.speed import DEPTH, GUIDANCE, STD
from labcore import invert
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
    """Shares of kinds of operators in one inverse of 49 tokens, for each of CASES, and in a forward pass of as many images."""
    flow = make_flow({**DEPTH, "image_size": 28, "num_blocks": 4}, STD)
    rows = []
    for batch, guidance in CASES:
        z = torch.randn(batch, flow.config.tokens, flow.config.token_dim, generator=torch.Generator().manual_seed(0))
        y, x = torch.arange(batch) % 10, flow.unpatchify(z)
        rows.append(
            {
                "batch": batch,
                "guidance": guidance,
                **measured(lambda z=z, y=y, g=guidance: invert(flow, z, y, g), repeats),
            }
        )
        if not guidance:
            rows.append({"batch": batch, "forward": True, **measured(lambda x=x, y=y: flow(x, y), repeats)})
    for row in rows:
        print("where      ", row)
    return {"shares": rows}


@torch.no_grad()
def measured(way, repeats: int) -> dict:
    """ms: median of a call without the profiler; the time in operators by the profiled wall time; shares of it by kind."""
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
