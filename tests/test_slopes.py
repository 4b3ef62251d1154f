"""Slopes of the log-density: the same in parts, and with no gradient for the parameters."""

import pytest
import torch
from conftest import perturbed

from labcore.config import TarFlowConfig
from labcore.evaluate import class_scores
from labcore.evaluate.flops import count_saved
from labcore.flows import slopes
from labcore.flows.tarflow import TarFlow
from labcore.inverse import denoise
from labcore.presets import PRESETS


@pytest.fixture
def two_at_once(monkeypatch):
    monkeypatch.setattr(slopes, "at_once", lambda *_: 2)


def test_parts_are_the_whole(images, two_at_once, monkeypatch):
    flow = perturbed()
    x, y = images(flow, 5)
    parts = denoise(flow, x, y, 0.1), class_scores(flow, x)
    monkeypatch.setattr(slopes, "at_once", lambda *_: 5)
    torch.testing.assert_close(parts, (denoise(flow, x, y, 0.1), class_scores(flow, x)))
    assert (parts[0] - x).abs().amax() > 1e-3 and parts[1].abs().amax() > 1e-3


def test_no_images():
    flow = perturbed()
    none = torch.zeros(0, *flow.config.image_shape, dtype=flow.dtype)
    assert denoise(flow, none, torch.zeros(0, dtype=torch.int64), 0.1).shape == none.shape
    assert class_scores(flow, none).shape == (0, 5)


def test_parameters_ask_for_no_gradient_meanwhile_and_again_afterwards(images, monkeypatch):
    flow = perturbed()
    x, _ = images(flow)
    fixed = flow.blocks[0].token_in.weight.requires_grad_(False)
    asked = []

    def unchecked(*_):
        asked.append(any(p.requires_grad for p in flow.parameters()))
        raise FloatingPointError("on the way")

    monkeypatch.setattr(flow, "unchecked", unchecked)
    with pytest.raises(FloatingPointError, match="on the way"):
        denoise(flow, x, None, 0.1)
    assert asked == [False]
    assert not fixed.requires_grad and all(p.requires_grad for p in flow.parameters() if p is not fixed)


@pytest.mark.parametrize("name", ["fashion-16", "latent-small"])
def test_what_an_image_keeps(name, monkeypatch):
    """Counted by autograd: at most what is planned, and no less than half of it."""
    config = TarFlowConfig(**PRESETS[name]["model"])
    flow = TarFlow(config).requires_grad_(False)

    def kept(images):
        x = torch.zeros(images, *config.image_shape, requires_grad=True)
        return count_saved(lambda: flow.log_prob(x, torch.zeros(images, dtype=torch.int64)).sum(), flow.parameters())

    each = kept(2) - kept(1)
    monkeypatch.setattr(slopes, "SAVED", 100 * each)
    assert 50 <= slopes.at_once(config) <= 103


def test_large_images_go_one_by_one():
    model = PRESETS["flowback-256-reverse-p1-1000k"]["model"]
    assert slopes.at_once(TarFlowConfig(**model)) == 1
    assert slopes.at_once(TarFlowConfig(**PRESETS["fashion-16"]["model"])) > 1000
