"""Attention: without a mask, and causal over n queries and m >= n keys, where query i may see the keys up to m - n + i.

Two implementations of the same function. On a CPU in bfloat16 plain matrix products win by a wide margin (49 tokens,
forward and backward, one thread: 40 ms against 180 ms for torch's fused attention); everywhere else torch's fused
attention is as fast or faster and needs no (n, m) matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from labcore.kernels import dispatch

SHORT = 64
"""Largest number of tokens for which plain matrix products are faster on a CPU, by the measurement below."""


def causal_mask(n: int, m: int, device: torch.device) -> Tensor:
    """Return a mask (n, m), bool: True where query i (at position m - n + i) may see key j."""
    return torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)


def attention_by_matmul(
    q: Float[Tensor, "b heads n e"], k: Float[Tensor, "b heads m e"], v: Float[Tensor, "b heads m e"], scale: float
) -> Float[Tensor, "b heads n e"]:
    """Return softmax(scale q k^T) v by batched matrix products, with the causal mask if n > 1."""
    b, heads, n, e = q.shape
    m = k.shape[-2]
    q, k, v = q.reshape(b * heads, n, e), k.reshape(b * heads, m, e), v.reshape(b * heads, m, e)
    if n == 1:
        logits = torch.bmm(q, k.transpose(1, 2)) * scale
    else:
        forbidden = q.new_zeros(n, m).masked_fill_(~causal_mask(n, m, q.device), float("-inf"))
        logits = torch.baddbmm(forbidden, q, k.transpose(1, 2), alpha=scale)
    return torch.bmm(logits.softmax(-1), v).view(b, heads, n, e)


def attention_by_sdpa(
    q: Float[Tensor, "b heads n e"], k: Float[Tensor, "b heads m e"], v: Float[Tensor, "b heads m e"], scale: float
) -> Float[Tensor, "b heads n e"]:
    """Return the same by torch's fused attention."""
    n, m = q.shape[-2], k.shape[-2]
    if n == 1 and q.is_cuda:
        with without_cudnn(q.device):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
    if n == 1 or n == m:
        return F.scaled_dot_product_attention(q, k, v, is_causal=n > 1, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=piece_mask(n, m, q), scale=scale)


def piece_mask(n: int, m: int, q: Tensor) -> Tensor:
    """Return the causal mask of the last n of m positions, for torch's fused attention.

    On CUDA this is a symbolic mask: no (n, m) tensor is made, and flash attention is possible. It is a tensor on other devices,
    and for float64, for which torch has no fused kernel on CUDA.
    """
    if q.is_cuda and q.dtype != torch.float64:
        from torch.nn.attention.bias import causal_lower_right  # imports Triton

        return causal_lower_right(n, m)
    return causal_mask(n, m, q.device)


@contextmanager
def without_cudnn(device: torch.device) -> Iterator[None]:
    """Disable cuDNN's attention on CUDA inside: it builds a plan for every number of keys, in tens of milliseconds each.

    This holds for all threads. A nested use costs nothing.
    """
    if device.type != "cuda" or not torch.backends.cuda.cudnn_sdp_enabled():
        yield
        return
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def causal_attention(
    q: Float[Tensor, "b heads n e"], k: Float[Tensor, "b heads m e"], v: Float[Tensor, "b heads m e"], scale: float
) -> Float[Tensor, "b heads n e"]:
    """Return softmax(scale q k^T) v, causal, by the implementation that is faster for this device, dtype and length.

    For a single query over cached keys, without gradients, there is a twin in Triton.
    """
    if q.shape[-2] == 1 and not torch.is_grad_enabled() and dispatch.by_triton(q, k, v):
        found = dispatch.by_twin("attention_triton", "cached_attention", q, k, v, scale)
        if found is not None:
            return found
    half_on_cpu = q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16)
    attention = attention_by_matmul if half_on_cpu else attention_by_sdpa
    return attention(q, k, v, scale)


def full_attention(
    q: Float[Tensor, "b heads n e"], k: Float[Tensor, "b heads n e"], v: Float[Tensor, "b heads n e"], scale: float
) -> Float[Tensor, "b heads n e"]:
    """Return softmax(scale q k^T) v, where every query sees every key.

    On a CPU, matrix products are used in half precision, and without gradients for few tokens: for 36 images of 51 tokens a
    layer takes 0.55 ms, and 0.77 ms with torch's fused attention.
    """
    half = q.dtype in (torch.bfloat16, torch.float16)
    short_without_gradients = q.shape[-2] <= SHORT and not torch.is_grad_enabled()
    if q.device.type == "cpu" and (half or short_without_gradients):
        return ((q @ k.transpose(-1, -2)) * scale).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)
