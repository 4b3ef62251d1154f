"""Evidence of an experiment: who taught and who judges, images that are kept, alignment on held-out images, agreed quality."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import perturbed
from test_align_training import align_config
from test_training import folder, one_thread  # noqa: F401
from torch.nn import functional as F

from labcore import encoders, zoo
from labcore.campaigns.claims import Claims
from labcore.config import AlignConfig, DataConfig, RunConfig, StudentRunConfig, TarFlowConfig
from labcore.data import ImageData, load
from labcore.data.batch import spread_images
from labcore.data.datasets import Data, renumbered
from labcore.evaluate.generate import Sampling, generate
from labcore.experiments import alignment as experiment
from labcore.experiments import held_out
from labcore.experiments.drawn import judge_again, keep, read_drawn
from labcore.experiments.evidence import Judged, judged
from labcore.experiments.held_out import held_out_alignment
from labcore.experiments.judges import judges_for, measures_of, roles, taught, taught_flow
from labcore.experiments.quality import agreed, quality_claims, taught_in
from labcore.kinds import FLOW
from labcore.nn.pretrained import load_strictly, read_tensors
from labcore.rng import StepNoise
from labcore.runs.images import datasets
from labcore.runs.train import initialised, run_training
from labcore.train import checkpoint, same_run
from labcore.train.objectives import noised

pytestmark = pytest.mark.usefixtures("small_encoder")

LITE0 = "efficientnet-lite0"
CLOTHES = DataConfig(name="fashion-mnist-12k", image_size=16, channels=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def few(monkeypatch):
    """150 images of each split."""
    split = lambda self, which: load(self.name, which, image_size=16, channels=1).subset(range(150))  # noqa: E731
    monkeypatch.setattr(Data, "split", split)


# ---- who taught, who judges


def test_controls_are_arms_by_name():
    base = experiment.base("fashion-16", steps=600, batch_size=128, save_every=150, seed=3)
    made = lambda name: experiment.arm(base, name, None, 0.1, "cosine", LITE0)  # noqa: E731
    random, classifier = made("reverse-to-random"), made("reverse-8-to-classifier")
    assert (random.align.encoder, random.align.adjoint_sweeps) == ("random-lite0", 0)
    assert (classifier.align.encoder, classifier.align.adjoint_sweeps) == ("fashion-classifier", 8)
    assert random.align.sites == made("reverse").align.sites and made("detach").align.encoder == LITE0
    assert made("reverse-literal-to-random").align.direction == "reverse-literal"
    assert "random-lite0" in experiment.describe(random)
    for name in ("baseline-to-random", "reverse-to-", "reverse-to-dinov2-b", "reverse-to-random-8"):
        with pytest.raises(ValueError, match="all except baseline may end in -to-random or -to-classifier"):
            made(name)


@pytest.mark.parametrize("encoder", ["random-lite0", "fashion-classifier"])
def test_a_flow_learns_from_a_control(encoder, tmp_path):
    base = experiment.base("fashion-16", steps=2, batch_size=8, save_every=2, seed=0)
    config = experiment.arm(base, "detach", None, 1.0, "cosine", encoder)
    config = config.replace(data=config.data.replace(limit=32).model_dump())
    training, _ = datasets(config)
    flow, objective = initialised(experiment.TarFlow, config), FLOW.objective(config, training, None)
    batch = spread_images(training, 8, True)
    loss, logs = objective(flow, batch, StepNoise(0, 0, 8, torch.device("cpu")))
    loss.backward()
    want = encoders.load(encoder).tokens(batch.x, config.model.grid)
    torch.testing.assert_close(objective.targets(batch), want)
    assert FLOW.identity(config, None) == {same_run.ENCODER: encoders.load(encoder).weights_hash}
    assert 0 < float(logs["align"]) < 2 and any(p.grad is not None and p.grad.any() for p in flow.parameters())


def test_taught():
    base = experiment.base("fashion-16", steps=600, batch_size=128, save_every=150, seed=3)
    aligned = base.replace(align=AlignConfig(sites=((1, 1),), encoder="random-lite0").model_dump())
    assert taught(base) == () and taught(aligned) == ("random-lite0",)
    assert taught_flow("fashion-r-repa") == (LITE0,) and taught_flow("fashion-itarflow") == ()
    values = zoo.load("fashion-biflow").config.model_dump()
    student = StudentRunConfig(flow="fashion-itarflow", model=values, train=base.train)
    assert taught(student) == ()
    perceptual = student.replace(student={"perceptual": {"efflite0": 1.0}})
    assert taught(perceptual) == (LITE0,) and taught(perceptual.replace(flow="fashion-r-repa")) == (LITE0,)
    assert taught(student.replace(flow="fashion-r-repa")) == (LITE0,)


def test_a_flow_of_which_nothing_is_known_has_an_unknown_teacher(tmp_path):
    flow = str(perturbed(0.02).save_pretrained(tmp_path / "copied"))
    assert taught_flow(flow) == ("unknown",)
    judges = ("efflite0", "classifier", "pixels")
    assert roles(judges, taught_flow(flow)) == dict(zip(judges, ("unknown", "unknown", "independent"), strict=True))
    assert roles(judges, ("unknown", LITE0))["efflite0"] == "teacher"
    (tmp_path / "config.yaml").write_text("align: null\n")
    assert taught_flow(flow) == ()


def test_roles_and_measures():
    judges = judges_for(Data.of(CLOTHES))
    assert judges == ("efflite0", "classifier", "pixels") and judges_for(Data("folder", "/x")) == ("efflite0", "pixels")
    assert judges_for(Data("fashion-mnist", channels=3)) == ("efflite0", "pixels")
    assert roles(judges, [LITE0]) == {"efflite0": "teacher", "classifier": "independent", "pixels": "independent"}
    assert roles(judges, ["fashion-classifier"])["classifier"] == "teacher"
    assert set(roles(judges, ["random-lite0"]).values()) == {"independent"}
    names = measures_of(judges, 1500, 10)
    assert {"fid_efflite0", "sfid_classifier", "recall_classifier", "power_pixels", "variance_pixels"} <= set(names)
    assert measures_of(judges, 0, 10) == [] and "variance_pixels" not in measures_of(judges, 1500, 0)
    assert measures_of(["pixels"], 1999, 1000) == measures_of(["pixels"], 110, 120) == ["power_pixels"]
    assert measures_of(["pixels"], 2000, 1000) == ["power_pixels", "variance_pixels"]
    assert measures_of(["classifier"], 200, 10) == [f"{m}_classifier" for m in ("fid", "kid", "precision", "recall")]
    with pytest.raises(ValueError, match="fid_classifier needs at least"):
        measures_of(["classifier"], 64, 10)


# ---- drawn images that are kept


def some(num: int = 110) -> ImageData:
    return load("fashion-mnist-12k", "test", image_size=16, channels=1).subset(range(num))


MODEL = TarFlowConfig(image_size=16, patch_size=4, width=64, num_blocks=1, layers_per_block=1, num_classes=10)
MADE = {"seed": 5, "model": "0123456789abcdef", "guidance": 1.0}


def test_kept_images_are_the_same_again(tmp_path):
    images = some()
    path = keep(tmp_path, "way", images, MADE, CLOTHES, MODEL, [LITE0])
    again = read_drawn(path)
    assert path == tmp_path / "drawn" / "way.safetensors" and len(again) == again.about["n"] == 110
    assert torch.equal(again.images, images.images) and torch.equal(again.labels, images.labels)
    assert again.made == MADE and again.about["taught"] == [LITE0] and DataConfig(**again.about["data"]) == CLOTHES
    assert [file.name for file in path.parent.iterdir()] == ["way.safetensors"]
    moved = keep(tmp_path, "other", images.subset(range(109)), MADE, CLOTHES, MODEL, [])
    assert read_drawn(moved).fingerprint() != again.fingerprint()


@pytest.mark.slow
def test_a_later_judge_needs_the_folder_only(tmp_path, few):
    keep(tmp_path / "reverse", "a", some(), MADE, CLOTHES, MODEL, [LITE0])
    keep(tmp_path / "baseline", "b", some(120), MADE, CLOTHES, MODEL, [])
    found = judge_again(tmp_path, ["classifier", "pixels"])
    assert list(found) == ["baseline/drawn/b", "reverse/drawn/a"]
    one = found["reverse/drawn/a"]
    assert one["n"] == 110 and one["made"] == MADE and one["taught"] == [LITE0]
    assert one["judges"] == {"classifier": "independent", "pixels": "independent"}
    names = measures_of(["classifier", "pixels"], 110, 10)
    assert one["measures"] == experiment.metric_values(some(), Data.of(CLOTHES), names, 5, "cpu")
    json.dumps(found)


def test_other_data_may_have_its_classes_in_another_order(tmp_path, few, monkeypatch):
    """The variance is relative to real images of the same name, not of the same number."""
    keep(tmp_path, "a", some(), MADE, CLOTHES, MODEL, [])
    before = judge_again(tmp_path, ["pixels"])["drawn/a"]["measures"]
    split = Data.split

    def other(self, which):
        images = split(Data.of(CLOTHES), which)
        if self.name == "folder":
            return renumbered(images, tuple(reversed(images.classes)))
        return images

    monkeypatch.setattr(Data, "split", other)
    with pytest.warns(UserWarning, match="matched by name"):
        after = judge_again(tmp_path, ["pixels"], data=Data("folder", "/moved", 16, 1))["drawn/a"]["measures"]
    assert after["variance_pixels"] == pytest.approx(before["variance_pixels"], rel=1e-12)
    monkeypatch.setattr(Data, "split", lambda self, which: replace(split(self, which), classes=tuple("abcdefghij")))
    with pytest.raises(ValueError, match="give data with the model's classes"):
        judge_again(tmp_path, ["pixels"], data=Data.of(CLOTHES))


def test_what_cannot_be_kept_or_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="name was 'a/b'"):
        keep(tmp_path, "a/b", some(), MADE, CLOTHES, MODEL, [])
    with pytest.raises(ValueError, match="made lacks model"):
        keep(tmp_path, "a", some(), {"seed": 0}, CLOTHES, MODEL, [])
    with pytest.raises(FileNotFoundError, match="has no drawn images"):
        judge_again(tmp_path, ["pixels"])
    path = keep(tmp_path, "a", some(), MADE, CLOTHES, MODEL, [])
    with pytest.raises(ValueError, match="judge was 'vgg'; the judges are inception, efflite0, classifier, pixels"):
        judge_again(tmp_path, ["vgg"])
    whole = path.read_bytes()
    for place in (-1000, -1):  # a pixel, a label: tensors lie in the order of their names
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="safetensors is damaged: its checksum does not match"):
            read_drawn(path)
    path.write_bytes(whole.replace(b'\\"seed\\": 5', b'\\"seed\\": 6'))
    with pytest.raises(ValueError, match="checksum does not match"):
        read_drawn(path)
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="holds no drawn images that can be read"):
        read_drawn(path)


def test_a_kill_while_writing_loses_nothing(tmp_path, monkeypatch):
    path = keep(tmp_path, "a", some(), MADE, CLOTHES, MODEL, [])
    before = path.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        keep(tmp_path, "a", some(50), MADE, CLOTHES, MODEL, [])
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


@pytest.mark.slow
def test_looks_keep_what_they_draw(tmp_path, few):
    base = experiment.base("fashion-16", steps=2, batch_size=8, save_every=2, seed=0)
    model = dict(image_size=16, channels=1, patch_size=8, num_classes=10, num_blocks=2, layers_per_block=1)
    flow = perturbed(0.02, torch.float32, **model)
    config = RunConfig(model=flow.config, data=CLOTHES, train=base.train, align={"sites": ((1, 1),)})
    test = some()
    looks = experiment.Looks(config, test, 20, torch.randn(20, 8), [(1, 1)], 100, judges=["classifier", "pixels"])
    measured = partial(looks.measure, keep_in=tmp_path, config=config)(flow)
    (path,) = (tmp_path / "drawn").iterdir()
    kept = read_drawn(path)
    want = generate(flow, Sampling(num=100, guidance=experiment.GUIDANCE, seed=0))
    assert torch.equal(kept.images, want.images) and kept.made == want.made and path.stem == want.fingerprint()
    (again,) = judge_again(tmp_path, ["classifier", "pixels"]).values()
    assert {"fid_classifier", "variance_pixels"} <= again["measures"].keys() == set(looks.metrics)
    assert again["measures"] == {name: measured[name] for name in again["measures"]}
    assert again["taught"] == [LITE0] and "metrics" in looks.key
    with pytest.raises(ValueError, match="keep_in and config belong together"):
        looks.measure(flow, keep_in=tmp_path)


# ---- alignment on held-out images


@pytest.mark.slow
def test_held_out_alignment_is_the_cosine_of_the_objective(folder, tmp_path):  # noqa: F811
    """At each checkpoint: 1 - the loss that the objective has on these images, with tokens computed for each batch."""
    config = align_config(folder, targets="computed", sites=((2, 1), (1, 1)), direction="detach")
    run = tmp_path / "run"
    run_training(config, run, previews=False)
    training, test = datasets(config)
    found = held_out_alignment(config, run, test, 6)
    assert [point["step"] for point in found] == [4, 8, 12]
    batch, last = spread_images(test, 6, True), sorted(checkpoint.folders(run))[-1]
    flow, objective = initialised(experiment.TarFlow, config).eval(), FLOW.objective(config, training, None)
    load_strictly(flow, read_tensors(last / "model" / "model.safetensors"), last)
    objective.load_state_dict(checkpoint.read_training(checkpoint.read(last), torch.device("cpu"))["objective"])
    objective.label_dropout = 0.0
    noise = StepNoise(config.train.seed, 0, 6, torch.device("cpu"))
    _, losses = objective.terms(flow, batch, noise)
    for (b, layer), loss in losses.items():
        assert found[-1][f"held_out_cosine_{b}_{layer}"] == pytest.approx(
            1 - float(loss.detach()), abs=2e-3
        )  # float16 tokens
    both = [found[-1][name] for name in ("held_out_cosine_2_1", "held_out_cosine_1_1")]
    assert found[-1]["held_out_cosine"] == pytest.approx(sum(both) / 2)
    x, tokens = noised(flow, batch.x, noise), objective.targets(batch)
    with torch.no_grad():
        heads = objective.heads(flow(x, batch.y, config.align.sites).hiddens)
    others = lambda p: torch.stack([F.cosine_similarity(p, tokens.roll(k, 0), dim=-1) for k in range(1, 6)])  # noqa: E731
    other = [float(others(p).mean()) for p in heads.values()]
    assert found[-1]["held_out_chance"] == pytest.approx(sum(other) / 2, abs=2e-3)
    above = found[-1]["held_out_cosine"] - found[-1]["held_out_chance"]
    assert found[-1]["held_out_above_chance"] == pytest.approx(above) and found[-1]["held_out_above_chance_se"] > 0
    assert held_out_alignment(config, run, test, 6) == found


def test_chance_is_by_all_other_images(monkeypatch):
    """Of images in the order of their classes, the next one is of the same class, and its tokens are almost the right ones."""
    monkeypatch.setattr(held_out, "BATCH", 5)
    n, t, width, sites = 12, 3, 4, ((1, 1), (2, 1))
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(3, t, width, generator=g, dtype=torch.float64).repeat_interleave(n // 3, 0)
    tokens = mean + 0.1 * torch.randn(n, t, width, generator=g, dtype=torch.float64)
    hiddens = {site: mean + 0.1 * torch.randn(n, t, width, generator=g, dtype=torch.float64) for site in sites}
    hiddens = {site: 3 * hidden.float() for site, hidden in hiddens.items()}
    parts = [(rows, {s: h[rows] for s, h in hiddens.items()}) for rows in (slice(0, 7), slice(7, n))]
    found = held_out.compared(parts, tokens)
    cosine = lambda p, q: sum(float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(p.double(), q, strict=True)) / t  # noqa: E731
    pairs = torch.tensor([[[cosine(hiddens[s][i], tokens[j]) for j in range(n)] for i in range(n)] for s in sites])
    pairs = pairs.double().mean(0)
    own = pairs.diagonal()
    chance = (pairs.sum(1) - own) / (n - 1)
    assert found["held_out_cosine"] == pytest.approx(float(own.mean()), abs=1e-6)
    assert found["held_out_chance"] == pytest.approx(float(chance.mean()), abs=1e-6)
    assert found["held_out_above_chance"] == pytest.approx(float((own - chance).mean()), abs=1e-6)
    assert found["held_out_above_chance_se"] == pytest.approx(float((own - chance).std()) / n**0.5, abs=1e-6)
    neighbour = float(torch.stack([pairs[i, i - 1] for i in range(n)]).mean())
    assert neighbour - found["held_out_chance"] > 0.2


def test_held_out_alignment_needs_an_aligned_run(folder, tmp_path):  # noqa: F811
    config = align_config(folder)
    test = datasets(config)[1]
    with pytest.raises(ValueError, match="the run has no alignment"):
        held_out_alignment(config.replace(align=None), tmp_path, test, 6)
    with pytest.raises(ValueError, match="give at least 2"):
        held_out_alignment(config, tmp_path, test, 1)
    with pytest.raises(ValueError, match="has no checkpoints"):
        held_out_alignment(config, tmp_path, test, 6)


# ---- quality


def records(row: str, teachers: list[str], **values: list[float]) -> list[dict]:
    return [
        {"row": row, "seed": seed, "metrics": {"taught": {row: teachers}, "last": dict(zip(values, each, strict=True))}}
        for seed, each in enumerate(zip(*values.values(), strict=True))
    ]


def rows(fid: float, recall: float, lite: float, teachers: list[str]) -> list[dict]:
    """A baseline, and a row that differs from it: in the classifier's distance, its recall, and efflite0's distance."""
    jitter = (0.0, 0.01, -0.01, 0.005)
    value = lambda mean: [mean + j for j in jitter]  # noqa: E731
    base = dict(
        fid_classifier=[1.0] * 4, recall_classifier=[0.5] * 4, fid_efflite0=[9.0] * 4, recall_efflite0=[0.5] * 4
    )
    ours = dict(fid_classifier=value(1 + fid), recall_classifier=value(0.5 + recall))
    ours |= dict(fid_efflite0=value(9 + lite), recall_efflite0=value(0.5 - lite))
    return [*records("baseline", [], **base), *records("arm", teachers, **ours)]


def judged_quality(found: list[dict]) -> Judged:
    """The claim that row arm has better images than the baseline."""
    claim = {"claim": "better images", "row": "arm", "than": "baseline", "measure": "quality"}
    return judged(Claims(about="toys", source="nowhere", path="last.{}", claims=[claim]), found)[0]


@pytest.mark.parametrize(
    ("fid", "recall", "lite", "teachers", "quality"),
    [
        (-0.3, 0.2, -0.3, [], "better"),
        (-0.3, 0.2, 0.3, [], "contradictory"),
        (-0.3, 0.2, 0.3, [LITE0], "better"),  # efflite0 taught, so it is not asked
        (-0.3, 0.2, -0.3, ["random-lite0"], "better"),
        (-0.3, -0.2, -0.3, [LITE0], "contradictory"),
        (-0.3, 0.0, -0.3, [LITE0], "undetermined"),
        (0.3, -0.2, 0.3, [], "worse"),
        (-0.3, 0.2, -0.3, ["fashion-classifier"], "no claim"),
        (-0.3, 0.2, -0.3, ["unknown"], "no claim"),
    ],
)
def test_quality_is_agreed_upon(fid, recall, lite, teachers, quality):
    found = judged_quality(rows(fid, recall, lite, teachers))
    assert found.alone == quality
    asked = {"no claim": 0}.get(quality, 2 if LITE0 in teachers else 4)
    assert len(found.verdicts) == asked


def test_quality_of_rows_that_are_not_there_or_say_no_teacher():
    both = rows(-0.3, 0.2, -0.3, [])
    assert judged_quality([r for r in both if r["row"] == "baseline"]).alone == "not run"
    del both[-1]["metrics"]["taught"]
    with pytest.raises(ValueError, match=r"a record of row 'arm' lacks metrics.taught"):
        judged_quality(both)


def test_agreed_takes_corrected_decisions():
    assert agreed([]) == "no claim" and agreed(["supported"] * 2) == "better" and agreed(["reversed"]) == "worse"
    assert agreed(["supported", "undetermined"]) == agreed(["undetermined"]) == "undetermined"
    assert agreed(["supported", "not run"]) == "not run"
    claims = quality_claims("a", "b", [LITE0], "ways.{}")
    assert [(c.number, c.direction) for c in claims] == [
        ("ways.fid_classifier", "lower"),
        ("ways.recall_classifier", "higher"),
    ]
    assert taught_in([{"row": "a", "metrics": {"taught": ["x", "y", "x"]}}], "a") == ("x", "y")
