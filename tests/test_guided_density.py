"""The density of guided samples: the change of variables of the guided inverse itself, in float64."""

import pytest
import torch
from conftest import perturbed

from labcore.inverse import invert
from labcore.inverse.guided_density import guided_log_prob


@pytest.mark.parametrize("w", [0.0, 1.5, -0.5])
def test_it_is_the_density_of_what_the_guided_inverse_draws(w):
    flow = perturbed(0.2, image_size=(1, 2), channels=1, patch_size=1, num_classes=3, layers_per_block=1)
    z, y = (
        torch.randn(5, 2, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        torch.tensor([0, 1, 2, -1, 1]),
    )

    def drawn(z):
        return invert(flow, z, y, guidance=w).x

    moved = torch.autograd.functional.jacobian(lambda v: drawn_with_gradient(flow, v, y, w), z)
    of_each = torch.stack([moved[i, :, :, :, i].reshape(2, 2) for i in range(5)])
    expected = flow.log_prior(z) - of_each.det().abs().log()
    with torch.no_grad():
        found = guided_log_prob(flow, drawn(z), y, torch.full((5,), w, dtype=torch.float64))
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
        if w == 0:
            torch.testing.assert_close(found, flow.log_prob(drawn(z), y), atol=1e-12, rtol=0)


def drawn_with_gradient(flow, z, y, w):
    """The guided inverse, token by token and block by block, as its definition has it; z is (b, 2, 1)."""
    for block in reversed(flow.blocks):
        first, second = block.permute(z).unbind(1)  # the first token stays
        u = torch.stack([first, torch.zeros_like(first)], 1)
        log_scale, shift = (
            (1 + w) * own[:, 0] - w * none[:, 0]
            for own, none in zip(
                block.next_params(u, block.condition(y)), block.next_params(u, block.condition(None)), strict=True
            )
        )
        z = block.permute(torch.stack([first, second * log_scale.exp() + shift], 1))
    return flow.unpatchify(z)
