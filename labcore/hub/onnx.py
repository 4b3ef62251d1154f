"""Models as ONNX graphs, for any batch size: onnxruntime runs them without torch, also in a browser.

    graph                     inputs                            outputs
    one pass of a student     z (b, t, d), y (b,), w (b,)       x (b, c, h, w), not clipped
    a flow's forward pass     x (b, c, h, w), y (b,)            z (b, t, d), log_det (b,) in nats
    one block's parameters    x (b, t, d), y (b,)               log_scale (b, t, d), shift (b, t, d)
    density with guidance     x (b, c, h, w), y (b,), w (b,)    log_prob (b,) in nats

Tokens are in raster order. Numbers are float32; y is int64, where -1 is no class; w is the guidance scale. A model without
classes has no y, and a student without guidance as an input has no w. Graphs do not check values.

A block's graph gives the parameters of every token, for a guess x of all tokens. So a Jacobi sweep that inverts the block
is x <- z exp(log_scale) + shift, elementwise; after t - 1 sweeps x is exact.

Needs the packages of the extra `onnx`.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labcore.biflow.export import OnePass, example_inputs, exported
from labcore.biflow.model import BackwardModel
from labcore.files import write_atomic
from labcore.flows.metablock import MetaBlock, one_token_later
from labcore.flows.tarflow import TarFlow
from labcore.inverse.guided_density import guided_log_prob
from labcore.tensors import stored_tensors

WEIGHTS = ("float16", "float32")
"""Number formats of the weights in a file; graphs compute in float32 with either."""
SMALL = 256
"""Values of a constant, below which it stays float32; our choice."""
PACKAGES = ("onnx", "onnxscript")


def export_student(model: BackwardModel, path: str | Path, weights: str = "float16") -> Path:
    """Write a student's pass with one evaluation per block.

    Args:
        model: the student.
        path: file to write, which must end in .onnx.
        weights: number format of the weights in the file. "float16" (default) halves the file and rounds each weight to 11
            significant bits; "float32" keeps them.

    Raises:
        ValueError: path has another ending, weights is another word, a weight overflows in float16, or the packages of the
            extra `onnx` are missing.
    """
    return _write(OnePass(model), example_inputs(model), ("x",), path, weights)


def export_forward(flow: TarFlow, path: str | Path, weights: str = "float16") -> Path:
    """Write a flow's forward pass; arguments and errors as `export_student`."""
    x = torch.zeros(2, *flow.config.image_shape, device=flow.device, dtype=flow.dtype)
    return _write(_Forward(flow), {"x": x, **_labels(flow)}, ("z", "log_det"), path, weights)


def export_block(flow: TarFlow, block: int, path: str | Path, weights: str = "float16") -> Path:
    """Write the affine parameters of one block; other arguments and errors as `export_student`.

    block: number of the block, from 1, which touches the image, to T. ValueError for another number.
    """
    if not 1 <= block <= flow.config.num_blocks:
        raise ValueError(f"block was {block}; this flow has blocks 1 to {flow.config.num_blocks}")
    x = torch.zeros(2, flow.config.tokens, flow.config.token_dim, device=flow.device, dtype=flow.dtype)
    graph = _BlockParams(flow.blocks[block - 1])
    return _write(graph, {"x": x, **_labels(flow)}, ("log_scale", "shift"), path, weights)


def export_guided_density(flow: TarFlow, path: str | Path, weights: str = "float16") -> Path:
    """Write `labcore.inverse.guided_density.guided_log_prob` of a flow with classes; arguments and errors as `export_student`.

    ValueError also for a flow without classes.
    """
    if not flow.config.num_classes:
        raise ValueError("the flow has no classes, and guidance needs them; use export_forward")
    x = torch.zeros(2, *flow.config.image_shape, device=flow.device, dtype=flow.dtype)
    inputs = {"x": x, **_labels(flow), "w": torch.zeros(2, device=flow.device, dtype=flow.dtype)}
    return _write(_GuidedDensity(flow), inputs, ("log_prob",), path, weights)


class _GuidedDensity(nn.Module):
    def __init__(self, flow: TarFlow):
        super().__init__()
        self.flow = flow

    def forward(self, x: Float[Tensor, "b c h w"], y: Int[Tensor, " b"], w: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return guided_log_prob(self.flow, x, y, w)


class _Forward(nn.Module):
    """The flow's pass without checks of values."""

    def __init__(self, flow: TarFlow):
        super().__init__()
        self.flow = flow

    def forward(
        self, x: Float[Tensor, "b c h w"], y: Int[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, " b"]]:
        tokens, log_det = self.flow.patchify(x), 0.0
        for block in self.flow.blocks:
            out = block(tokens, y)
            tokens, log_det = out.z, log_det + out.log_det
        return tokens, log_det


class _BlockParams(nn.Module):
    """log_scale and shift of every token, in raster order; those of the block's first token are 0."""

    def __init__(self, block: MetaBlock):
        super().__init__()
        self.block = block

    def forward(
        self, x: Float[Tensor, "b t d"], y: Int[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t d"]]:
        block = self.block
        log_scale, shift = block.next_params(block.permute(x), block.condition(y))
        return block.permute(one_token_later(log_scale)), block.permute(one_token_later(shift))


def _labels(flow: TarFlow) -> dict[str, Tensor]:
    return {"y": torch.zeros(2, dtype=torch.int64, device=flow.device)} if flow.config.num_classes else {}


def _write(
    graph: nn.Module, inputs: Mapping[str, Tensor], outputs: tuple[str, ...], path: str | Path, weights: str
) -> Path:
    """Export `graph` with a batch axis of any size, and write one file; errors as `export_student`."""
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"path was {path}; files of ONNX end in .onnx")
    if weights not in WEIGHTS:
        raise ValueError(f"weights was {weights!r}; allowed are {', '.join(WEIGHTS)}")
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ValueError(f"export to ONNX needs {' and '.join(missing)}; pip install 'labcore[onnx]'")
    if weights == "float16":
        graph = _rounded(graph)
    with torch.no_grad():
        program = torch.onnx.export(
            exported(graph, inputs),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamo=True,
            verbose=False,
        )
    file = program.model_proto
    _forget_source(file)
    if weights == "float16":
        _store_in_half(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, file.SerializeToString())
    return path


def _rounded(graph: nn.Module) -> nn.Module:
    """Return a copy whose parameters have the values that float16 can hold, as float32. Raises ValueError on overflow."""
    stored_tensors(graph, torch.float16)  # checks for overflow
    graph = copy.deepcopy(graph)
    for parameter in graph.parameters():
        parameter.data = parameter.data.half().float()
    return graph


def _forget_source(file: Any) -> None:
    """Remove what torch notes about the code: paths and stack traces, half of the file."""
    graph = file.graph
    for part in (file, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _store_in_half(file: Any) -> None:
    """Store each constant in float16 if that is exact, followed by a cast to float32; runtimes do it once, when they load."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in file.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values, name = torch.from_numpy(numpy_helper.to_array(tensor).copy()), tensor.name
        if values.numel() >= SMALL and torch.equal(values.half().float(), values):
            tensor.CopyFrom(numpy_helper.from_array(values.half().numpy(), f"{name}.float16"))
            casts.append(helper.make_node("Cast", [f"{name}.float16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *file.graph.node]
    del file.graph.node[:]
    file.graph.node.extend(nodes)
