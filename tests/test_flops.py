"""Counted FLOPs are those that one can count by hand."""

import pytest
import torch
import torch.nn.functional as F
from conftest import perturbed
from torch import nn

from labcore import BackwardConfig, BackwardModel, invert
from labcore.evaluate.flops import count_flops, count_step
from labcore.inverse.denoise import denoise


def test_linear_layer_and_its_gradients():
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)
    product = 2 * 3 * 5 * 7
    assert count_flops(lambda: layer(x)) == product
    assert count_flops(lambda: layer(x).sum().backward()) == 2 * product  # the weight's gradient
    x.requires_grad_()
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * product  # and the input's
    assert count_flops(lambda: torch.autograd.grad(layer(x).sum(), x)) == 2 * product  # the input's alone


@pytest.mark.parametrize("causal", [False, True])
def test_attention_counts_all_pairs_and_no_recomputation(causal):
    """Two products forward; backward two for each of them."""
    q, k, v = (torch.randn(2, 4, 16, 8, requires_grad=True) for _ in range(3))
    forward = count_flops(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal))
    both = count_flops(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal).sum().backward())
    assert forward == 2 * (2 * 2 * 4 * 16 * 16 * 8) and both == 3 * forward


@pytest.mark.parametrize("causal", [False, True])
def test_one_run_counts_fused_attention_as_one_operator_with_the_flops_of_its_products(causal):
    q, k, v = (torch.randn(2, 4, 16, 8, requires_grad=True) for _ in range(3))
    forward = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # noqa: E731
    there_and_back = lambda: forward().backward(torch.ones(2, 4, 16, 8))  # noqa: E731
    assert count_step(forward) == (count_flops(forward), 1)
    assert count_step(there_and_back)[0] == count_flops(there_and_back) == 3 * count_flops(forward)


def test_a_learned_inverse_costs_each_image_the_same():
    sizes = dict(image_size=8, channels=1, patch_size=2, width=16, num_blocks=2, layers_per_block=2, head_dim=8)
    model = BackwardModel(BackwardConfig(**sizes, num_classes=4))
    y = torch.tensor([0, 1, 2, 3, 0])
    one, five = (count_flops(lambda n=n: model(torch.randn(n, 16, 4), y[:n])) for n in (1, 5))
    assert five == 5 * one > 0


def test_the_exact_inverse_and_the_score():
    """Guidance doubles the first: two branches. The score takes two passes, and once more the products of attention."""
    flow = perturbed(dtype=torch.float32)
    c, y = flow.config, torch.tensor([1, 2])
    x, z = torch.randn(2, c.channels, c.image_size, c.image_size), torch.randn(2, c.tokens, c.token_dim)
    guided, plain = (count_flops(lambda g=g: invert(flow, z, y, g)) for g in (0.5, 0.0))
    assert guided == 2 * plain > 0
    attention = c.num_blocks * c.layers_per_block * 2 * (2 * len(x) * c.tokens**2 * c.width)
    assert count_flops(lambda: denoise(flow, x, y, 0.1)) == 2 * count_flops(lambda: flow(x, y)) + attention
