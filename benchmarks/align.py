"""Cost of alignment: features inside the generative pass, with gradients, and a training step.

Targets at 256 tokens and 8 blocks, relative to generating token by token: Algorithm 2 as written ("reverse-literal") has a
speed-up of at least 20, "reverse" of at least 12, and both need at most 1/5 of the memory. Targets for a training step with
two aligned blocks, relative to a step without alignment: at most 1.1 times the time in direction "forward", and 1.5 times in
"reverse".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from labcore import TarFlow, TarFlowConfig
from labcore.align import features
from labcore.align.heads import Projector
from labcore.align.losses import cosine
from labcore.flows.metablock import MetaBlock
from labcore.kernels.attention import causal_attention
from labcore.nn.embed import rotate
from labcore.nn.layer import TransformerLayer
from labcore.timing import alternate
from labcore.types import FlowOutput, Site

GENERATION = dict(image_size=32, channels=3, patch_size=2, width=64, num_blocks=8, layers_per_block=2, num_classes=10)
STEP = {**GENERATION, "layers_per_block": 8}
EVERY_BLOCK: list[Site] = [(block, 2) for block in range(1, 9)]
TWO_BLOCKS: list[Site] = [(7, 6), (8, 6)]  # the best sites in FlowBack
WAYS = {"literal": ("reverse-literal", 0), "reverse": ("reverse", 0), "reverse, 8 sweeps": ("reverse", 8)}
NAIVE = "token by token"
WANTED = {"literal": 20, "reverse": 12}


def make_flow(sizes: dict, std: float = 0.02) -> TarFlow:
    """Make a flow in train mode that is not the identity."""
    torch.manual_seed(0)
    flow = TarFlow(TarFlowConfig(**sizes))
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(torch.randn_like(p), alpha=std)
    return flow


def make_batch(flow: TarFlow, batch: int) -> tuple[Tensor, Tensor]:
    size = flow.config.image_size
    return torch.randn(batch, flow.config.channels, size, size), torch.arange(batch) % flow.config.num_classes


def generation(repeats: int, threads: int) -> dict:
    """Measure seconds and peak memory of the features of all eight blocks inside the generative pass, and of their gradient.

    The forward pass that gives z is common to all ways and not counted. Generating token by token is measured at batch 8 only.
    """
    flow, rows = make_flow(GENERATION), []
    for batch in (8, 64):
        names = [NAIVE, *WAYS] if batch == 8 else [*WAYS]
        ways = prepare(flow, batch, names)
        quick = alternate({name: ways[name] for name in WAYS}, repeats)
        slow = alternate({name: ways[name] for name in names if name == NAIVE}, 2, warmup=0)
        memory = {name: memory_mb(name, batch, threads) for name in names}
        for name, timing in {**slow, **quick}.items():
            row = {"batch": batch, "way": name, "seconds": round(timing.seconds, 3), "spread": round(timing.spread, 2)}
            row["MB"] = memory[name]
            if slow and name != NAIVE:
                row["times as fast"] = round(slow[NAIVE].seconds / timing.seconds, 1)
                row["memory ratio"] = round(memory[name] / memory[NAIVE], 3)
                row["wanted"] = {"times as fast": WANTED.get(name), "memory ratio": 0.2}
            rows.append(row)
            print("generation ", row, flush=True)
    return {"generation": rows}


def prepare(flow: TarFlow, batch: int, names: list[str]) -> dict[str, Callable[[], None]]:
    """Return each way as a function without arguments: features of EVERY_BLOCK, and backpropagation of their mean squares."""
    x, y = make_batch(flow, batch)
    with torch.no_grad():
        states = flow(x, y)

    def run(name: str) -> None:
        found = (
            token_by_token(flow, y, EVERY_BLOCK, states)
            if name == NAIVE
            else features(flow, x, y, EVERY_BLOCK, WAYS[name][0], WAYS[name][1], states)
        )
        flow.zero_grad(set_to_none=True)
        sum(h.square().mean() for h in found.values()).backward()

    return {name: lambda name=name: run(name) for name in names}


def token_by_token(flow: TarFlow, y: Tensor, sites: list[Site], states: FlowOutput) -> dict[Site, Tensor]:
    """Return the features inside the sequential inverse, with cached keys and values, and with a graph for backpropagation."""
    found, tokens = {}, states.z.detach()
    for number in range(len(flow.blocks), min(sites)[0] - 1, -1):
        block = flow.blocks[number - 1]
        tokens, hiddens = generate_block(block, tokens, y)
        found.update({(number, layer): h for layer, h in hiddens.items() if (number, layer) in sites})
    return found


def generate_block(block: MetaBlock, z: Tensor, y: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the block's input and the hidden tokens of all its layers, in raster order."""
    z, condition = block.permute(z), block.condition(y)[:, None]
    position = None if block.position is None else block.own_order(block.position)
    rope = None if block.rope is None else block.own_order(block.rope)
    caches: list[list[Tensor]] = [[] for _ in block.layers]
    hiddens: dict[int, list[Tensor]] = {number: [] for number in range(1, len(block.layers) + 1)}
    token, tokens = z[:, :1], []
    for i in range(z.shape[1]):
        tokens.append(token)
        h = block.token_in(token) + condition + (0 if position is None else position[i])
        for number, (layer, cache) in enumerate(zip(block.layers, caches, strict=True), 1):
            h = one_token(layer, h, cache, None if rope is None else rope[i : i + 1])
            hiddens[number].append(h)
        if i + 1 < z.shape[1]:
            log_scale, shift = block.split_params(block.params_out(h))
            token = z[:, i + 1 : i + 2] * log_scale.exp() + shift
    join = lambda parts: block.permute(torch.cat(parts, dim=1))  # noqa: E731
    return join(tokens), {number: join(parts) for number, parts in hiddens.items()}


def one_token(layer: TransformerLayer, h: Tensor, cache: list[Tensor], rope: Tensor | None) -> Tensor:
    """Apply a transformer layer to the next token. `cache` holds keys and values of the earlier tokens and is updated."""
    attention = layer.attention
    shape = (len(h), 1, 3, attention.heads, attention.head_dim)
    q, k, v = attention.qkv(layer.attention_norm(h)).view(shape).permute(2, 0, 3, 1, 4)
    if rope is not None:
        q, k = rotate(q, rope), rotate(k, rope)
    cache[:] = [torch.cat([old, new], dim=2) for old, new in zip(cache, (k, v), strict=True)] if cache else [k, v]
    mixed = causal_attention(q, *cache, attention.head_dim**-0.5)
    h = h + attention.out(mixed.transpose(1, 2).flatten(2))
    return h + layer.mlp(layer.mlp_norm(h))


def memory_mb(name: str, batch: int, threads: int) -> int:
    """Return by how many MB one run of the way `name` raises the peak memory of a new process."""
    words = [sys.executable, "-m", "benchmarks.align", name, str(batch)]
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(name: str, batch: int) -> int:
    """Return the rise of the peak memory in MB by one run, after a run at batch 1 that loads the code for backpropagation."""
    flow = make_flow(GENERATION)
    prepare(flow, 1, ["literal"])["literal"]()
    run = prepare(flow, batch, [name])[name]
    before = peak_mb()
    run()
    return peak_mb() - before


def peak_mb() -> int:
    """Return the peak memory of this process from /proc (Linux). getrusage would include the peak of the parent process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def training_step(repeats: int, batch: int = 8) -> dict:
    """Measure the seconds of a training step with blocks 7 and 8 aligned at layer 6, relative to likelihood alone.

    Encoder tokens are random and already in memory. Forward pass, loss, backpropagation and AdamW are counted.
    """
    flow = make_flow(STEP)
    x, y = make_batch(flow, batch)
    width = flow.config.width
    head = Projector(width, width, 3 * width // 4)  # widths in proportion to the paper's 1024, 1024, 768
    targets = torch.randn(batch, flow.config.tokens, 3 * width // 4)
    optimizer = torch.optim.AdamW([*flow.parameters(), *head.parameters()], lr=1e-6)

    def step(direction: str | None = None, sweeps: int = 0) -> None:
        out = flow(x, y, hidden_sites=TWO_BLOCKS if direction == "forward" else ())
        loss = -(flow.log_prior(out.z) + out.log_det).mean() / flow.config.dims
        if direction is not None:
            found = features(flow, x, y, TWO_BLOCKS, direction, sweeps, out)
            loss = loss + 0.1 * sum(cosine(head(h), targets).mean() for h in found.values()) / len(found)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    plain = "likelihood"
    ways = {plain: step, **{d: lambda d=d: step(d) for d in ("forward", "detach", "reverse-literal", "reverse")}}
    ways["reverse, 8 sweeps"] = lambda: step("reverse", 8)
    allowed, rows = {"forward": 1.1, "reverse": 1.5}, []
    timings = alternate(ways, repeats)
    for name, timing in timings.items():
        row = {"way": name, "seconds": round(timing.seconds, 3), "spread": round(timing.spread, 2)}
        if name != plain:
            row |= {"/ likelihood": round(timing.seconds / timings[plain].seconds, 3), "allowed": allowed.get(name)}
        rows.append(row)
        print("step       ", row, flush=True)
    return {"training step": rows}


def align(repeats: int, threads: int) -> dict:
    """Run both measurements and return their record."""
    return {**generation(repeats, threads), **training_step(repeats)}


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], int(sys.argv[2]))))
