"""Which kernels a training step and a decoded token spend their time in: `gpu-profile.txt` beside the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.setting import Setting, entry, twin
from benchmarks.gpu.steps import our_step
from labcore import invert

FILE, KERNELS = "gpu-profile.txt", 30


def profiles(s: Setting) -> list[dict[str, Any]]:
    """The kernels that take longest in an eager step in bfloat16, and in one block's tokens, eager and by the graph."""
    flow = twin(s.flow)
    flow.blocks = nn.ModuleList(flow.blocks[:1])
    z, y = s.noise(flow, 1)
    works: dict[str, Callable[[], object]] = {
        f"training step of {s.sizes.batch} images, bfloat16": our_step(s, s.flow, s.sizes.batch),
        f"{z.shape[1] - 1} tokens of one block, one image, float32": lambda: invert(flow, z, y, compiled=False),
        f"{z.shape[1] - 1} tokens of one block by the graph": lambda: invert(flow, z, y, compiled=True),
    }
    parts = [f"{name}\n\n{longest(s, work)}\n" for name, work in works.items()]
    path = s.record.path.with_name(FILE)
    path.write_text("\n".join(parts))
    return [entry(FILE, None)]


def longest(s: Setting, work: Callable[[], object]) -> str:
    """The table of the kernels of one call that take longest, after a call that is not profiled."""
    work()
    kind = ProfilerActivity.CUDA if s.cuda else ProfilerActivity.CPU
    with profile(activities=[kind]) as found:
        work()
        if s.cuda:
            torch.cuda.synchronize()
    by = "self_device_time_total" if s.cuda else "self_cpu_time_total"
    return found.key_averages().table(sort_by=by, row_limit=KERNELS, max_name_column_width=70)
