"""Activations computed again: the same loss and gradients, less memory, the arithmetic that it costs, in the same run."""

import copy

import pytest
import torch
from conftest import perturbed

from labcore.align.features import features
from labcore.biflow.model import BackwardModel
from labcore.config import BackwardConfig, RunConfig
from labcore.directions import DIRECTIONS
from labcore.plan import plan
from labcore.train.recompute import recompute_layers


def gradients(model, loss):
    value = loss(model)
    value.backward()
    return value.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model, loss):
    again = copy.deepcopy(model)
    assert recompute_layers(again) > 0
    (value, want), (other, got) = gradients(model, loss), gradients(again, loss)
    torch.testing.assert_close(other, value)
    assert want.keys() == got.keys() and want
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-12, rtol=1e-9)
    copied = copy.deepcopy(again)  # of its own layers, not of the first ones
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    torch.testing.assert_close(loss(copied).detach(), value)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_flow_and_its_aligned_features(direction):
    flow = perturbed().train()
    x, y = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 4, -1])

    def loss(model):
        out = model(x, y)
        found = features(model, x, y, [(2, 1), (3, 2)], direction, states=out if direction != "forward" else None)
        return out.z.square().mean() - out.log_det.mean() + sum(h.square().mean() for h in found.values())

    assert_same(flow, loss)


def test_a_learned_inverse():
    config = BackwardConfig(
        image_size=8, channels=3, patch_size=2, width=32, head_dim=16, num_blocks=3, layers_per_block=2, num_classes=5
    )
    model = BackwardModel(config).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    z, y = torch.randn(3, 16, 12, dtype=torch.float64), torch.tensor([1, 4, -1])
    assert_same(model, lambda m: m(z, y).x.square().mean())


@pytest.mark.slow
def test_a_plan_counts_what_it_saves_and_what_it_costs():
    model = dict(image_size=32, channels=3, patch_size=2, width=128, num_blocks=4, layers_per_block=4, num_classes=10)
    with_, without = (
        plan(RunConfig(model=model, train=dict(steps=10, batch_size=8, recompute=again))) for again in (True, False)
    )
    assert with_.activations < 0.35 * without.activations
    assert 1.2 < with_.flops / without.flops < 1.34  # nearly 4 passes instead of 3: what is not needed is left out
    assert (with_.parameters, with_.tokens) == (without.parameters, without.tokens)
