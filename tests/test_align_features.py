"""Features for alignment: equal values in every direction, and gradients against plain autograd, in float64."""

import copy

import pytest
import torch
from conftest import perturbed
from coupling import Coupling, coupling_flow

from labcore.align import DIRECTIONS, features, rebuild
from labcore.align.features import literal_step
from labcore.align.protocol import Block, Flow

SITES = [(2, 2), (1, 1), (2, 1), (3, 2)]
TOKENS = 16
KINDS = ["autoregressive", "coupling"]


@pytest.fixture(params=KINDS)
def kind(request, images):
    """(flow, x, y) of a TarFlow and of a flow of couplings."""
    flow = perturbed(0.1) if request.param == "autoregressive" else coupling_flow()
    return flow, *images(flow, 2)


def random_loss(hiddens):
    """A fixed random linear function of the hiddens of each site."""
    g = torch.Generator().manual_seed(7)
    return sum(
        (hiddens[site] * torch.randn(hiddens[site].shape, generator=g, dtype=torch.float64)).sum()
        for site in sorted(hiddens)
    )


def gradients(flow, hiddens):
    """{parameter name: gradient, or None where it got none} of the random loss."""
    flow.zero_grad(set_to_none=True)
    random_loss(hiddens).backward()
    return {name: p.grad for name, p in flow.named_parameters()}


def assert_same_gradients(ours, theirs, relative=1e-9):
    """Equal up to rounding, relative to the largest gradient of the parameter; zero and none are the same."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        a, b = (torch.zeros(()) if g is None else g for g in (ours[name], theirs[name]))
        assert (a - b).abs().max() <= relative * max(b.abs().max(), 1e-3), name


def blocks_reached(grads):
    """The 1-based blocks of which any parameter got a gradient at all, be it zero."""
    return {int(name.split(".")[1]) + 1 for name, g in grads.items() if g is not None}


def generated(block, z, y, stop):
    """Plain autograd through the block's inverse, token by token; `stop` cuts the gradient between tokens."""
    if isinstance(block, Coupling):
        return block.generate(z, y, stop)
    u, tokens = block.permute(z), []
    for i in range(TOKENS):
        if i == 0:
            tokens.append(u[:, :1])
            continue
        seen = torch.cat([*tokens, torch.zeros_like(u[:, i:])], dim=1)
        log_scale, shift = block.next_params(seen.detach() if stop else seen, block.condition(y))
        tokens.append(u[:, i : i + 1] * log_scale[:, i - 1 : i].exp() + shift[:, i - 1 : i])
    return block.permute(torch.cat(tokens, dim=1))


def iterated(block, z, y, cached, sweeps):
    """The fixed-point iteration of the inverse from its solution: by autograd, `sweeps` terms of the Neumann series."""
    u, v = z, cached.detach()
    for _ in range(sweeps + 1):
        if isinstance(block, Coupling):
            log_scale, shift, _ = block.params(v, y)
        else:
            out = block(v, y)
            log_scale, shift = out.log_scale, v - out.z * out.log_scale.exp()
        v = u * log_scale.exp() + shift
    return v


def naive_features(flow, x, y, sites, inverse):
    """Features inside a generative pass that `inverse(block, z, y, cached)` makes, all by plain autograd."""
    with torch.no_grad():
        states = [flow.patchify(x), *flow(x, y).latents]
    state, found = states[-1], {}
    for number in range(len(flow.blocks), min(sites)[0] - 1, -1):
        block = flow.blocks[number - 1]
        state = inverse(block, state, y, states[number - 1])
        layers = [layer for b, layer in sites if b == number]
        found.update({(number, layer): h for layer, h in block(state, y, layers).hiddens.items()})
    return found


# values


@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_direction_gives_the_forward_hiddens(flow, images, direction, with_states):
    x, y = images(flow)
    plain = flow(x, y, hidden_sites=SITES)
    found = features(flow, x, y, SITES, direction, states=plain if with_states else None)
    assert list(found) == SITES
    for site in SITES:
        assert torch.equal(found[site], plain.hiddens[site])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_couplings_too(images, direction):
    flow = coupling_flow()
    x, y = images(flow)
    plain = flow(x, y, hidden_sites=SITES)
    found = features(flow, x, y, SITES, direction)
    assert all(torch.equal(found[site], plain.hiddens[site]) for site in SITES)


def test_rebuilt_states_carry_the_cached_values_exactly(kind):
    flow, x, y = kind
    out = flow(x, y)
    cache = [flow.patchify(x), *out.latents]
    state = cache[-1].detach()
    for number in (3, 2, 1):
        # whatever the output's values: the cache is what the values come from
        state, _ = rebuild(flow.blocks[number - 1], cache[number - 1], state + 1e-9, y, sweeps=1)
        assert torch.equal(state, cache[number - 1])
        assert state.requires_grad


def test_values_do_not_need_gradients(kind):
    flow, x, y = kind
    plain = flow(x, y, hidden_sites=SITES).hiddens
    for direction in DIRECTIONS:
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                found = features(flow, x, y, SITES, direction)
            assert not any(h.requires_grad for h in found.values())
            assert all(torch.equal(found[site], plain[site]) for site in SITES)


# gradients


@pytest.mark.parametrize("site", [(1, 2), (2, 1), (3, 2)])
def test_reach_of_the_gradient(kind, site):
    flow, x, y = kind
    block, _ = site
    expected = {
        "forward": set(range(1, block + 1)),
        "detach": {block},
        "reverse": set(range(block, 4)),
        "reverse-literal": {block},
    }
    for direction in DIRECTIONS:
        # a coupling hands on only what stayed, so without sweeps the gradient may miss the next but one
        sweeps = int(direction == "reverse" and isinstance(flow.blocks[0], Coupling))
        got = gradients(flow, features(flow, x, y, [site], direction, sweeps))
        reached = {int(name.split(".")[1]) + 1 for name, g in got.items() if g is not None and g.abs().max() > 0}
        assert reached == expected[direction], direction
        # the others have none at all, not zeros
        assert blocks_reached(got) == expected[direction], direction


def test_forward_is_plain_backpropagation(flow, images):
    x, y = images(flow, 2)
    plain = flow(x, y, hidden_sites=SITES)
    theirs = gradients(flow, plain.hiddens)
    assert_same_gradients(gradients(flow, features(flow, x, y, SITES, "forward")), theirs)
    states = flow(x, y, hidden_sites=SITES)
    found = features(flow, x, y, SITES[:2], "forward", states=states)
    assert all(found[site] is states.hiddens[site] for site in SITES[:2])


def test_forward_does_not_settle_for_states_without_gradients(images):
    flow = perturbed()
    x, y = images(flow)
    with torch.no_grad():
        states = flow(x, y, hidden_sites=SITES)
    found = features(flow, x, y, SITES, "forward", states=states)
    assert all(h.requires_grad for h in found.values())


def test_forward_reaches_the_image_and_the_others_do_not(images):
    flow = perturbed()
    x, y = images(flow)
    x.requires_grad_()
    for direction in DIRECTIONS:
        (g,) = torch.autograd.grad(random_loss(features(flow, x, y, SITES, direction)), x, allow_unused=True)
        assert (g is not None) == (direction == "forward"), direction


def test_literal_is_detach(kind):
    flow, x, y = kind
    literal = gradients(flow, features(flow, x, y, SITES, "reverse-literal"))
    detach = gradients(flow, features(flow, x, y, SITES, "detach"))
    for name in detach:
        assert (literal[name] is None) == (detach[name] is None), name
        assert literal[name] is None or torch.equal(literal[name], detach[name]), name


def test_literal_rebuilds_as_eq_9(flow, images):
    """mu + sigma z on the cached context, in value and gradient."""
    x, y = images(flow, 2)
    block, cached = flow.blocks[1], flow(x, y).latents[0].detach()
    leaf = block(cached, y).z.detach().requires_grad_()
    state, _ = literal_step(block, cached, leaf, y, ())
    theirs = iterated(block, leaf, y, cached, sweeps=0)
    torch.testing.assert_close(state, theirs, atol=1e-12, rtol=0)
    inputs = [leaf, *block.parameters()]
    weights = torch.randn_like(state)
    for a, b in zip(*(torch.autograd.grad((v * weights).sum(), inputs) for v in (state, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("with_states", [False, True])
def test_reverse_is_token_by_token_generation_with_stopped_context(flow, images, with_states):
    x, y = images(flow, 2)
    states = flow(x, y) if with_states else None
    ours = gradients(flow, features(flow, x, y, SITES, "reverse", states=states))
    theirs = gradients(flow, naive_features(flow, x, y, SITES, lambda b, z, y, _: generated(b, z, y, stop=True)))
    assert_same_gradients(ours, theirs)


def test_reverse_with_all_sweeps_is_token_by_token_generation(flow, images):
    x, y = images(flow, 2)
    ours = gradients(flow, features(flow, x, y, SITES, "reverse", TOKENS - 1))
    theirs = gradients(flow, naive_features(flow, x, y, SITES, lambda b, z, y, _: generated(b, z, y, stop=False)))
    assert_same_gradients(ours, theirs)
    stopped = gradients(flow, features(flow, x, y, SITES, "reverse"))
    apart = max((ours[n] - stopped[n]).abs().max() / ours[n].abs().max() for n in ours if "params_out.bias" in n)
    assert apart > 1e-3  # the sweeps do something


@pytest.mark.parametrize("sweeps", [0, 1, 2, 5])
def test_sweeps_are_terms_of_the_neumann_series(kind, sweeps):
    flow, x, y = kind
    ours = gradients(flow, features(flow, x, y, SITES, "reverse", sweeps))
    inverse = lambda block, z, y, cached: iterated(block, z, y, cached, sweeps)  # noqa: E731
    assert_same_gradients(ours, gradients(flow, naive_features(flow, x, y, SITES, inverse)))


def test_couplings_are_exact_after_one_sweep(images):
    flow = coupling_flow()
    x, y = images(flow, 2)
    for sweeps, stop in ((0, True), (1, False), (4, False)):
        ours = gradients(flow, features(flow, x, y, SITES, "reverse", sweeps))
        inverse = lambda block, z, y, _, stop=stop: generated(block, z, y, stop)  # noqa: E731
        assert_same_gradients(ours, gradients(flow, naive_features(flow, x, y, SITES, inverse)))


def test_a_loss_on_some_sites_only(images):
    flow = perturbed(0.1)
    x, y = images(flow, 2)
    found = features(flow, x, y, SITES, "reverse", 3)
    ours = gradients(flow, {(2, 1): found[(2, 1)]})
    assert_same_gradients(ours, gradients(flow, features(flow, x, y, [(2, 1)], "reverse", 3)))


def test_one_parallel_pass_a_block_whatever_the_sweeps(images):
    flow = perturbed(0.1)
    x, y = images(flow, 2)
    states, calls = flow(x, y), []
    for number, block in enumerate(flow.blocks, 1):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    random_loss(features(flow, x, y, [(2, 2), (2, 1)], "reverse", 5, states)).backward()
    assert calls == [3, 2]


# in training


def test_one_backward_pass_adds_to_that_of_the_likelihood(images):
    flow = perturbed(0.1).train()
    x, y = images(flow, 2)

    def grads(align_weight, likelihood_weight):
        flow.zero_grad(set_to_none=True)
        out = flow(x, y)
        found = features(flow, x, y, [(2, 2), (3, 1)], "reverse", 2, out)
        nll = -(flow.log_prior(out.z) + out.log_det).mean()
        (align_weight * random_loss(found) + likelihood_weight * nll).backward()
        return {name: p.grad for name, p in flow.named_parameters()}

    both, aligned, likelihood = grads(0.5, 2.0), grads(0.5, 0.0), grads(0.0, 2.0)
    assert_same_gradients(both, {name: aligned[name] + likelihood[name] for name in both})


def test_gradients_accumulate_over_micro_batches(images):
    flow = perturbed(0.1)
    x, y = images(flow, 4)
    whole = gradients(flow, {(2, 2): features(flow, x, y, [(2, 2)], "reverse", 2)[(2, 2)].mean(0, keepdim=True)})
    flow.zero_grad(set_to_none=True)
    for part in (slice(0, 2), slice(2, 4)):
        h = features(flow, x[part], y[part], [(2, 2)], "reverse", 2)[(2, 2)].sum(0, keepdim=True) / 4
        random_loss({(2, 2): h}).backward()
    assert_same_gradients({name: p.grad for name, p in flow.named_parameters()}, whole)


def test_backward_may_be_repeated(images):
    flow = perturbed(0.1)
    x, y = images(flow, 2)
    loss = random_loss(features(flow, x, y, SITES, "reverse", 2))
    parameters = list(flow.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_pass_the_gradient_on(images):
    flow = perturbed(0.1)
    x, y = images(flow, 2)
    free = gradients(flow, features(flow, x, y, [(1, 2)], "reverse", 2))
    flow.blocks[1].requires_grad_(False)
    for name, p in flow.blocks[2].named_parameters():
        p.requires_grad_("bias" in name)
    some = gradients(flow, features(flow, x, y, [(1, 2)], "reverse", 2))
    for name, p in flow.named_parameters():
        assert (some[name] is None) == (not p.requires_grad or free[name] is None), name
        assert some[name] is None or torch.equal(some[name], free[name]), name


def test_nothing_is_left_in_the_callers_tensors(images):
    flow = perturbed(0.1)
    x, y = images(flow, 2)
    states = flow(x, y)
    before = [s.clone() for s in states.latents]
    for s in states.latents:
        s.retain_grad()
    random_loss(features(flow, x, y, SITES, "reverse", 2, states)).backward()
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, states.latents, strict=True))


@pytest.mark.parametrize("sweeps", [0, 3])
def test_bfloat16_autocast_is_close(images, sweeps):
    flow = perturbed(0.1, dtype=torch.float32)
    exact = copy.deepcopy(flow).double()
    x, y = images(exact, 4)
    wanted = gradients(exact, features(exact, x, y, SITES, "reverse", sweeps))
    with torch.autocast("cpu", torch.bfloat16):
        states = flow(x.float(), y, hidden_sites=SITES)
        found = features(flow, x.float(), y, SITES, "reverse", sweeps, states)
    assert all(torch.equal(found[site], states.hiddens[site]) for site in SITES)
    got = gradients(flow, found)
    a = torch.cat([g.flatten() for g in wanted.values()])
    b = torch.cat([g.flatten() for g in got.values()]).double()
    assert torch.cosine_similarity(a, b, dim=0) > 0.999
    assert b.isfinite().all()


def test_blocks_and_flows_fit_the_protocol():
    for flow in (perturbed(), coupling_flow()):
        assert isinstance(flow, Flow)
        assert all(isinstance(block, Block) for block in flow.blocks)
    assert not isinstance(torch.nn.Linear(2, 2), Flow)


# bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(sites=[(4, 1)]), "outside the model.*blocks 1..3 and layers 1..2"),
        (dict(sites=[(1, 0)]), "outside the model"),
        (dict(sites=[(1, 1), (2, 3)]), r"\[\(2, 3\)\] are outside"),
        (dict(sites=[]), "no sites"),
        (dict(sites=[(1.7, 1)]), "is no site"),
        (dict(sites=[(1, 1), (2, 1), (1, 1)]), r"\[\(1, 1\)\] were given more than once"),
        (dict(direction="revers"), "did you mean 'reverse'.*forward, detach, reverse, reverse-literal"),
        (dict(direction="xyz"), r"'xyz'; allowed"),
        (dict(adjoint_sweeps=-1), "0 is the paper's"),
        (dict(direction="detach", adjoint_sweeps=2), "only 'reverse' has sweeps"),
        (dict(direction="reverse-literal", adjoint_sweeps=1), "only 'reverse' has sweeps"),
    ],
)
def test_bad_input(images, as_users_run, changes, message):
    flow = perturbed()
    x, y = images(flow)
    with pytest.raises(ValueError, match=message):
        features(flow, x, y, **{**dict(sites=[(1, 1)], direction="reverse"), **changes})


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_states_that_do_not_fit(images, as_users_run, direction):
    flow, shallow = perturbed(), perturbed(num_blocks=2)
    x, y = images(flow)
    for states in (flow(x[:2], y[:2]), shallow(x, y), perturbed(dtype=torch.float32)(x.float(), y)):
        with pytest.raises(ValueError, match="this x and flow give 3 of"):
            features(flow, x, y, [(1, 1)], direction, states=states)


def test_images_and_labels_are_checked_though_states_are_given(images, as_users_run):
    flow = perturbed()
    x, y = images(flow)
    states = flow(x, y)
    with pytest.raises(ValueError, match="labels have shape"):
        features(flow, x, y[:1], [(1, 1)], "reverse", states=states)
    with pytest.raises(ValueError, match="images have dtype"):
        features(flow, (x * 255).to(torch.uint8), y, [(1, 1)], "reverse", states=states)
