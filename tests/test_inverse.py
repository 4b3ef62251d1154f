"""The exact inverse: round trips, guidance, the decoder, and that nothing of the caller's is touched."""

import pytest
import torch
import torch.nn.functional as F
from conftest import perturbed

from labcore import invert, zoo
from labcore.inverse import decode
from labcore.inverse.decode import BlockDecoder
from labcore.rng import normal_per_item


def test_round_trip_both_ways(flow, images):
    x, y = images(flow)
    out = flow(x, y)
    torch.testing.assert_close(invert(flow, out.z, y).x, x, atol=1e-10, rtol=0)
    z = torch.randn_like(out.z)
    back = flow(invert(flow, z, y).x, y)
    torch.testing.assert_close(back.z, z, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_round_trip_at_large_values(dtype, tolerance, images):
    flow = perturbed(0.02, dtype=dtype)  # random weights of 0.05 send values of 20 out of float32's range
    x, y = images(flow, scale=7.0)
    assert x.abs().max() > 20 and (flow(x, y).z - flow.patchify(x)).abs().max() > 1
    assert (invert(flow, flow(x, y).z, y).x - x).abs().max() <= tolerance


def test_decoder_equals_the_parallel_block_at_every_position(flow, images):
    x, y = images(flow)
    u = flow.patchify(x)
    temperature = torch.tensor([1.0, 0.5, 2.0, 0.3], dtype=torch.float64)
    for block in flow.blocks:
        for t in (None, temperature):
            want = block.next_params(u, block.condition(y), t)
            for pieces in ([1] * 16, [16], [5, 1, 7, 3]):
                decoder = BlockDecoder(block, block.condition(y), t)
                cache = decoder.new_cache(len(u), 16, u)
                got = [decoder.next_params(part, cache) for part in u.split(pieces, dim=1)]
                for i in range(2):
                    torch.testing.assert_close(torch.cat([g[i] for g in got], 1), want[i], atol=1e-12, rtol=0)


def naive_guided_inverse(flow, z, y, g, weights, temperature):
    """Token by token from the definition, both branches by the whole parallel block."""
    tokens, ones = z, torch.ones(len(z), dtype=z.dtype)
    for number in range(len(flow.blocks), 0, -1):
        block = flow.blocks[number - 1]
        target = block.permute(tokens)
        x = target.clone()
        for i in range(1, x.shape[1]):
            s, m = block.next_params(x, block.condition(y))
            s_u, m_u = block.next_params(x, block.condition(None), temperature * ones)
            w = g[number - 1] * weights[i]
            s, m = s + w[:, None, None] * (s - s_u), m + w[:, None, None] * (m - m_u)
            x[:, i] = target[:, i] * s[:, i - 1].exp() + m[:, i - 1]
        tokens = block.permute(x)
    return flow.unpatchify(tokens)


@torch.no_grad()
@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize("case", ["number", "per image", "per block", "temperature"])
def test_guidance_equals_its_definition(schedule, case, images):
    flow = perturbed()
    x, y = images(flow)
    z = flow(x, y).z
    guidance = {"per image": torch.tensor([0.0, 0.5, 1.0, 2.0]), "per block": [0.0, 1.5, 0.7]}.get(case, 1.5)
    temperature = 0.6 if case == "temperature" else 1.0
    if case == "per block":
        g = [torch.full((4,), v, dtype=torch.float64) for v in guidance]
    else:
        g = [torch.as_tensor(guidance, dtype=torch.float64).expand(4)] * 3
    weights = torch.ones(16) if schedule == "constant" else torch.arange(16).double() / 15
    want = naive_guided_inverse(flow, z, y, g, weights.double(), temperature)
    got = invert(flow, z, y, guidance, schedule, temperature).x
    torch.testing.assert_close(got, want, atol=1e-9, rtol=0)
    assert (got - x).abs().max() > 1e-3  # guidance does something


def test_guidance_without_classes_needs_a_temperature(images):
    flow = perturbed(num_classes=0)
    z = flow(images(flow)[0]).z
    with pytest.raises(ValueError, match="attn_temp"):
        invert(flow, z, guidance=1.0)
    plain, guided = invert(flow, z).x, invert(flow, z, guidance=1.0, attn_temp=0.3).x
    assert (plain - guided).abs().max() > 1e-6


def test_null_labels_make_guidance_irrelevant(images):
    flow = perturbed()
    z = flow(images(flow)[0]).z
    null = torch.full((4,), -1)
    torch.testing.assert_close(invert(flow, z, null, 3.0).x, invert(flow, z, null).x, atol=1e-12, rtol=0)


def test_callers_z_is_unchanged_and_no_graph_is_built(flow, images):
    x, y = images(flow)
    z = flow(x, y).z
    before = z.detach().clone()
    result = invert(flow, z, y).x
    assert torch.equal(z, before)
    assert not result.requires_grad


def test_stats_are_in_sampling_order(images):
    flow = perturbed()
    stats = invert(flow, flow(images(flow)[0]).z).stats
    assert [s.block for s in stats] == [3, 2, 1]
    assert [s.sweeps for s in stats] == [15, 15, 15]


def test_an_exception_midway_leaves_the_model_as_it_was(images, monkeypatch):
    flow = perturbed()
    x, y = images(flow)
    z = flow(x, y).z
    before = {k: v.clone() for k, v in flow.state_dict().items()}
    real, calls = BlockDecoder.next_params, []

    def fail_later(self, u, cache):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return real(self, u, cache)

    monkeypatch.setattr(BlockDecoder, "next_params", fail_later)
    with pytest.raises(KeyboardInterrupt):
        invert(flow, z, y)
    monkeypatch.undo()
    assert all(torch.equal(v, before[k]) for k, v in flow.state_dict().items())
    assert torch.equal(flow(x, y).z, z)
    torch.testing.assert_close(invert(flow, z, y).x, x, atol=1e-10, rtol=0)


def test_a_batch_is_its_images_one_by_one(images):
    flow = perturbed()
    x, y = images(flow)
    z = flow(x, y).z
    whole = invert(flow, z, y, 1.0).x
    for i in range(4):
        torch.testing.assert_close(invert(flow, z[i : i + 1], y[i : i + 1], 1.0).x[0], whole[i], atol=1e-12, rtol=0)


def test_what_does_not_fit_is_refused(images, as_users_run):
    flow = perturbed()
    x, y = images(flow)
    z = flow(x, y).z
    bad = z.clone()
    bad[0, 0, 0] = float("nan")
    for arguments, message in (
        ((bad,), "NaN"),
        ((z[:, :3],), "this model takes floating"),
        ((z.long(),), "floating"),
        ((z, torch.tensor([0, 1, 2, 5])), "allowed are 0..4"),
        ((z, torch.tensor([0, 1, 2, -2])), "-1 for no class"),
        ((z, torch.tensor([0, 1])), "shape"),
        ((z, y, [1.0, 1.0]), "one per block"),
        ((z, y, torch.ones(3)), "one per block"),
        ((z, y, float("nan")), "finite"),
        ((z, y, 1.0, "cosine"), "constant, linear"),
        ((z, y, 1.0, "linear", 0.0), "above 0"),
        ((z, y, 1.0, "linear", 1.0, "newton"), "sequential"),
    ):
        with pytest.raises(ValueError, match=message):
            invert(flow, *arguments)


@pytest.mark.slow
def test_bfloat16_rounds_neither_the_sums_nor_the_parameters(monkeypatch, as_users_run):
    """On the shipped flow, against float32; and against an inverse whose sums and parameters autocast rounds too."""
    flow = zoo.load("fashion-tarflow")
    z = normal_per_item(0, "bf16", range(32), (49, 16)).float()
    y = torch.arange(32) % 10
    exact = invert(flow, z, y, compiled=False).x

    def error():
        with torch.autocast("cpu", torch.bfloat16):
            return float((invert(flow, z, y, compiled=False).x - exact).square().mean().sqrt())

    ours = error()
    monkeypatch.setattr(decode, "outside_autocast", lambda h, weight, bias=None: F.linear(h, weight, bias))
    monkeypatch.setattr(decode, "_added", lambda h, x, weight, bias: torch.addmm(h, x, weight.t()).add_(bias))
    assert ours < 7e-3 and ours < 0.8 * error()
