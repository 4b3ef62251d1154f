"""Identities of the flow, in float64 on perturbed weights."""

import math

import pytest
import torch
from conftest import perturbed

from labcore import TarFlow, TarFlowConfig, invert
from labcore.flows.metablock import MetaBlock
from labcore.train.objectives import Likelihood


def jacobian(f, x):
    """Of f: (1, ...) -> (1, ...), as a square matrix."""
    n = x.numel()
    return torch.autograd.functional.jacobian(lambda v: f(v.view_as(x)).flatten(), x.flatten()).reshape(n, n)


def test_log_det_is_that_of_autograds_jacobian(flow, images):
    x, y = images(flow, 2)
    out = flow(x, y)
    for i in range(2):
        label = None if y is None else y[i : i + 1]
        j = jacobian(lambda v, label=label: flow(v, label).z, x[i : i + 1])
        torch.testing.assert_close(out.log_det[i], torch.linalg.slogdet(j).logabsdet, atol=1e-8, rtol=0)


@pytest.mark.parametrize("number", [0, 1])
def test_a_block_is_triangular_in_its_own_order(number, images):
    flow = perturbed()
    x, _ = images(flow, 1)
    block, u = flow.blocks[number], flow.patchify(x)
    t, d = u.shape[1:]
    j = jacobian(lambda v: block(v).z, u).reshape(t, d, t, d)
    for i in range(t):
        for k in range(t):
            before = k < i if number == 0 else k > i
            part = j[i, :, k]
            if k == i:
                assert (part - torch.diag(part.diag())).abs().max() == 0
            elif before:
                assert part.abs().max() > 0
            else:
                assert part.abs().max() == 0


@pytest.mark.slow
def test_density_integrates_to_one():
    """Four tokens of one value: the mean of p(x) / q(x) over a wide normal q is the integral of p."""
    flow = perturbed(0.1, image_size=2, channels=1, patch_size=1, num_classes=0, num_blocks=2)
    n, width = 200_000, 2.0
    x = width * torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = torch.distributions.Normal(0.0, width)
    with torch.no_grad():
        log_p = torch.cat([flow.log_prob(part) for part in x.split(20_000)])
    ratio = (log_p - q.log_prob(x).sum((1, 2, 3))).exp()
    assert abs(float(ratio.mean()) - 1) < 0.02
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum((1, 2, 3))
    assert (log_p - standard).abs().mean() > 0.1  # and the flow is not the identity


def test_log_prob_is_prior_plus_log_det(flow, images):
    x, y = images(flow)
    out = flow(x, y)
    normal = torch.distributions.Normal(0, 1).log_prob(out.z).sum((1, 2))
    torch.testing.assert_close(flow.log_prob(x, y), normal + out.log_det, atol=1e-9, rtol=0)


def test_fresh_flow_is_the_identity(images):
    flow = TarFlow(TarFlowConfig(image_size=8, patch_size=2, width=16, head_dim=8, num_blocks=3, layers_per_block=1))
    x, _ = images(flow.double())
    out = flow(x)
    assert torch.equal(out.z, flow.patchify(x))
    assert torch.equal(out.log_det, torch.zeros(4, dtype=torch.float64))


def test_latents_and_hiddens(flow, images):
    x, y = images(flow)
    sites = [(1, 1), (1, 2), (3, 2)]
    out = flow(x, y, hidden_sites=sites)
    assert torch.equal(out.latents[-1], out.z)
    assert len(out.latents) == 3
    assert sorted(out.hiddens) == sites
    assert flow(x, y).hiddens == {}
    # raster order: perturbing the last raster token moves only it in block 1 (raster), all hiddens in block 2 (reversed)
    tokens = flow.patchify(x)
    moved = tokens.clone()
    moved[:, -1] += 1
    for number, reach in ((0, slice(-1, None)), (1, slice(None))):
        block = flow.blocks[number]
        change = (block(moved, y, [2]).hiddens[2] - block(tokens, y, [2]).hiddens[2]).abs().amax((0, 2))
        touched = torch.zeros(flow.config.tokens, dtype=torch.bool)
        touched[reach] = True
        assert torch.equal(change > 0, touched)


def test_hiddens_are_the_residual_stream(images):
    """The last layer's hidden, through the output layer, gives the block's parameters."""
    flow = perturbed()
    x, y = images(flow)
    block = flow.blocks[0]
    out = block(flow.patchify(x), y, [2])
    log_scale, _ = block.split_params(block.params_out(out.hiddens[2]))
    assert torch.equal(log_scale[:, :-1], out.log_scale[:, 1:])


def test_no_class_is_the_mean_embedding_everywhere(images):
    flow = perturbed()
    x, _ = images(flow)
    null = torch.full((4,), -1)
    uniform = torch.full((4, 5), 0.2, dtype=torch.float64)
    zs = [flow(x, y).z for y in (None, null, uniform)]
    for z in zs[1:]:
        torch.testing.assert_close(z, zs[0], atol=1e-12, rtol=0)
    xs = [invert(flow, zs[0], y).x for y in (None, null, uniform)]
    for back in xs:
        torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    one_hot = torch.eye(5, dtype=torch.float64)[[0, 1, 2, 3]]
    torch.testing.assert_close(flow(x, one_hot).z, flow(x, torch.arange(4)).z, atol=1e-12, rtol=0)


def test_types(images):
    flow = perturbed(dtype=torch.float32)
    x, y = images(flow)
    with torch.autocast("cpu", torch.bfloat16):
        out = flow(x, y)
    assert {out.z.dtype, out.log_det.dtype, *(s.dtype for s in out.latents)} == {torch.float32}
    assert perturbed()(x.double(), y).log_det.dtype == torch.float64


def test_forward_is_deterministic_in_train_mode(flow, images):
    x, y = images(flow)
    assert torch.equal(flow.train()(x, y).z, flow.eval()(x, y).z)


def test_every_parameter_gets_a_gradient(flow, images):
    x, y = images(flow)
    flow.log_prob(x, y).sum().backward()
    for name, p in flow.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


def test_clamp_bounds_both_parameters(images):
    flow, x = perturbed(0.3, affine_clamp=0.01), None
    x, y = images(flow)
    seen = []
    flow(x, y, callback=lambda block, out: seen.append(out.log_scale.abs().amax()))
    assert len(seen) == 3
    assert torch.stack(seen).max().item() == 0.01
    u = torch.randn(2, 16, 12, dtype=torch.float64)
    _, shift = flow.blocks[0].next_params(u, flow.blocks[0].condition(None))
    assert shift.abs().max().item() == 0.01


def test_patches_are_torchs_unfold(images):
    flow = perturbed()
    x, _ = images(flow)
    assert torch.equal(flow.patchify(x), torch.nn.functional.unfold(x, 2, stride=2).transpose(1, 2))
    assert torch.equal(flow.unpatchify(flow.patchify(x)), x)


def test_blocks_alternate_and_are_in_order():
    flow = perturbed()
    assert [block.reverse for block in flow.blocks] == [False, True, False]
    assert all(isinstance(block, MetaBlock) for block in flow.blocks)


def test_rope_depends_on_relative_position_only():
    from labcore.nn.embed import rope_table, rotate

    table = rope_table((4, 4), 8).double()
    q, k = torch.randn(2, 1, 1, 16, 8, dtype=torch.float64).unbind(0)
    logits = rotate(q[:, :, :1].expand(-1, -1, 16, -1), table) @ rotate(k[:, :, :1].expand(-1, -1, 16, -1), table).mT
    # tokens (row, column) = (0,0)->(1,2) and (2,1)->(3,3) are equally far apart
    torch.testing.assert_close(logits[0, 0, 0, 6], logits[0, 0, 9, 15], atol=1e-6, rtol=0)
    assert abs(logits[0, 0, 0, 6] - logits[0, 0, 0, 9]) > 1e-4


def test_volume_preserving_prior_learns_its_variance(images):
    flow = perturbed(volume_preserving=True)
    z = 2 * torch.randn(4096, 16, 12, dtype=torch.float64)
    for _ in range(100):
        flow.update_prior(z)
    assert (flow.prior_var - 4).abs().max() < 0.5
    n = torch.distributions.Normal(0, flow.prior_var.sqrt())
    torch.testing.assert_close(flow.log_prior(z), n.log_prob(z).sum((1, 2)))


def test_the_loss_of_a_volume_preserving_flow_is_not_ml_tarflows(images):
    """ml-tarflow: 0.5 mean(z^2) - mean(log_det), without the learned variance v. Ours: the density under it."""
    flow = perturbed(volume_preserving=True)
    x, y = images(flow)
    generator = torch.Generator().manual_seed(3)
    flow.prior_var.copy_(0.5 + torch.rand(flow.prior_var.shape, generator=generator, dtype=torch.float64))
    out, v, constant = flow(x, y), flow.prior_var, 0.5 * math.log(2 * math.pi)
    assert out.log_det.abs().max() == 0
    theirs = 0.5 * out.z.square().mean()
    ours = Likelihood().eval().nats(flow, out)
    torch.testing.assert_close(ours, 0.5 * (out.z.square() / v + v.log()).mean() + constant)
    assert (ours - theirs - constant).abs() > 0.01
    by_ours, by_theirs = (torch.autograd.grad(loss, out.z, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(by_ours, by_theirs / v)


def test_the_loss_of_every_other_flow_is_ml_tarflows(images):
    flow = perturbed()
    out = flow(*images(flow))
    theirs = 0.5 * out.z.square().mean() - out.log_det.mean() / flow.config.dims
    torch.testing.assert_close(Likelihood().nats(flow, out), theirs + 0.5 * math.log(2 * math.pi))
