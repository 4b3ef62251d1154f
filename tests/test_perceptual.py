"""Perceptual distances: shared crops, zero for equal images, gradients for ours alone, and weights that are missing."""

import dataclasses

import pytest
import torch

from labcore import encoders
from labcore.data import load, to_float
from labcore.encoders.perceptual import CONVNEXT, MOST, VGG, MultiStage, Pooled, crops, load_perceptual
from labcore.evaluate.flops import count_flops
from labcore.rng import StepNoise

ATTO = dataclasses.replace(CONVNEXT, model="convnextv2_atto", pooled_width=320, stages=(encoders.Stage(320, 32),))


def noise(total: int = 6, step: int = 0) -> StepNoise:
    return StepNoise(0, step, total, "cpu")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return to_float(load("fashion-mnist-12k", "test").images[:6])


@pytest.fixture(scope="module")
def distances():
    return {"efflite0": load_perceptual("efflite0"), "pooled": Pooled(encoders.untrained(ATTO))}


def test_crops_are_shared_and_belong_to_their_image(images):
    ours, theirs = crops(images, images + 1, noise(), 32)
    assert ours.shape == (6, 1, 32, 32) and torch.allclose(ours + 1, theirs, atol=1e-5)
    again, _ = crops(images[2:4], images[2:4], noise().share(slice(2, 4)), 32)
    assert torch.equal(again, ours[2:4])
    assert not torch.equal(crops(images, images, noise(step=1), 32)[0], ours)
    ramp = torch.arange(784.0).view(1, 1, 28, 28).expand(200, -1, -1, -1)  # values say where a pixel was
    found, _ = crops(ramp, ramp, noise(200), 28)
    areas = (found.amax((1, 2, 3)) - found.amin((1, 2, 3))) / 783  # roughly the heights
    assert areas.min() < 0.5 and areas.max() > 0.8 and found.amin() > -40 and found.amax() < 823


@pytest.mark.parametrize("name", ["efflite0", "pooled"])
def test_distances(images, distances, name):
    distance = distances[name]
    assert (distance(images, images, noise()) == 0).all()
    shift = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    near, far = distance(images + 0.05 * shift, images, noise()), distance(images + 0.5 * shift, images, noise())
    assert near.shape == (6,) and (near > 0).all() and far.mean() > 1.5 * near.mean()
    assert torch.allclose(distance(images, images + 0.5 * shift, noise()), far, rtol=1e-3)
    ours = (images + 0.1 * shift).requires_grad_()
    distance(ours, images, noise()).sum().backward()
    assert (ours.grad.flatten(1).norm(dim=1) > 0).all()


def test_the_embedded_one_compares_so_many_of_a_step(distances):
    images = to_float(load("fashion-mnist-12k", "test").images[: MOST + 3])
    assert distances["efflite0"](images, images + 0.1, noise(MOST + 3)).shape == (MOST,)
    few = MultiStage(encoders.untrained("efficientnet-lite0"), most=2)
    whole = few(images, images + 0.1, noise(MOST + 3))
    assert whole.shape == (2,)
    cuts = (slice(0, 10), slice(10, 16), slice(16, MOST + 3))
    parts = [few(images[rows], images[rows] + 0.1, noise(MOST + 3).share(rows)) for rows in cuts]
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-4) and len(parts[1]) == 0


@pytest.mark.usefixtures("as_users_run")
def test_what_is_missing(own_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("LABCORE_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="unknown distance 'vgg'; there are efflite0, lpips, convnextv2"):
        load_perceptual("vgg")
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af.pth is not on this machine.*pytorch\.org"):
        load_perceptual("lpips")
    with pytest.raises(FileNotFoundError, match="convnextv2_base"):
        load_perceptual("convnextv2")


@pytest.mark.slow
def test_lpips_with_a_backbone_from_a_file(images, tmp_path):
    lpips = pytest.importorskip("lpips")
    from torchvision.models import vgg16

    torch.manual_seed(0)
    backbone = vgg16(weights=None).features
    torch.save({f"features.{name}": value for name, value in backbone.state_dict().items()}, tmp_path / VGG)
    distance = load_perceptual("lpips", tmp_path / VGG)
    reference = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    slices = [layer for part in reference.net.children() for layer in part]
    for mine, theirs in zip(slices, backbone, strict=False):
        mine.load_state_dict(theirs.state_dict())
    ours, theirs = (x.expand(-1, 3, -1, -1) for x in crops(images[:2], images[2:4], noise(2), 224))
    found = distance(images[:2], images[2:4], noise(2))
    assert torch.allclose(found, reference(ours, theirs).flatten(), rtol=1e-4) and (found > 0).all()
    whole = {f"features.{name}": value for name, value in backbone.state_dict().items()}
    for value, message in (
        (torch.ones(1), r"features\.0\.bias is \(1,\), the model has \(64,\)"),  # would be copied to all 64
        (torch.ones(64, dtype=torch.int8), r"holds torch\.int8 in 1 tensors, first features\.0\.bias"),
        (torch.full((64,), float("nan")), r"NaN or infinity in 1 tensors, first features\.0\.bias.* VGG-16 again"),
    ):
        torch.save(whole | {"features.0.bias": value}, tmp_path / VGG)
        with pytest.raises(ValueError, match=message):
            load_perceptual("lpips", tmp_path / VGG)
    torch.save({"features.0.weight": backbone[0].weight}, tmp_path / VGG)
    with pytest.raises(ValueError, match=r"does not fit Vgg16Features \(25 missing, first features\.0\.bias"):
        load_perceptual("lpips", tmp_path / VGG)


@pytest.mark.parametrize("name", ["efflite0", "pooled"])
def test_what_is_compared_with_costs_no_gradient(distances, name):
    """A pass over both sides and one back through ours: a third less than through both; equal values and gradients."""
    x, y = (torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in (0, 1))
    noise, found = StepNoise(0, 0, 2, "cpu"), []
    for both in (False, True):
        ours, theirs = x.clone().requires_grad_(), y.clone().requires_grad_(both)
        value = distances[name](ours, theirs, noise).sum()
        flops = count_flops(lambda value=value: value.backward())
        found.append((value.detach(), ours.grad, flops, theirs.grad))
    (value, gradient, flops, none), (same, equal, twice, given) = found
    assert torch.equal(value, same) and torch.equal(gradient, equal)
    assert none is None and given is not None and twice == 2 * flops
