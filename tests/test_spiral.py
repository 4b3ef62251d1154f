"""The closed forms of two-pixel pictures against each other, and a flow of such pictures."""

import pytest
import torch

from labcore.data.spiral import Spiral
from labcore.data.transforms import to_float

NOISE = 0.1


@pytest.fixture(scope="module")
def spiral() -> Spiral:
    return Spiral()


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    return torch.randn(40, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6


LABELS = torch.tensor([0, 1, 2, -1]).repeat(10)


@pytest.mark.parametrize("noise_std", [0.0, NOISE])
@pytest.mark.parametrize("y", [None, 0, 2])
def test_the_density_integrates_to_one(spiral, y, noise_std):
    side = torch.linspace(-2, 2, 401, dtype=torch.float64)
    mesh = torch.cartesian_prod(side, side).view(-1, 1, 1, 2)
    labels = None if y is None else torch.full((len(mesh),), y)
    whole = spiral.log_prob(mesh, labels, noise_std).exp().sum() * 0.01**2
    assert abs(whole - 1) < 1e-6


@pytest.mark.parametrize("y", [None, LABELS])
def test_the_score_is_the_gradient_of_the_density(spiral, points, y):
    x = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(spiral.log_prob(x, y, NOISE).sum(), x)
    torch.testing.assert_close(spiral.score(points, y, NOISE), gradient, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("y", [None, LABELS])
def test_the_mean_clean_picture_is_tweedies(spiral, points, y):
    tweedie = points + NOISE**2 * spiral.score(points, y, NOISE)
    torch.testing.assert_close(spiral.clean(points, y, NOISE), tweedie, atol=1e-12, rtol=0)
    assert (tweedie - points).abs().max() > 0.01


def test_classes_follow_bayes_rule(spiral, points):
    each = torch.stack([spiral.log_prob(points, torch.full((40,), k), NOISE) for k in range(3)], 1)
    torch.testing.assert_close(spiral.class_posterior(points, NOISE), each.softmax(1))
    torch.testing.assert_close(
        spiral.log_prob(points, -torch.ones(40).long(), NOISE), spiral.log_prob(points, None, NOISE)
    )
    y = torch.zeros(40, dtype=torch.int64)
    torch.testing.assert_close(spiral.guided(points, y, 0.0, NOISE), spiral.log_prob(points, y, NOISE))


def test_guidance_moves_towards_where_the_class_is_certain(spiral, points):
    """log p(x|y)^(1+w) / p(x)^w is log p(x|y) + w log p(y|x), but for a constant."""
    y = torch.ones(40, dtype=torch.int64)
    moved = spiral.guided(points, y, 2.0, NOISE) - spiral.log_prob(points, y, NOISE)
    known = 2 * spiral.class_posterior(points, NOISE)[:, 1].log()
    torch.testing.assert_close(moved - known, (moved - known)[:1].expand(40), atol=1e-9, rtol=0)


def test_draws_are_of_the_density(spiral):
    """Means and covariances of 30,000 pictures of each class against the mixture's."""
    x, y = spiral.draw(90_000, seed=1).tensors
    assert x.dtype == torch.uint8 and x.shape == (90_000, 1, 1, 2)
    points = to_float(x).double().view(-1, 2)
    assert (points.abs() == 1).double().mean() < 1e-3  # few are cut off at black or white
    for k in range(3):
        mean = spiral.means[k].mean(0)
        spread = spiral.covariances[k].mean(0) + (spiral.means[k] - mean).mT @ (spiral.means[k] - mean) / len(
            spiral.means[k]
        )
        assert (points[y == k].mean(0) - mean).abs().max() < 0.01
        assert (points[y == k].mT.cov() - spread).abs().max() < 0.003
    assert torch.equal(spiral.draw(30, seed=1).tensors[0], spiral.draw(30, seed=1).tensors[0])


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="classes was 0"):
        Spiral(0)
