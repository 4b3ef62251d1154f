"""Denoising against closed forms, and sampling as a function of (seed, index)."""

import pytest
import torch
from conftest import perturbed

from labcore import TarFlow, TarFlowConfig, denoise, invert, sample


def gaussian_flow(std: float) -> TarFlow:
    """A volume-preserving identity flow whose density is N(0, std^2) per value."""
    flow = TarFlow(
        TarFlowConfig(image_size=4, channels=1, patch_size=2, width=8, head_dim=4, num_blocks=2, layers_per_block=1)
    )
    flow = flow.double().eval()
    flow.prior_var.fill_(std**2)
    return flow


def test_denoising_a_gaussian_is_its_posterior_mean():
    """Clean N(0, s^2), noise sigma: the noised density is N(0, s^2 + sigma^2), E[x|y] = y s^2 / (s^2 + sigma^2)."""
    s, sigma = 0.7, 0.3
    flow = gaussian_flow((s**2 + sigma**2) ** 0.5)
    y = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(denoise(flow, y, noise_std=sigma), y * s**2 / (s**2 + sigma**2), atol=1e-12, rtol=0)


def test_denoising_is_the_score_step(flow, images):
    x, y = images(flow)
    leaf = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(flow.log_prob(leaf, y).sum(), leaf)
    want = x + 0.2**2 * score
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            got = denoise(flow, x, y, 0.2)
        torch.testing.assert_close(got.clone(), want, atol=1e-12, rtol=0)
        assert not got.requires_grad
    assert torch.equal(denoise(flow, x, y, 0.0), x)


def test_denoising_inference_tensors(images):
    flow = perturbed()
    with torch.inference_mode():
        x, y = (v.clone() for v in images(flow))
        got = denoise(flow, x, y)
    torch.testing.assert_close(got.clone(), denoise(flow, x.clone(), y.clone()), atol=1e-12, rtol=0)


def test_denoising_does_not_depend_on_the_batch(images):
    flow = perturbed()
    x, y = images(flow)
    whole = denoise(flow, x, y)
    for i in range(4):
        torch.testing.assert_close(denoise(flow, x[i : i + 1], y[i : i + 1])[0], whole[i], atol=1e-12, rtol=0)


def test_image_i_is_a_function_of_seed_and_i():
    flow = perturbed()
    y = torch.arange(7) % 5
    whole = sample(flow, 7, y, guidance=0.5, seed=3)
    for batch_size in (1, 3, 100):
        torch.testing.assert_close(sample(flow, 7, y, 0.5, seed=3, batch_size=batch_size), whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(sample(flow, 3, y[4:], 0.5, seed=3, first=4), whole[4:], atol=1e-12, rtol=0)
    assert (sample(flow, 7, y, 0.5, seed=4) - whole).abs().max() > 0.1


def test_the_global_generator_is_untouched():
    flow = perturbed()
    before = torch.get_rng_state()
    sample(flow, 2, seed=0)
    sample(flow, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(sample(flow, 2), sample(flow, 2))  # seed=None is fresh


def test_labels_denoising_and_clipping():
    flow = perturbed()
    assert torch.equal(sample(flow, 3, 2, seed=0), sample(flow, 3, torch.tensor([2, 2, 2]), seed=0))
    assert torch.equal(sample(flow, 3, None, seed=0), sample(flow, 3, -1, seed=0))
    raw = sample(flow, 3, 2, noise_std=0.0, seed=0, clip=False)
    assert raw.abs().max() > 1
    assert torch.equal(sample(flow, 3, 2, noise_std=0.0, seed=0), raw.clamp(-1, 1))
    y = torch.full((3,), 2)
    assert torch.equal(sample(flow, 3, 2, seed=0, clip=False), denoise(flow, raw, y, flow.config.noise_std))


def test_guidance_per_image_goes_with_its_image():
    flow = perturbed()
    y, g = torch.arange(5), torch.tensor([0.0, 0.5, 1.0, 0.0, 2.0])
    whole = sample(flow, 5, y, g, seed=0)
    torch.testing.assert_close(sample(flow, 5, y, g, seed=0, batch_size=2), whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(sample(flow, 1, 4, 2.0, seed=0, first=4)[0], whole[4], atol=1e-12, rtol=0)


def test_an_empty_batch_is_empty():
    flow = perturbed()
    x, y = torch.zeros(0, 3, 8, 8, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    assert flow(x, y).z.shape == (0, 16, 12) and flow.log_prob(x, y).shape == (0,)
    assert invert(flow, torch.zeros(0, 16, 12, dtype=torch.float64), y, 1.0).x.shape == x.shape
    assert denoise(flow, x, y).shape == x.shape


def test_samples_that_are_not_finite_are_never_returned():
    with pytest.raises(ValueError, match="of 2 images are not finite"):
        sample(perturbed(), 2, 1, guidance=1e30, seed=0)


def test_prior_variance_scales_the_noise():
    flow = gaussian_flow(3.0)
    assert sample(flow, 400, noise_std=0.0, seed=0, clip=False).std() == pytest.approx(3.0, rel=0.02)


def test_what_does_not_fit_is_refused(as_users_run):
    flow = perturbed()
    for arguments, message in (
        (dict(num=0), "at least 1"),
        (dict(num=-1), "at least 1"),
        (dict(num=2, batch_size=0), "at least 1"),
        (dict(num=2, y=5), "allowed are 0..4"),
        (dict(num=2, y=torch.tensor([1])), "shape"),
        (dict(num=2, y=1, noise_std=-0.1), "noise_std"),
        (dict(num=2, y=1, noise_std=float("nan")), "noise_std"),
        (dict(num=2, y=1, noise_std=1e200), "0 to 100"),
        (dict(num=4, y=1, guidance=torch.ones(2), batch_size=2), "for each image"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(flow, **arguments)
    with pytest.raises(ValueError, match="unconditional"):
        sample(perturbed(num_classes=0), 2, y=1)
    x = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    for call, message in (
        (lambda: denoise(flow, x / 0), "NaN or infinity"),
        (lambda: flow(x.float()), "convert the images"),
        (lambda: flow(x.to(torch.uint8)), "to_float"),
        (lambda: flow(x[:, :1]), "this model takes"),
        (lambda: flow.log_prob(x, torch.tensor([0, -5])), "-1 for no class"),
        (lambda: flow.log_prob(x, torch.tensor([0, 5])), "allowed are 0..4"),
        (lambda: flow(x, hidden_sites=[(4, 1)]), "outside the model"),
        (lambda: flow(x, hidden_sites=[(0, 1)]), "outside the model"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
