"""Every way of solving a block's fixed point gives the sequential inverse, and says what it did."""

import warnings

import pytest
import torch
from conftest import perturbed

from labcore import invert
from labcore.inverse.methods import Method, gs_jacobi, named, sejd, starflow

EXACT = [
    {"solver": "jacobi"},
    {"solver": "gs-jacobi"},
    {"solver": "gs-jacobi", "segments": 2},
    {"solver": "jacobi", "start": "zeros"},
    {"solver": Method(segments=4, bound=0.01)},  # what is not exact yet is far off all the time
    {"solver": [Method(segments=16), Method(segments=1, start="zeros"), Method(segments=2)]},
]


def z_of(flow, images):
    x, y = images(flow)
    return flow(x, y).z, y


def of(settings):
    return " ".join(f"{key}={value}" for key, value in settings.items())


@pytest.mark.parametrize("settings", EXACT, ids=of)
@pytest.mark.parametrize(
    "guided",
    [
        {},
        {"guidance": 1.5, "guidance_schedule": "linear"},
        {"guidance": torch.tensor([0.0, 0.5, 1.0, 2.0]), "attn_temp": 0.6},
        {"guidance": [0.0, 1.5, 0.7]},
    ],
    ids=str,
)
def test_without_a_tolerance_every_solver_is_exact(flow, images, settings, guided):
    if flow.config.num_classes == 0 and guided.get("attn_temp", 1.0) == 1.0:
        guided = {}
    z, y = z_of(flow, images)
    want = invert(flow, z, y, **guided)
    got = invert(flow, z, y, **guided, **settings)
    torch.testing.assert_close(got.x, want.x, atol=1e-10, rtol=0)
    assert (flow.patchify(want.x) - z).abs().max() > 0.1


def test_the_first_s_tokens_are_exact_after_s_sweeps(images):
    flow = perturbed()
    z, y = z_of(flow, images)
    states = {}
    invert(flow, z, y, callback=lambda sweep: states.update({sweep.block: sweep.x}))  # of the sequential solver
    seen = []

    def check(sweep):
        n = sweep.first
        got, want = (flow.blocks[sweep.block - 1].permute(s) for s in (sweep.x, states[sweep.block]))
        torch.testing.assert_close(got[:, : n + 1], want[:, : n + 1], atol=1e-10, rtol=0)
        seen.append((sweep.block, sweep.number, n))

    stats = invert(flow, z, y, solver="jacobi", start="zeros", callback=check).stats
    assert [s.sweeps for s in stats] == [sum(b == block for b, *_ in seen) for block in (3, 2, 1)]
    assert all(n >= number for _, number, n in seen)


@pytest.mark.parametrize("settings", [{"solver": "jacobi"}, {"solver": "gs-jacobi", "segments": 2}], ids=of)
def test_a_tolerance_bounds_the_last_change_and_takes_fewer_sweeps(images, settings):
    flow = perturbed()
    z, y = z_of(flow, images)
    want = invert(flow, z, y)
    exact, loose = invert(flow, z, y, **settings), invert(flow, z, y, **settings, tolerance=1e-3)
    for one, other in zip(exact.stats, loose.stats, strict=True):
        assert one.residual <= 1e-12 and 0 < other.residual <= 1e-3 and other.sweeps < one.sweeps <= 15
    assert 0 < (loose.x - want.x).abs().max() < 0.05


def test_images_that_are_done_leave_the_batch(images):
    """One image begins at its own answer: it leaves after a sweep, and the others go on as if it had never been there."""
    flow = perturbed()
    z, y = z_of(flow, images)
    states = {}
    invert(flow, z, y, callback=lambda sweep: states.update({sweep.block: sweep.x}))
    start = [torch.cat([states[block][:1], torch.zeros_like(z[1:])]) for block in (3, 2, 1)]
    for segments, guidance in ((1, 0.0), (4, 0.0), (4, [0.0, 0.0, 1e-3])):
        sizes, method = [], Method(segments=segments, tolerance=1e-6)
        got = invert(
            flow, z, y, guidance, solver=method, start=start, callback=lambda s, n=sizes: n.append(len(s.rows))
        )
        assert set(sizes) >= {4, 3}
        torch.testing.assert_close(got.x, invert(flow, z, y, guidance).x, atol=1e-4, rtol=0)
    alone = [state[1:] for state in start]
    kinds = [{"solver": Method(segments=4, tolerance=1e-6, rule=rule)} for rule in ("largest", "root-sum-square")]
    for kind in kinds:
        got = invert(flow, z, y, **kind, start=start).x[1:]
        torch.testing.assert_close(got, invert(flow, z[1:], y[1:], **kind, start=alone).x, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("flow", "y"),
    [
        (perturbed(), torch.arange(4)),
        (perturbed(), torch.full((4, 5), 0.2, dtype=torch.float64)),
        (perturbed(num_classes=0), None),
    ],
    ids=["labels", "probabilities", "none"],
)
@pytest.mark.parametrize("segments", [1, 2])
def test_images_leave_with_their_own_guidance_classes_and_temperature(flow, y, segments):
    z = torch.randn(4, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if y is not None and y.ndim == 2:
        y = (y + torch.eye(4, 5, dtype=torch.float64)) / 2
    guided = {"guidance": torch.tensor([2.0, 0.0, 0.5, 1.0]), "attn_temp": 0.6, "guidance_schedule": "linear"}
    states, sizes = {}, set()
    want = invert(flow, z, y, **guided, callback=lambda s: states.update({s.block: s.x})).x
    far = torch.tensor([1.0, 0.0, 1e-6, 1e-3], dtype=torch.float64)[:, None, None]  # the second is done at once
    start = [states[block] + far for block in (3, 2, 1)]
    method = Method(segments=segments, tolerance=1e-10)
    got = invert(flow, z, y, **guided, solver=method, start=start, callback=lambda s: sizes.add(len(s.rows)))
    assert len(sizes) >= 4 - segments and 4 in sizes
    torch.testing.assert_close(got.x, want, atol=1e-8, rtol=0)


@pytest.mark.parametrize("tolerance", [None, 1e-6])
def test_a_bound_leaves_what_is_settled_alone(images, tolerance):
    """Half of the start is the answer, with values beyond the bound: those settle at once and must stay."""
    flow = perturbed()
    z, y = z_of(flow, images)
    states = {}
    want = invert(flow, z, y, callback=lambda s: states.update({s.block: s.x})).x
    start = []
    for number in (3, 2, 1):
        own = flow.blocks[number - 1].permute(states[number]).clone()
        own[:, 8:] = 0
        start.append(flow.blocks[number - 1].permute(own))
        assert own.abs().max() > 2
    for bound in (0.5, 1.0, 2.0):
        got = invert(flow, z, y, solver=Method(segments=1, bound=bound, tolerance=tolerance), start=start).x
        torch.testing.assert_close(got, want, atol=1e-10 if tolerance is None else 1e-4, rtol=0)


def test_an_image_with_large_values_does_not_make_others_loose():
    flow = perturbed(dtype=torch.float32, affine_clamp=0.5)
    z = torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(0))
    z[0] *= 1e5
    want, got = invert(flow, z).x, invert(flow, z, solver="jacobi").x
    torch.testing.assert_close(got[1:], want[1:], atol=1e-5, rtol=0)


def test_the_answer_as_a_start_takes_one_sweep(images):
    flow = perturbed()
    z, y = z_of(flow, images)
    states = {}
    want = invert(flow, z, y, 1.0, callback=lambda sweep: states.update({sweep.block: sweep.x})).x
    got = invert(flow, z, y, 1.0, solver="jacobi", tolerance=1e-9, start=[states[b] for b in (3, 2, 1)] + [want])
    assert [s.sweeps for s in got.stats] == [1, 1, 1]
    torch.testing.assert_close(got.x, want, atol=1e-9, rtol=0)


@pytest.mark.parametrize("segments", [1, 2])
def test_what_diverges_is_solved_token_by_token_with_a_warning(images, segments):
    """The start of the second block overflows inside of it; a NaN there reaches all tokens of a sweep."""
    flow = perturbed()
    z, y = z_of(flow, images)
    far = [torch.zeros_like(z), torch.full_like(z, 1e308), torch.zeros_like(z)]
    with pytest.warns(UserWarning, match="block 2: sweeps diverged after token 1,"):
        got = invert(flow, z, y, solver=Method(segments=segments), start=far)
    torch.testing.assert_close(got.x, invert(flow, z, y).x, atol=1e-10, rtol=0)


def test_an_image_whose_last_sweep_changes_more_than_one_before_has_diverged(images):
    flow = perturbed(seed=1, affine_clamp=0.5)
    with torch.no_grad():
        for block in flow.blocks:
            block.params_out.weight.mul_(8)
    z = torch.randn(4, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want = invert(flow, z)
    methods = [Method(segments=16), Method(segments=16), Method(segments=1, max_sweeps=2)]
    changes = []
    with (
        pytest.warns(UserWarning, match="max_sweeps ended"),
        pytest.warns(UserWarning, match="block 3: sweeps diverged"),
    ):
        got = invert(flow, z, solver=methods, callback=lambda s: s.block == 3 and changes.append(s.change))
    grown = changes[1] > 1.25 * changes[0]
    assert grown.any() and not grown.all()  # those that have only not converged yet keep what they have
    torch.testing.assert_close(got.x[grown], want.x[grown], atol=1e-9, rtol=0)
    assert (got.x[~grown] - want.x[~grown]).abs().max() > 0.1
    assert [s.diverged for s in got.stats] == [True, False, False]


def test_a_limit_of_sweeps_ends_a_segment(images):
    flow = perturbed()
    z, y = z_of(flow, images)
    with pytest.warns(
        UserWarning, match=r"max_sweeps ended 3 of 3 blocks before they were exact: block \d still"
    ) as said:
        got = invert(flow, z, y, solver="gs-jacobi", segments=4, max_sweeps=2)
    assert len(said) == 1
    assert [s.sweeps for s in got.stats] == [8, 8, 8] and all(s.residual > 0 for s in got.stats)
    assert 1e-6 < (got.x - invert(flow, z, y).x).abs().max() < 0.5
    worst = max(got.stats, key=lambda s: s.residual)
    assert f"block {worst.block} still changed by {worst.residual:.2g}" in str(said[0].message)
    assert not any(s.converged for s in got.stats)


@pytest.mark.parametrize("settings", [dict(max_sweeps=4), dict(max_sweeps=2, tolerance=1e-3), dict()])
def test_a_limit_that_is_not_reached_or_beside_a_tolerance_is_silent(settings, images):
    """A segment of 4 tokens is exact after 4 sweeps; beside a tolerance the limit is part of how a paper decodes."""
    flow = perturbed()
    z, y = z_of(flow, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = invert(flow, z, y, solver="gs-jacobi", segments=4, **settings)
    assert all(s.converged for s in got.stats)
    if "tolerance" not in settings:
        torch.testing.assert_close(got.x, invert(flow, z, y).x, atol=1e-10, rtol=0)


def test_settings_of_the_papers(images):
    flow = perturbed()
    z, y = z_of(flow, images)
    want = invert(flow, z, y).x
    for methods in (sejd(16, 3), gs_jacobi(3, {3: (4, 3)}, 10), starflow(16, 3, chunk=8)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = invert(flow, z, y, solver=methods)
        assert (got.x - want).abs().max() < 0.5
        assert all(s.sweeps <= 16 for s in got.stats)
    assert sejd(16, 3)[2].segments == 16 and sejd(16, 3)[0] == Method(segments=1, tolerance=0.5, start="zeros")
    img128 = gs_jacobi(8, {7: (8, 32)}, 10)
    assert (
        [m.segments for m in img128] == [1] * 6 + [8, 1] and img128[6].max_sweeps == 32 and img128[0].max_sweeps == 10
    )


def test_sweeps_end_under_autocast_too(images):
    flow = perturbed(dtype=torch.float32)
    z, y = z_of(flow, images)
    with torch.autocast("cpu", torch.bfloat16):
        want, got = invert(flow, z, y), invert(flow, z, y, solver="jacobi")
    assert all(s.sweeps <= 15 for s in got.stats)
    torch.testing.assert_close(got.x, want.x, atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "newton"}, "solver was 'newton'; allowed are sequential, jacobi, gs-jacobi"),
        ({"solver": "jacobi", "tolerance": 0.0}, "tolerance was 0.0; it must be above 0 and finite"),
        ({"solver": "jacobi", "tolerance": float("nan")}, "tolerance was nan"),
        ({"solver": "jacobi", "max_sweeps": 0}, "max_sweeps was 0"),
        (
            {"solver": "gs-jacobi", "segments": 3},
            "3 segments, which do not divide 16 tokens; allowed are 1, 2, 4, 8, 16",
        ),
        ({"solver": "gs-jacobi", "segments": 0}, "segments"),
        ({"solver": "jacobi", "segments": 2}, "segments=2 is for solver 'gs-jacobi'"),
        ({"solver": ["jacobi"] * 3}, "give a name, a Method, or one Method per block"),
        ({"solver": [Method(segments=1)]}, "1 methods were given; one per block"),
        ({"solver": Method(segments=1), "tolerance": 1e-3}, "tolerance was given next to a Method"),
        ({"solver": "jacobi", "start": "ones"}, "start was 'ones'; allowed are z, zeros"),
        ({"solver": "jacobi", "start": [torch.zeros(4, 16, 12)]}, "start has 1 states"),
        ({"solver": "jacobi", "start": [torch.zeros(4, 16, 2)] * 3}, r"shape \(4, 16, 2\)"),
        ({"solver": "jacobi", "start": [torch.full((4, 16, 12), float("nan"))] * 3}, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(images, settings, message, as_users_run):
    flow = perturbed()
    z, y = z_of(flow, images)
    with pytest.raises(ValueError, match=message):
        invert(flow, z, y, **settings)


def test_settings_of_a_method_are_refused_early():
    for values in ({"segments": 0}, {"segments": 1, "tolerance": -1.0}, {"segments": 1, "bound": 0.0}, {"segment": 1}):
        with pytest.raises(ValueError):
            Method(**values)
    with pytest.raises(ValueError, match="must divide 16"):
        starflow(16, 3)
    with pytest.raises(ValueError, match="blocks are 1 to 3"):
        gs_jacobi(3, {4: (8, 32)}, 10)
    assert named("gs-jacobi", 49).segments == 7
