"""The alignment experiment: reach and conflict of gradients, curves along a run, arms, verdicts and their figures."""

import json
import re
import shutil
import time

import pytest
import torch
from test_align_training import SIZES, Tokens, align_config, batch, flow, noise, objective  # noqa: F401
from test_training import folder, one_thread  # noqa: F401

from labcore import TarFlow
from labcore.align.reach import gradient_reach, sweep_gaps
from labcore.campaigns.claims import load_claims
from labcore.campaigns.spec import load_spec
from labcore.campaigns.verdicts import Claim, corrected, judge, table
from labcore.experiments import alignment as experiment
from labcore.experiments.along import along, steps_to_reach
from labcore.experiments.judges import EMBEDDED, measures_of
from labcore.runs.images import datasets
from labcore.runs.train import run_training
from labcore.train.conflict import BlockConflict, conflict, loss_gaps
from labcore.train.stopwatch import Stopwatch
from labcore.viz import alignment

pytestmark = pytest.mark.usefixtures("small_encoder")


@pytest.mark.parametrize(
    ("direction", "reached"),
    [("forward", {1, 2, 3}), ("detach", {3}), ("reverse", {3, 4}), ("reverse-literal", {3})],
)
def test_reach_of_each_direction(flow, batch, direction, reached):  # noqa: F811
    norms = gradient_reach(flow, batch.x, batch.y, [(3, 1)], direction)
    assert {block for block, norm in enumerate(norms, 1) if norm > 0} == reached
    if direction == "reverse-literal":
        assert norms == pytest.approx(gradient_reach(flow, batch.x, batch.y, [(3, 1)], "detach"), rel=1e-6)


def test_sweeps_come_nearer_to_the_full_gradient(flow, batch):  # noqa: F811
    flow, x = flow.double(), batch.x.double()
    found = sweep_gaps(flow, x, batch.y, [(1, 2)], [0, 4, flow.config.tokens - 1])
    assert found[0].cosine < found[4].cosine < 1 - 1e-9
    assert found[0].beyond_cosine < found[4].beyond_cosine and found[0].beyond_degrees > found[0].degrees
    assert found[flow.config.tokens - 1] == pytest.approx((1, 1, 1), abs=1e-12)


def test_reverse_teaches_the_sites_block_more_than_detach_does(flow, batch):  # noqa: F811
    """Also in the last block: the state that its transformer reads is generated with that block's own parameters."""
    sites = [(4, 2)]
    detach, reverse = (gradient_reach(flow, batch.x, batch.y, sites, name) for name in ("detach", "reverse"))
    assert [norm > 0 for norm in reverse] == [norm > 0 for norm in detach] == [False, False, False, True]
    assert reverse[3] != pytest.approx(detach[3], rel=1e-3)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_conflict_is_the_cosine_of_both_gradients(flow, batch, direction):  # noqa: F811
    o = objective(direction=direction, weight=0.3)
    found = conflict(flow, o, batch, noise())
    grads = []
    for term in range(2):
        nats, losses = o.terms(flow, batch, noise())
        flow.zero_grad()
        (nats, 0.3 * torch.stack(list(losses.values())).mean())[term].backward()
        whole = [[torch.zeros_like(p) if p.grad is None else p.grad for p in b.parameters()] for b in flow.blocks]
        grads.append([torch.cat([g.flatten() for g in block]) for block in whole])
    for block, (a, b, c) in enumerate(zip(*grads, found, strict=True), 1):
        assert c.block == block and c.likelihood_norm == pytest.approx(float(a.norm()), rel=1e-4)
        assert c.align_norm == pytest.approx(float(b.norm()), rel=1e-4)
        if direction == "reverse" and block < 3:
            assert c.cosine is None
        else:
            same = float(torch.cosine_similarity(a, b, dim=0))
            assert c.cosine == pytest.approx(same, abs=1e-5)


def test_sweeps_of_the_alignment_loss_itself(flow, batch):  # noqa: F811
    o, last = objective(sites=[(2, 1), (3, 1)]), flow.config.tokens - 1
    own = o.config
    found = loss_gaps(flow, o, batch, noise(), [0, last])
    assert o.config == own and found[last] == pytest.approx((1, 1, 1), abs=1e-5) and found[0].degrees > 0.1
    grads = []
    for sweeps in (0, last):
        swept = objective(sites=[(2, 1), (3, 1)], direction="reverse", adjoint_sweeps=sweeps)
        flow.zero_grad()
        torch.stack(list(swept.terms(flow, batch, noise())[1].values())).mean().backward()
        grads.append(torch.cat([(p.grad if p.grad is not None else 0 * p).flatten() for p in flow.blocks.parameters()]))
    assert found[0].cosine == pytest.approx(float(torch.cosine_similarity(*grads, dim=0)), abs=1e-5)


def test_steps_to_reach():
    points = [{"step": 100, "a": 0.2}, {"step": 200, "a": 0.6}, {"step": 300, "a": 0.5}]
    assert steps_to_reach(points, "a", 0.4, higher=True) == pytest.approx(150)
    assert steps_to_reach(points, "a", 0.1, higher=True) == 100
    assert steps_to_reach(points, "a", 0.7, higher=True) is None
    assert steps_to_reach(points, "a", 0.55, higher=False) == 100


def test_times_sooner():
    def curve(*values: float) -> list[dict]:
        return [{"step": 100 * i, "fid_efflite0": v} for i, v in enumerate(values, 1)]

    base, fast, slow = curve(9.0, 7.0, 6.0), curve(8.0, 4.0, 3.0), curve(9.0, 8.0, 7.0)
    assert experiment.times_sooner(fast, base, "fid_efflite0") == pytest.approx(300 / 150)
    assert experiment.times_sooner(slow, base, "fid_efflite0") is None
    rows = [
        ("baseline", 0, base),
        ("baseline", 1, base),
        ("reverse", 0, fast),
        ("reverse", 1, slow),
        ("forward", 2, fast),
    ]
    kept = [{"row": row, "seed": seed, "metrics": {"points": {"an arm": points}}} for row, seed, points in rows]
    lines = experiment.sooner_table(kept).splitlines()
    fid = lines[0].split("|").index(" fid_efflite0 ")
    assert [line.split("|")[fid].strip() for line in lines[2:4]] == ["2.00, never", "-"]


def test_curves_are_measured_once(folder, tmp_path, own_cache):  # noqa: F811
    run_training(align_config(folder), tmp_path, previews=False)
    calls = []

    def measure(model: TarFlow) -> dict[str, float]:
        calls.append(1)
        return {"weight": float(next(model.parameters()).norm())}

    first = along(tmp_path, measure, {"of": 1})
    assert [point["step"] for point in first] == [4, 8, 12] and len({p["weight"] for p in first}) == 3
    assert along(tmp_path, measure, {"of": 1}) == first and len(calls) == 3
    along(tmp_path, measure, {"of": 2})
    assert len(calls) == 6
    (tmp_path / "along.json").write_text('{"key": {"of": 2}, "points": [1]}')
    with pytest.warns(UserWarning, match=r"along\.json cannot be read"):
        assert along(tmp_path, measure, {"of": 2}) == first and len(calls) == 9


@pytest.mark.slow
def test_curves_are_of_the_weights_that_are_there(folder, tmp_path, own_cache):  # noqa: F811
    """Another run in the same folder has other numbers, and what is gone has none."""

    def measure(model: TarFlow) -> dict[str, float]:
        return {"weight": float(next(model.parameters()).norm())}

    config = align_config(folder)
    run_training(config, tmp_path, previews=False)
    first = along(tmp_path, measure, {})
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000004")
    assert along(tmp_path, measure, {}) == first[1:]
    shutil.rmtree(tmp_path / "checkpoints")
    other = config.replace(train=config.train.replace(lr=3e-2).model_dump())
    run_training(other, tmp_path, previews=False)
    assert all(a != b for a, b in zip(along(tmp_path, measure, {}), first, strict=True))


@pytest.mark.slow
def test_conflicts_along_a_run(folder, tmp_path, own_cache):  # noqa: F811
    config = align_config(folder)
    run_training(config, tmp_path, previews=False)
    found = experiment.conflicts(config, tmp_path, datasets(config)[0], 8)
    assert [step for step, _ in found] == [4, 8, 12]
    assert all(blocks[0].cosine is None and -1 <= blocks[1].cosine <= 1 for _, blocks in found)


def test_arms():
    base = experiment.base("fashion-16", steps=600, batch_size=128, save_every=150, seed=3)
    assert (base.align, base.train.seed, base.train.keep, base.train.precision) == (None, 3, 5, "fp32")
    assert experiment.arm(base, "baseline", None, 0.1, "cosine", "efficientnet-lite0") is base
    swept = experiment.arm(base, "reverse-8", None, 0.1, "cosine", "efficientnet-lite0").align
    assert (swept.direction, swept.adjoint_sweeps, swept.sites, swept.targets) == (
        "reverse",
        8,
        ((7, 2), (8, 2)),
        "cached",
    )
    near_image = experiment.arm(base, "forward", None, 0.2, "mse", "efficientnet-lite0")
    assert near_image.align.sites == ((1, 2), (2, 2)) and "weight 0.2, mse" in experiment.describe(near_image)
    few = experiment.base("fashion-16", steps=2, batch_size=16, save_every=1, seed=0)
    assert experiment.arm(few, "detach", [(3, 1)], 0.1, "cosine", "efficientnet-lite0").align.targets == "computed"


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("name", ["baseline", "reverse"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name="backward"), "arm was 'backward'; allowed are baseline, forward"),
        (dict(name="reverse-0"), "arm was 'reverse-0'"),
        (dict(name="reverse-²"), "arm was 'reverse-²'"),
        (dict(name="reverse-16"), "with 16 tokens, 15 give the full gradient"),
        (dict(sites=[]), "at least 1 item"),
        (dict(sites=[(9, 1)]), "blocks 1..8"),
        (dict(weight=-1.0), "greater than 0"),
        (dict(loss="cos"), "cosine"),
        (dict(encoder="foo"), "efficientnet-lite0"),
    ],
)
def test_arms_that_cannot_be_are_refused_before_any_is_trained(name, changes, message):
    base = experiment.base("fashion-16", steps=600, batch_size=128, save_every=150, seed=3)
    asked = dict(name=name, sites=None, weight=0.1, loss="cosine", encoder="efficientnet-lite0") | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        experiment.arm(base, **asked)


@pytest.mark.usefixtures("as_users_run")
def test_numbers_of_images_that_cannot_be():
    for save_every in (0, 3):
        with pytest.raises(ValueError, match="save_every was"):
            experiment.base("fashion-16", steps=2, batch_size=16, save_every=save_every, seed=0)
    with pytest.raises(ValueError, match="precision was 'auto'; runs that are compared need the same one"):
        experiment.base("fashion-16", steps=2, batch_size=16, save_every=1, seed=0, precision="auto")
    assert measures_of([EMBEDDED], 0, 0) == [] and "sfid_efflite0" in measures_of([EMBEDDED], 1500, 0)
    for samples in (-1, 3, 1280):
        with pytest.raises(ValueError, match="fid_efflite0 needs at least 1281 drawn images"):
            measures_of([EMBEDDED], samples, 0)


def records(row: str, values: list[float]) -> list[dict]:
    return [{"row": row, "seed": seed, "metrics": {"a": value}} for seed, value in enumerate(values)]


def test_verdicts():
    claim = Claim("b is above a", "b", "a", "a", "higher", "2 / 1")
    base = records("a", [1.0, 1.1, 0.9])
    above, below, noise = [1.5, 1.62, 1.39], [0.5, 0.62, 0.39], [1.5, 0.7, 1.0]
    assert judge(claim, base + records("b", above)).verdict == "supported"
    assert judge(claim, base + records("b", below)).verdict == "reversed"
    unclear = judge(claim, base + records("b", noise))
    assert unclear.verdict == "undetermined" and unclear.smallest > 0.3
    assert judge(claim, base).verdict == "not run"
    once = judge(claim, records("a", [1.0]) + records("b", [2.0]))
    assert once.verdict == "undetermined" and once.smallest is None
    text = table([unclear, once, judge(claim, base)])
    assert f"80% power for {unclear.smallest:.2g}" in text and "one seed has no interval" in text
    assert "not run" in text and "2 / 1" in text and "different notebook code" not in text
    other = [{**one, "code": "new"} for one in records("b", above)]
    assert "supported at this scale; the rows were run with different notebook code" in table(
        [judge(claim, base + other)]
    )


def test_verdicts_are_corrected_for_their_number():
    """p of +1, +1.2, +0.8 is 0.013: decided alone and among 3 claims (0.039), not among 4 (0.052). A claim without records
    does not count."""
    claim, never = Claim("b is above a", "b", "a", "a", "higher"), Claim("c is above a", "c", "a", "a", "higher")
    base = records("a", [0.0, 0.0, 0.0])
    clear = judge(claim, base + records("b", [1.0, 1.2, 0.8]))
    unclear = judge(claim, base + records("b", [1.0, -1.0, 0.5]))
    assert clear.difference.p_value == pytest.approx(0.01307, abs=1e-5)
    few = [clear, unclear, unclear, judge(never, base)]
    assert corrected(few) == ["supported", "undetermined", "undetermined", "not run"]
    assert corrected([unclear, *few]) == ["undetermined"] * 4 + ["not run"]
    assert "| supported at this scale | undetermined |" in table([unclear, *few])
    assert "Decided claims: 1 judged alone, 0 after Holm's correction." in table([unclear, *few])


def test_the_papers_numbers_are_those_of_the_presets():
    """Table 1: eight rows, the first without alignment; numbers that claims name are among them."""
    lines = experiment.paper_table().splitlines()
    assert lines[2] == "| baseline | 12.91 | 33.79 | 36.62 | 37.43 |" and len([x for x in lines if "|" in x]) == 10
    assert lines[9] == "| reverse, blocks 7 and 8 | 11.93 | 33.78 | 40.9 | 55.21 |"
    for claim in load_claims("01_alignment_strategies").of_numbers:
        assert all(f"| {float(number):g} " in experiment.paper_table() for number in claim.paper.split(" / ") if number)


@pytest.mark.parametrize("name", ["01_alignment_strategies", "flowback_16"])
def test_claims_are_about_rows_and_columns_of_the_spec(name):
    spec = load_spec(name)
    stated = load_claims(name).claims
    assert {one.row for one in stated} | {one.than for one in stated} <= spec.rows.keys()
    assert {one.measure for one in stated} <= {*spec.table.columns.values(), "quality"}


def test_a_stopwatch_tells_parts_apart():
    watch = Stopwatch()
    watch.start(torch.device("cpu"))
    for name, seconds in (("short", 0.01), ("long", 0.05)):
        with watch.part(name):
            time.sleep(seconds)
    found = watch.seconds()
    assert 0.009 < found["short"] < found["long"]
    watch.start(torch.device("cpu"))
    assert watch.seconds() == {}


def test_figures_have_what_they_are_told(flow, batch):  # noqa: F811
    norms = {name: gradient_reach(flow, batch.x, batch.y, [(3, 1)], name) for name in ("forward", "detach")}
    figure = alignment.reach(norms, {name: [(3, 1)] for name in norms})
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("0") == 1 + 3 and texts[2] == f"{norms['forward'][2]:.3g}"
    figure = alignment.sweeps({"a": {0: 0.5, 2: 0.9}}, {0: 1.0, 2: 3.0})
    assert list(figure.axes[1].lines[0].get_ydata()) == [1.0, 3.0]
    found = [(step, [BlockConflict(1, None, 1.0, 0.0), BlockConflict(2, 0.1 * step, 1.0, 1.0)]) for step in (1, 2)]
    above, below = alignment.conflicts({"reverse": found}).axes
    assert [line.get_label() for line in above.lines if line.get_label() == "block 2"] and len(above.lines) == 2
    assert list(below.lines[0].get_ydata()) == [1.0, 1.0]
    points = {arm: [{"step": 1, "x": 0.1}, {"step": 2, "x": 0.3}] for arm in ("baseline", "reverse")}
    axes = alignment.curves(points, {"x": "a number"}, "baseline").axes[0]
    assert axes.get_title() == "a number" and len(axes.lines) == 3
    assert json.loads(json.dumps(found[0][1][1])) == [2, 0.1, 1.0, 1.0]
