"""One block's exact inverse, token by token, by compiled code (`labcore/kernels/token_loop.c`): float32 on a CPU.

Up to rounding, the result equals that of the loop over single tokens in `labcore.inverse.fixed_point`, but one call computes
all tokens. A token of a small block takes some hundred operations of microseconds, and calling them takes longer than their
arithmetic.
"""

from __future__ import annotations

import ctypes
import weakref

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.flows.metablock import Labels, MetaBlock
from labcore.inverse.decode import BlockDecoder, FoldedLayer, computed_in
from labcore.inverse.params import branches
from labcore.kernels import dispatch, native

PANEL = 16
"""Number of outputs in a panel of packed weights, as in the C source."""

_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int32


class _Linear(ctypes.Structure):
    _fields_ = [("weight", _POINTER), ("bias", _POINTER), ("inputs", _INTEGER), ("outputs", _INTEGER)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *[(name, _Linear) for name in ("qkv", "out", "up", "down")],
        ("eps", ctypes.c_float),
        *[(name, _INTEGER) for name in ("centred", "gelu")],
    ]


class _Block(ctypes.Structure):
    _fields_ = [
        *[(name, _Linear) for name in ("token_in", "params_out")],
        *[(name, _POINTER) for name in ("token_bias", "rope")],
        ("layers", ctypes.POINTER(_Layer)),
        *[(name, _INTEGER) for name in ("num_layers", "token_dim", "width", "heads", "head_dim")],
        *[(name, _INTEGER) for name in ("biases", "scales")],
        ("clamp", ctypes.c_float),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        *[(name, _POINTER) for name in ("z", "x", "condition", "temperature", "guidance", "weights")],
        *[(name, _INTEGER) for name in ("images", "tokens", "conditions")],
    ]


def fits(z: Tensor) -> bool:
    """Return whether compiled code can solve a block for this batch: float32 on a CPU, outside autocast, with the library."""
    plain = z.dtype == computed_in(z) == torch.float32
    return plain and dispatch.by_native(z) and native.library() is not None


@torch.no_grad()
def solve(
    block: MetaBlock,
    z: Float[Tensor, "b t d"],
    y: Labels,
    g: Float[Tensor, "b 1"] | None,
    weights: Float[Tensor, " t"],
    attn_temp: float = 1.0,
    threads: int | None = None,
) -> Float[Tensor, "b t d"]:
    """Return x with block(x) = z; raster order in and out.

    y, g, weights and attn_temp as in `labcore.inverse.params.GuidedParams`.
    threads: largest number of threads; None is `torch.get_num_threads()`. Each computes whole images, or a part of each layer
    if images are few and the block is large. No thread outlives the call, and the numbers do not depend on threads.
    Raises MemoryError.
    """
    z = block.permute(z).contiguous()
    x, packed = torch.empty_like(z), _packed(block)
    condition, temperature = branches(block, y, z, g, attn_temp)
    arguments = dict(z=z, x=x, condition=condition, temperature=temperature, guidance=g, weights=weights.to(z))
    # this name keeps the tensors alive while the C code reads them: a pointer does not
    arguments = {name: None if tensor is None else tensor.contiguous() for name, tensor in arguments.items()}
    pointers = {name: _pointer(tensor) for name, tensor in arguments.items()}
    conditions = 0 if condition is None else len(condition)
    batch = _Batch(**pointers, images=len(z), tokens=z.shape[1], conditions=conditions)
    threads = threads or torch.get_num_threads()
    if native.library().solve_block(ctypes.byref(packed.block), ctypes.byref(batch), _INTEGER(threads)):
        raise MemoryError(f"there is no memory for the keys and values of {len(z)} images; invert fewer at a time")
    return block.permute(x)


class Packed:
    """A block's weights in the order in which the C code reads them, and the tensors that hold them."""

    def __init__(self, block: MetaBlock):
        decoder, self.held = BlockDecoder(block, None), []
        self.layers = (_Layer * len(decoder.layers))(*(self._layer(layer) for layer in decoder.layers))
        self.block = _Block(
            token_in=self._linear(block.token_in.weight, None),
            params_out=self._linear(block.params_out.weight, block.params_out.bias),
            token_bias=self._keep(decoder.token_bias),
            rope=self._keep(decoder.rope),
            layers=self.layers,
            num_layers=len(decoder.layers),
            token_dim=block.token_in.in_features,
            width=block.token_in.out_features,
            heads=block.heads,
            head_dim=block.head_dim,
            biases=len(decoder.token_bias),
            scales=block.scales,
            clamp=block.clamp or 0.0,
        )

    def _layer(self, layer: FoldedLayer) -> _Layer:
        linears = [self._linear(*getattr(layer, name)) for name in ("qkv", "out", "up", "down")]
        return _Layer(*linears, layer.eps, layer.centred, layer.gelu)

    def _linear(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> _Linear:
        outputs, inputs = weight.shape
        number_of_panels = -(-outputs // PANEL)  # the last one is filled up with zeros
        padded_weight = weight.new_zeros(number_of_panels * PANEL, inputs)
        padded_weight[:outputs] = weight
        padded_bias = weight.new_zeros(len(padded_weight))
        if bias is not None:
            padded_bias[:outputs] = bias
        panels = padded_weight.view(-1, PANEL, inputs).transpose(1, 2)
        return _Linear(self._keep(panels), self._keep(padded_bias), inputs, outputs)

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self.held.append(tensor.detach().float().contiguous())
        return _pointer(self.held[-1])


_PACKED: weakref.WeakKeyDictionary[MetaBlock, tuple[int, Packed]] = weakref.WeakKeyDictionary()


def _packed(block: MetaBlock) -> Packed:
    """Return the block's packed weights, kept between calls while its weights are unchanged."""
    digest = _digest(block)
    packed_digest, packed = _PACKED.get(block, (None, None))
    if packed is None or packed_digest != digest:
        packed = Packed(block)
        _PACKED[block] = digest, packed
    return packed


def _digest(block: MetaBlock) -> int:
    """Return a digest of the bits of all weights: they can change without torch counting it (`p.data`)."""
    tensors = [p.detach().contiguous() for p in block.parameters()]
    pointers = (_POINTER * len(tensors))(*(p.data_ptr() for p in tensors))
    sizes = (ctypes.c_int64 * len(tensors))(*(p.numel() for p in tensors))
    return native.library().digest(pointers, sizes, _INTEGER(len(tensors)))


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
