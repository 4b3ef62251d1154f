"""Editing: with the exact inverse, what stays is given back, what is masked is not, and a class is decoded as another."""

import pytest
import torch
from conftest import perturbed

from labcore import invert
from labcore.biflow.edit import change_class, encode, inpaint, known_tokens


@pytest.fixture
def flow():
    return perturbed(image_size=8, patch_size=2, channels=1, num_classes=4)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


@pytest.fixture
def exact(flow):
    return lambda z, y: invert(flow, z, y).x


def test_the_same_class_gives_the_image_back(flow, exact, x):
    y = torch.arange(5) % 4
    eps = change_class(flow, exact, x, y, y) - x
    assert eps.std() == pytest.approx(flow.config.noise_std, rel=0.2)  # with the noise that it was encoded with
    assert torch.allclose(change_class(flow, exact, x, y, y), x + eps)
    other = change_class(flow, exact, x, y, (y + 1) % 4)
    assert (other - x - eps).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.allclose(change_class(flow, exact, x[:2], y[:2], y[:2] + 1), other[:2])  # image by image
    assert not torch.allclose(change_class(flow, exact, x, y, y, seed=1), x + eps)


def test_what_is_known_comes_back(flow, exact, x):
    y, known = torch.arange(5) % 4, torch.zeros(8, 8, dtype=torch.bool)
    everything = inpaint(flow, exact, x, ~known, y)
    assert torch.allclose(everything, change_class(flow, exact, x, y, y))
    nothing = inpaint(flow, exact, x, known, y)
    assert torch.allclose(nothing, inpaint(flow, exact, -x, known, y))  # the image is gone
    known[:4] = True
    half, other = inpaint(flow, exact, x, known, y, seed=1), x.clone()
    other[:, :, 4:] = 0.5
    assert torch.allclose(half, inpaint(flow, exact, other, known, y, seed=1))  # masked pixels are not looked at
    assert not torch.allclose(half, inpaint(flow, exact, x, known, y, seed=2))
    tokens = known_tokens(flow, x, known)
    z = []
    inpaint(flow, lambda z_, y_: z.append(z_) or exact(z_, y_), x, known, y, seed=1)
    masked = torch.where(known, x, 0.0)
    assert torch.equal(z[0][tokens], encode(flow, masked, y, 1)[tokens])
    assert not torch.isclose(z[0][~tokens], encode(flow, masked, y, 1)[~tokens]).any()


def test_a_token_is_known_if_all_its_pixels_are(flow, x):
    known = torch.ones(5, 8, 8, dtype=torch.bool)
    known[2, 3, 5] = False
    tokens = known_tokens(flow, x, known)
    assert tokens.shape == (5, 16) and tokens.sum() == 79 and not tokens[2, 4 * 1 + 2]


@pytest.mark.usefixtures("as_users_run")
def test_masks_that_do_not_fit(flow, exact, x):
    for known in (torch.ones(4, 8, 8, dtype=torch.bool), torch.ones(8, 4, dtype=torch.bool), torch.ones(8, 8)):
        with pytest.raises(
            ValueError, match=r"give bool, True where a pixel is known, of shape \(8, 8\) or \(5, 8, 8\)"
        ):
            inpaint(flow, exact, x, known)
