"""Ways from noise to images: identities of each, what is measured of them, arms and claims of the inversion students."""

import re

import pytest
import torch
from conftest import perturbed

from labcore import denoise, sample
from labcore.biflow.edit import inpaint
from labcore.biflow.model import BackwardModel
from labcore.biflow.norm_control import largest_parameters, shares, trajectory_rms
from labcore.campaigns import tables
from labcore.campaigns.claims import load_claims
from labcore.campaigns.spec import load_spec
from labcore.config import BackwardConfig
from labcore.data import load
from labcore.data.images import ImageData
from labcore.data.transforms import to_uint8
from labcore.evaluate.classifier import recognised
from labcore.experiments import students, ways
from labcore.flows.tarflow import TarFlow
from labcore.nn.classifier import Classifier, ClassifierConfig
from labcore.nn.patch import unpatchify
from labcore.presets import REPORTED
from labcore.rng import StepNoise, normal_per_item
from labcore.runs import teachers
from labcore.runs.models import find_model, run_section
from labcore.train.classification import SHIFT, CrossEntropy, coarse, shifted
from labcore.train.objectives import with_peak
from labcore.types import Batch
from labcore.viz import inverses

pytestmark = pytest.mark.usefixtures("small_encoder")

SIZE = dict(
    image_size=16, channels=1, patch_size=4, width=16, num_blocks=2, layers_per_block=1, head_dim=8, num_classes=10
)


@pytest.fixture(scope="module")
def flow() -> TarFlow:
    return perturbed(dtype=torch.float32, **SIZE)


@pytest.fixture(scope="module")
def model() -> BackwardModel:
    torch.manual_seed(0)
    made = BackwardModel(BackwardConfig(**SIZE)).eval()
    for p in made.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return made


@pytest.fixture(scope="module")
def test() -> ImageData:
    return load("fashion-mnist-12k", "test", image_size=16)


def test_the_exact_way_draws_what_sample_draws(flow):
    for way, noise_std in ((ways.exact(flow), None), (ways.exact(flow, score=False), 0.0)):
        drawn = ways.draw(way, flow, 12, seed=3)
        assert torch.equal(drawn.images, to_uint8(sample(flow, 12, drawn.labels, noise_std=noise_std, seed=3)))
        assert drawn.labels.tolist() == [*range(10), 0, 1]


@torch.no_grad()  # as ways do: short attention takes another path for gradients
def test_the_learned_way_is_the_models_pass(flow, model):
    z, y = ways.noise(flow, 4, seed=0)
    out = model(z, y)
    found = ways.learned(model).run(z, y)
    assert torch.equal(found.x, out.x) and torch.equal(found.noisy, unpatchify(out.states[-2], 4, (1, 16, 16)))
    assert ways.learned(model, has_states=False).run(z, y).noisy is None
    assert torch.equal(ways.learned(model, flow=flow).image(z, y), denoise(flow, out.x, y))
    assert torch.equal(ways.learned(model, 0.5).image(z, y), model(z, y, 0.5).x)
    assert [ways.learned(model, g).evaluations for g in (0.0, 0.5)] == ["1", "2"]


def test_errors_of_the_exact_inverse_are_known(flow, model, test):
    """It brings back the noisy image, and its cycle is closed; a student that knows nothing is far off."""
    plain = ways.inversion_errors(ways.exact(flow, score=False), flow, test, 40, seed=0)
    assert plain["image_mse"] == pytest.approx(flow.config.noise_std**2, rel=0.05)
    assert plain["cycle_rms"] < 1e-5
    worse = ways.inversion_errors(ways.learned(model), flow, test, 40, seed=0)
    assert worse["cycle_rms"] > 0.1 and worse["image_mse"] > 10 * plain["image_mse"]
    assert "cycle_rms" not in ways.inversion_errors(ways.learned(model, has_states=False), flow, test, 10, seed=0)
    z, y = ways.noise(flow, 40, 0)
    state = ways.exact(flow).run(z, y).noisy  # what was not denoised is seen as it is
    assert plain["nats_per_dim"] == pytest.approx(float(-flow.log_prob(state, y).mean() / flow.config.dims), rel=1e-4)


def test_edits_by_the_exact_inverse(flow, test):
    """Known tokens come back nearly as they were, and with no other unknown exactly so but for noise."""
    plain = ways.exact(flow, score=False)
    found = ways.edits(plain, flow, test, 20, None, seed=0)
    assert set(found) == {"edit_rms", "inpaint_known_rms"}
    x, y = ways.some_images(flow, test, 20)
    known = ways.upper_half(flow)
    off = (inpaint(flow, plain.image, x, known, y, 0).clamp(-1, 1) - x).square()
    assert found["inpaint_known_rms"] == pytest.approx(float(off[..., known].mean().sqrt()))
    assert found["inpaint_known_rms"] < 0.3 * off[..., ~known].mean().sqrt()
    whole = inpaint(flow, plain.image, x, torch.ones_like(known), y, 0) - x
    assert whole.square().mean().sqrt() == pytest.approx(flow.config.noise_std, rel=0.05)
    judge = Classifier(ClassifierConfig()).eval()
    assert {"edit_recognised", "inpaint_recognised"} <= ways.edits(ways.exact(flow), flow, test, 20, judge, 0).keys()
    unconditional = perturbed(dtype=torch.float32, **{**SIZE, "num_classes": 0})
    assert ways.edits(ways.exact(unconditional), unconditional, test, 4, None, 0) == {}


def test_the_mask_is_of_whole_tokens():
    flow = perturbed(dtype=torch.float32, **{**SIZE, "image_size": 12})
    assert ways.upper_half(flow).sum(0).tolist() == [4] * 12  # 3 rows of tokens, of which one


def test_images_are_spread_over_a_set_that_is_sorted_by_class(flow, test):
    order = test.labels.argsort(stable=True)
    ordered = test.subset(order.tolist())
    _, y = ways.some_images(flow, ordered, 50)
    assert y.bincount().min() >= 4
    assert len(ways.some_images(flow, ordered.subset(range(7)), 50)[0]) == 7


def test_rows_that_were_known_change_less(flow, test):
    changed = ways.changed_rows(ways.exact(flow, score=False), flow, test, 20, 0)
    assert len(changed) == 16 and max(changed[:8]) < min(changed[8:])


def test_the_largest_parameters_are_what_a_clamp_holds(test):
    plain, held = (perturbed(dtype=torch.float32, **SIZE, affine_clamp=clamp) for clamp in (None, 0.05))
    x, y = ways.some_images(plain, test, 8)
    scale, shift = largest_parameters(plain, x, y)
    assert scale == pytest.approx(float(with_peak(plain, x, y)[1])) and min(scale, shift) > 0.1
    assert largest_parameters(held, x, y) == pytest.approx((0.05, 0.05), rel=1e-4)


def test_nearest(test):
    some = test.subset([5, 9])
    rows, distances = ways.nearest(some, test, 2)
    assert rows.tolist() == [5, 9] and distances.max() < 1e-3
    darker = ImageData(some.images // 2, some.labels, some.classes, "a", "b")
    assert ways.nearest(darker, some, 2)[1].min() > 0.01


def test_quality_without_samples_is_what_is_recognised(test):
    judge = Classifier(ClassifierConfig()).eval()
    found = ways.quality(test.subset(range(50)), ways.Data("fashion-mnist-12k"), judge, [], 0, "cpu")
    assert set(found) == {"recognised"} and 0 <= found["recognised"] <= 1


def test_what_ways_cost(flow, model):
    found = ways.seconds({"exact": ways.exact(flow), "learned": ways.learned(model)}, flow, batch=2, repeats=1)
    assert found.keys() == {"exact", "learned"} and min(found.values()) > 0
    parts = ways.denoiser_flops(model, flow)
    assert parts["score"] > 3 * parts["learned block"] > 0  # forward and backward through both blocks


@pytest.mark.slow
def test_what_the_paper_counts():
    """BiFlow: the score costs 15.8 times its denoising block, a VAE decoder 308 GFLOPs where a multiply-add is one."""
    found = ways.paper_flops()
    assert found["score"] / found["learned block"] == pytest.approx(15.8, rel=0.05)
    assert found["VAE decoder"] == pytest.approx(2 * 308e9, rel=0.02)
    guided = 2 * found["one pass of the flow"] + found["score"]
    assert 3.5 < guided / found["one pass of the learned inverse"] < 4  # "about 4"


@pytest.mark.slow
def test_a_teacher_is_trained_once(own_cache):
    folder = teachers.teacher("itarflow-16", seed=1, steps=4)
    config = teachers.teacher_config("itarflow-16", 1, 4)
    assert (config.train.seed, config.train.save_every, config.model.affine_clamp) == (1, 1, 3.0)
    when = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert teachers.teacher("itarflow-16", seed=1, steps=4) == folder
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == when
    half = teachers.teacher("itarflow-16", seed=1, steps=4, stopped=50)
    assert half.name == "step-00000002"
    a, b = (find_model(place).state_dict() for place in (half, folder))
    assert any(not torch.equal(a[key], b[key]) for key in a)
    assert teachers.teacher("fashion-tarflow") == "fashion-tarflow"
    for source, stopped in (("fashion-tarflow", 50), ("itarflow-16", 30)):
        with pytest.raises(ValueError, match=f"stopped was {stopped} for '{source}'"):
            teachers.teacher(source, stopped=stopped)
    with pytest.raises(ValueError, match="steps was 602; give a multiple of 4"):
        teachers.teacher("itarflow-16", steps=602, stopped=25)
    assert run_section(half, "data")["image_size"] == 16 and ways.data_of(str(half)).image_size == 16


def test_arms(tmp_path, flow):
    place = str(flow.save_pretrained(tmp_path / "flow"))
    for arm in students.ARMS:
        config = students.student(arm, place, 24, 10, 4, 5, 7)
        assert (config.model.width, config.model.tokens, config.train.seed, config.train.keep) == (24, 16, 7, 3)
        assert students.describe(config)
    assert students.student("guided", place, 24, 10, 4, 5, 7).model.max_guidance == 0.5
    assert students.teacher_of("norm-none", "itarflow-16") == "itarflow-16-unclamped"
    assert students.teacher_of("exact", "itarflow-16") == "itarflow-16"
    with pytest.raises(ValueError, match="arms must be a list of names; got the string 'exact'"):
        students.check_arms("exact", "itarflow-16")
    with pytest.raises(ValueError, match=r"unknown are \['nave'\]: give some of exact, naive"):
        students.check_arms(["exact", "nave"], "itarflow-16")
    with pytest.raises(ValueError, match="there is no preset 'fashion-tarflow-unclamped'"):
        students.check_arms(["norm-none"], "fashion-tarflow")
    with pytest.raises(ValueError, match="arms were"):
        students.check_arms([], "itarflow-16")
    with pytest.raises(ValueError, match="norm-clamp need a flow with a clamp, and 'fashion-tarflow' has none"):
        students.check_arms(["norm-clamp"], "fashion-tarflow")
    with pytest.raises(ValueError, match="save_every was 11 with steps 10"):
        students.student("naive", place, 24, 10, 4, 11, 0)


def ways_of(flow, parameters) -> list[str]:
    """Names of all rows that a run with these parameters of notebook 04 has."""
    names = []
    for arm in parameters["arms"]:
        more = parameters.get("more_guidances", [])
        if arm == "exact":
            here = students.exact_ways(flow, 0.5, more)
        else:
            made = BackwardModel(BackwardConfig(**{**SIZE, **students.ARMS[arm].model}))
            here = students.learned_ways(arm, made, flow, 0.5, more)
        names += [*here, *(f"{next(iter(here))}, {kind} z" for kind in ("encoded", "fitted"))]
    return names


@pytest.mark.parametrize("name", ["04_learned_vs_analytic_inverse", "biflow_16"])
def test_claims_are_about_ways_that_the_campaign_has(name, flow):
    """Every row of a claim and of the figure is a way of some row of the spec; numbers are those of a way's record."""
    spec, stated = load_spec(name), load_claims(name)
    records = [
        {"row": row, "seed": 0, "metrics": {"ways": {way: {"fid_efflite0": 1.0} for way in ways_of(flow, parameters)}}}
        for row, parameters in spec.row_parameters().items()
    ]
    known = {record["row"] for record in tables.exploded(records, "ways")}
    assert len(known) == sum(len(record["metrics"]["ways"]) for record in records)
    for claim in stated.claims:
        assert {claim.row, claim.than} <= known, claim.claim
        assert claim.measure in {*spec.table.columns.values(), "quality"}
    assert {*stated.figure, *map(students.same_teacher, stated.figure)} <= known
    table = tables.tables(records, spec.table, list(spec.row_parameters()))["table.md"]
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:5]] == [
        "exact, score",
        "exact, no denoising",
        "exact, score, guided",
    ]


def test_rows_are_compared_with_the_exact_inverse_of_their_teacher():
    assert students.same_teacher("naive (teacher 10,000)") == "exact, score (teacher 10,000)"
    assert students.same_teacher("guided, w = 0") == "exact, score"


def test_the_papers_numbers_in_claims_are_those_of_the_presets():
    norms = load_spec("03_trajectory_norms").row_parameters()
    assert {
        name for claim in load_claims("03_trajectory_norms").claims for name in (claim.row, claim.than)
    } <= norms.keys()
    stated = load_claims("biflow_16")
    text = stated.paper_table.markdown()
    assert all(value in text for value in ("44.46", "36.93", "2.39"))
    known = {f"{paper.fid:.2f}" for papers in REPORTED.values() for paper in papers if paper.fid}
    told = [row[1] for row in stated.paper_table.rows] + [one.paper for one in stated.claims]
    told += [one.paper for one in load_claims("04_learned_vs_analytic_inverse").claims]
    assert {number for numbers in told for number in re.findall(r"\d+\.\d+", numbers)} <= known


def test_moments_of_encoded_z_and_images_brought_back(flow, test):
    """The exact inverse of z, encoded with noise, is the noisy image; z drawn with fitted moments has these."""
    moments = ways.z_moments(flow, test, 6, 3)
    x, y = ways.some_images(flow, test, 6)
    eps = normal_per_item(3, "ways", range(6), tuple(x.shape[1:])).to(x)
    with torch.no_grad():
        z = flow(x + flow.config.noise_std * eps, y).z
    assert torch.allclose(moments.mean, z.mean(0)) and torch.allclose(moments.std, z.std(0))
    assert moments.summary()["std_least"] <= moments.summary()["std_mean"] <= moments.summary()["std_most"]
    back = ways.bring_back(ways.exact(flow, score=False), flow, test, 6, 3)
    assert torch.equal(back.labels, y.cpu())
    noisy = to_uint8((x + flow.config.noise_std * eps).clamp(-1, 1))
    assert int((back.images.int() - noisy.int()).abs().max()) <= 1
    plain, fitted = (ways.draw(ways.exact(flow), flow, 4, 0, m) for m in (None, ways.Moments(0 * z[0], 0 * z[0] + 1)))
    assert torch.equal(plain.images, fitted.images)
    with pytest.raises(ValueError, match="over 1 images; give at least 2"):
        ways.z_moments(flow, test, 1, 0)


def test_sizes_of_states_and_their_shares(flow, test):
    x = torch.randn(6, 1, 16, 16)
    y = test.labels[:6]
    found = trajectory_rms(flow, x, y)
    out = flow(x, y)
    assert len(found) == 3 and found[0] == pytest.approx(float(x.square().mean().sqrt()), rel=1e-5)
    assert found[-1] == pytest.approx(float(out.z.square().mean().sqrt()), rel=1e-5)
    assert shares([1.0, 2.0]) == pytest.approx([0.2, 0.8])
    assert shares([1.0, 2.0], "block") == shares([3.0, 9.0], "sample") == [0.5, 0.5]
    assert shares([1.0, 2.0], power=1.0, offset=1e-9) == pytest.approx([0.5, 0.5])


@pytest.mark.slow
def test_the_classifier_learns(test):
    """Images of any size; two classes are told apart after some steps of its objective."""
    torch.manual_seed(0)
    judge, objective = Classifier(ClassifierConfig(width=8)), CrossEntropy()
    some = test.subset([i for i in range(600) if test.labels[i] in (1, 9)])  # trousers and ankle boots
    x = some.images.float() / 127.5 - 1
    x = torch.nn.functional.interpolate(x, (28, 28))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-2)
    for step in range(30):
        batch = Batch(x, some.labels, torch.arange(len(x)), torch.zeros(len(x), dtype=torch.bool))
        loss, logs = objective(judge, batch, StepNoise(0, step, len(x), "cpu"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logs["accuracy"] > 0.9
    assert recognised(judge.eval(), x[..., ::2, ::2], some.labels, batch_size=50).accuracy > 0.9


def test_images_are_shifted_whole():
    x = torch.rand(64, 1, 8, 8)
    moved = shifted(x, StepNoise(0, 0, 64, "cpu"))
    assert moved.shape == x.shape and not torch.equal(moved, x)
    found = set()
    for before, after in zip(x, moved, strict=True):
        padded = torch.nn.functional.pad(before, (SHIFT,) * 4, value=-1.0)
        places = [(i, j) for i in range(5) for j in range(5) if torch.equal(padded[:, i : i + 8, j : j + 8], after)]
        assert len(places) == 1
        found |= set(places)
    assert len(found) > 12
    assert coarse(torch.full((1, 1, 28, 28), 0.3)) == pytest.approx(torch.full((1, 1, 28, 28), 0.3))


def test_figures():
    axes = inverses.norms({"a": [1.0, 3.0, 1.0], "b": [1.0, 2.0, 1.0]}, "sizes").axes[0]
    assert axes.get_yscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == ["$x^0$", "$x^{1}$", "$z$"]
    along = inverses.norms_along({"a": {10: [1.0, 2.0], 20: [1.0, 3.0]}, "b": {10: [1.0, 2.0]}})
    assert [a.get_title() for a in along.axes] == ["a", "b"] and len(along.axes[0].lines) == 2
    scales = inverses.by_guidance(
        {"one": {0.0: (0.5, 0.4, 0.6), 2.0: (0.7, 0.6, 0.8)}, "two": {0.0: (0.2, 0.1, 0.3)}}
    ).axes[0]
    assert scales.lines[0].get_xydata().tolist() == [[0.0, 50.0], [2.0, pytest.approx(70.0)]]
    assert [bar.get_segments()[0][:, 1].tolist() for bar in scales.collections] == [
        pytest.approx([40, 60]),
        pytest.approx([10, 30]),
    ]
    bars = inverses.shares({"nothing": [0.2, 0.8], "block": [0.5, 0.5]}, ["$x^0$", "image"]).axes[0]
    assert [round(p.get_width(), 3) for p in bars.patches] == [0.2, 0.8, 0.5, 0.5]
    drawn = inverses.ways({"one": {"fid": 1.0, "mse": 0.1}, "two": {"fid": 2.0}}, {"fid": "FID", "mse": "MSE"}, ["mse"])
    assert [len(a.lines) for a in drawn.axes] == [2, 1] and drawn.axes[1].get_xscale() == "log"
