"""A published run as one walk: which run a preset stands for, its measures on one process or two, and the paper's."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from test_data_sets import write_idx_set

from labcore.config import StudentRunConfig
from labcore.data import load
from labcore.data.datasets import Data
from labcore.evaluate.extractors import load_extractor
from labcore.evaluate.generate import Sampling
from labcore.evaluate.session import EvaluationRequest
from labcore.evaluate.statistics import make_reference, save_reference
from labcore.experiments import recipe
from labcore.experiments.beside import CHOSEN, beside_paper, differences, drawn_otherwise, reported
from labcore.experiments.smoke import small_evaluation
from labcore.nn.pretrained import CONFIG
from labcore.presets import REPORTED, UNREPORTED, Paper
from labcore.runs.background import train_streamed
from labcore.runs.configure import as_named
from labcore.runs.evaluate import RunEvaluation, evaluate_run, evaluate_streamed, image_metrics
from labcore.spread import spread

pytestmark = pytest.mark.usefixtures("as_users_run", "own_cache")


@pytest.fixture
def pictures(tmp_path) -> str:
    for k in range(2):
        (tmp_path / "pictures" / f"class{k}").mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (70, 80), (40 * i, 0, 100 * k)).save(tmp_path / "pictures" / f"class{k}" / f"{i}.png")
    return str(tmp_path / "pictures")


def test_a_preset_of_a_paper_is_of_ones_own_pictures(tmp_path, pictures):
    run = recipe.ready_to_train(
        "flowback-64-reverse-7-8-l6", tmp_path, pictures, settings=["train.batch_size=128"], seed=3
    )
    assert (run.data.path, run.data.flip, run.model.num_classes) == (pictures, True, 2)
    assert (run.train.seed, run.train.batch_size, run.train.steps) == (3, 128, 400_000)
    uncond = recipe.ready_to_train("tarflow-imagenet-64-uncond", tmp_path, pictures)
    assert uncond.model.num_classes == 0
    assert recipe.ready_to_train("fashion-16", tmp_path).data.name == "fashion-mnist-12k"


def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path, pictures):
    with pytest.raises(ValueError, match="flowback-64-baseline trains on a folder of pictures; give data_path"):
        recipe.ready_to_train("flowback-64-baseline", tmp_path)
    with pytest.raises(ValueError, match="itarflow-256-b trains on a folder of pictures; give data_path"):
        recipe.ready_to_train("biflow-256-b-final", tmp_path)
    with pytest.raises(ValueError, match="fashion-16 is a flow itself, so leave it out"):
        recipe.ready_to_train("fashion-16", tmp_path, flow="fashion-tarflow")
    with pytest.raises(ValueError, match="did you mean 'fashion-16'"):
        recipe.ready_to_train("fashion-61", tmp_path)
    with pytest.raises(ValueError, match=r"guidances were \[\]; give at least one"):
        evaluate_run(recipe.ready_to_train("fashion-16", tmp_path), tmp_path, tmp_path, RunEvaluation(100, []))
    with pytest.raises(ValueError, match=r"guidances were \[1.0, 1.0\]"):
        evaluate_run(recipe.ready_to_train("fashion-16", tmp_path), tmp_path, tmp_path, RunEvaluation(100, [1.0, 1.0]))
    assert not (tmp_path / "cache" / "teachers").exists()


@pytest.mark.slow
def test_a_learned_inverse_finds_the_flow_that_it_needs(tmp_path, monkeypatch):
    """The flow of its preset is trained once, in the cache, and one that is given is taken."""
    trained = []

    def train(config, folder, processes, previews, show):
        trained.append((config.train.steps, processes))
        from labcore.flows.tarflow import TarFlow

        TarFlow(config.model).save_pretrained(Path(folder) / "model")
        (Path(folder) / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))

    monkeypatch.setattr("labcore.runs.teachers.train_streamed", train)
    monkeypatch.setenv("LABCORE_DATA", str(tmp_path / "data"))
    write_idx_set(tmp_path / "data" / "fashion-mnist")  # what fashion-itarflow was trained on
    for _ in range(2):
        run = recipe.ready_to_train("biflow-16-w64-naive", tmp_path, seed=1, processes=2, settings=["train.steps=40"])
    assert trained == [(600, 2)] and isinstance(run, StudentRunConfig)
    assert Path(run.flow).parent == tmp_path / "cache" / "teachers" and (Path(run.flow) / "model" / CONFIG).is_file()
    assert (run.train.seed, run.train.steps, run.data.image_size) == (1, 40, 16)
    given = recipe.ready_to_train("biflow-16-w64-naive", tmp_path, flow="fashion-itarflow")
    assert given.flow == "fashion-itarflow" and len(trained) == 1
    assert small_evaluation(given, tmp_path).guidances == (0.0,)


def test_a_smoke_size_needs_one_process_whatever_its_spec_says(tmp_path):
    run = recipe.ready_to_train("biflow-256-b-lpips", tmp_path, small=True, processes=8, seed=4, show=lambda line: None)
    assert (tmp_path / "flow" / "model" / CONFIG).is_file() and run.train.seed == 4


def test_how_a_run_is_carried_out_is_for_its_flow_too(tmp_path, monkeypatch):
    seen = []
    keep = lambda config, processes, show, known_as: seen.append((config, known_as)) or tmp_path  # noqa: E731
    monkeypatch.setattr(recipe, "train_if_missing", keep)
    monkeypatch.setattr(recipe, "configure_student", lambda flow, *_, **__: flow)
    settings = ["train.accumulation=4", "train.recompute=true", "train.steps=50"]
    assert recipe.ready_to_train("biflow-16-w64-naive", tmp_path, settings=settings, show=lambda line: None) == str(
        tmp_path
    )
    ((config, known_as),) = seen
    assert (config.train.accumulation, config.train.recompute, config.train.steps) == (4, True, 600)
    assert (known_as.train.accumulation, known_as.train.recompute) == (1, False)


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("fashion-16", ["train.seed=3"], "the settings contain train.seed; give seed"),
        (
            "biflow-16-w64-naive",
            ["model.num_blocks=4"],
            "the settings contain model.num_blocks; a student takes it from its flow",
        ),
        ("biflow-16-w64-naive", ["data.limit=4"], "the settings contain data.limit; a student takes it from its flow"),
        ("fashion-16", "train.steps=10", r"settings must be a list; got the string 'train.steps=10'"),
    ],
)
def test_settings_that_have_another_way_in(tmp_path, preset, settings, message):
    with pytest.raises(ValueError, match=message):
        recipe.ready_to_train(preset, tmp_path, settings=settings)


def test_a_saved_flow_without_its_run_does_not_say_on_what_to_train(tmp_path):
    from labcore import zoo

    folder = zoo.load("fashion-itarflow").save_pretrained(tmp_path / "flow")
    with pytest.raises(ValueError, match="no run next to it that names its data; give data_path"):
        recipe.ready_to_train("biflow-16-w64-naive", tmp_path, flow=str(folder))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (RunEvaluation(2000, extractor="incepton"), "extractor was 'incepton'; there are inception, efflite0"),
        (RunEvaluation(2000, (0.5, 0.50000001)), "give a list with each once"),
        (RunEvaluation(2000, 0.5), "give a list with each once"),
        (RunEvaluation(2000, ()), "guidances were \\[\\]; give at least one"),
        (RunEvaluation(0), "samples was 0; give 100 or more"),
        (RunEvaluation(2000, attn_temp=-1.0), "attn_temp"),
    ],
)
def test_measuring_that_cannot_be_is_refused_before_training(how, message):
    with pytest.raises(ValueError, match=message):
        recipe.check("fashion-16", [], None, how)


def test_all_missing_files_are_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    how = RunEvaluation(2049, reference=tmp_path / "nope.safetensors")
    with pytest.raises(FileNotFoundError) as told:
        recipe.check("flowback-256-reverse", [], str(tmp_path / "pictures"), how)
    assert all(part in str(told.value) for part in ("sd-vae-ft-ema", "dinov2", "nope.safetensors", "there is no"))
    with pytest.raises(FileNotFoundError, match="vgg16"):
        recipe.check("biflow-256-b-lpips", [], str(tmp_path), RunEvaluation(2049, extractor="efflite0"))
    with pytest.raises(ValueError, match=r"attn_temp was 0\.3; a student has none"):
        recipe.check("biflow-256-b-lpips", [], str(tmp_path), RunEvaluation(2049, attn_temp=0.3))
    recipe.check("flowback-256-reverse", [], None, how, small=True)
    recipe.check("fashion-16", [], None, RunEvaluation(2000, extractor="efflite0"))


def test_measures_are_the_papers_where_there_are_enough_images():
    assert image_metrics("inception", 4096) == ["fid", "sfid", "is"]
    assert image_metrics("efflite0", 2000) == ["fid_efflite0", "sfid_efflite0", "is_efflite0"]
    assert image_metrics("efflite0", 1300) == ["fid_efflite0", "is_efflite0"]
    assert image_metrics("efflite0", 200) == ["precision_efflite0", "recall_efflite0"]


def test_the_papers_numbers_stand_beside_ours(tmp_path, pictures):
    run = recipe.ready_to_train(
        "flowback-64-baseline", tmp_path, pictures, settings=["train.steps=1000", "train.warmup_steps=10"]
    )
    found = {"accuracy": 0.25, "best": {"guidance": 1.5, "fid": 20.0, "sfid": 40.0, "is": 30.0}}
    said = beside_paper("flowback-64-baseline", run, found, RunEvaluation(2049))
    assert "| fid | 20 | 12.91 |" in said and "| training-free accuracy | 0.25 | 0.3743 |" in said
    assert "| is | 30 | 36.62 |" in said and "| guidance | 1.5 | - |" in said
    assert "2,049 drawn images; the paper has 4,096" in said and "train.steps is 1000; the preset has 400000" in said
    same = recipe.ready_to_train("flowback-64-baseline", tmp_path, pictures)
    here = "The reference statistics are those of the training images here"
    of_training = f"{here}; papers seldom say which images theirs are from."
    of_classes = "model.num_classes is 2; the preset has 1000."
    assert differences("flowback-64-baseline", same, RunEvaluation(4096, [2.0])) == [
        of_training,
        of_classes,
        CHOSEN["flowback"],
    ]
    changed = recipe.ready_to_train(
        "flowback-64-reverse-7-8-l6", tmp_path, pictures, settings=["align.encoder=clip-b", "data.limit=10"]
    )
    said = differences("flowback-64-reverse-7-8-l6", changed, RunEvaluation(4096, limit=10))
    for part in (
        "align.encoder is clip-b",
        "data.limit is 10;",
        "accuracy are of 10 test images",
        "model.num_classes is 2",
    ):
        assert any(part in line for line in said), part
    other = {"best": {"guidance": 0.0, "fid_efflite0": 90.0}}
    said = beside_paper("flowback-64-baseline", same, other, RunEvaluation(4096, extractor="efflite0"))
    assert "Features of efflite0; the paper uses Inception" in said and "| fid_efflite0 | 90 | - |" in said
    own = recipe.ready_to_train("fashion-16", tmp_path)
    assert "No paper reports a run" in beside_paper("fashion-16", own, other, RunEvaluation(4096, extractor="efflite0"))


def test_a_papers_numbers_and_its_line():
    paper = Paper("Table 1", 12.91, 33.79, 36.62, 37.43)
    assert paper.numbers() == {"fid": 12.91, "sfid": 33.79, "accuracy": 0.3743, "is": 36.62}
    assert str(paper) == "Table 1: FID 12.91, sFID 33.79, IS 36.62, accuracy 37.43%"
    assert str(UNREPORTED) == "unknown" and UNREPORTED.numbers() == {}
    (bits,), (patch_1,) = REPORTED["tarflow-imagenet-64-bits"], REPORTED["flowback-256-reverse-p1-1000k"]
    assert bits.numbers() == {"bits_per_dim": 2.99} and patch_1.samples == 50_000
    drawn = Paper("X", 1.5, note="why", guidance=0.2, attn_temp=0.3, noise_std=0.05)
    assert str(drawn) == "X: FID 1.5, guidance 0.2, attn_temp 0.3, denoised with noise_std 0.05, why"
    assert str(Paper(fid=2.0, guidance=0)) == "FID 2.0, no guidance"
    assert str(Paper(fid=2.0, guidance="chosen")) == "FID 2.0, with guidance"


@pytest.mark.parametrize(
    ("preset", "how", "fid", "differences"),
    [
        ("tarflow-imagenet-128", RunEvaluation(50_000, [1.5], noise_std=0.1477), 5.06, []),
        ("tarflow-imagenet-128", RunEvaluation(50_000, [1.5]), 5.06, ["the flow's own noise_std; the paper uses"]),
        ("tarflow-imagenet-64-uncond", RunEvaluation(50_000, [0.2], attn_temp=0.3, noise_std=0.0474), 14.67, []),
        (
            "tarflow-imagenet-64-uncond",
            RunEvaluation(50_000, [0.0]),
            18.42,
            ["drawn (guidance, denoising) was not found"],
        ),
        ("tarflow-afhq-256", RunEvaluation(50_000, [3.4], noise_std=0.0828), 13.60, []),
        (
            "tarflow-afhq-256",
            RunEvaluation(50_000, [3.0]),
            13.60,
            ["Guidances 3; the paper uses 3.4", "the flow's own noise_std; the paper uses"],
        ),
        ("flowback-64-baseline-1000k", RunEvaluation(4096, [3.0]), 11.76, []),
        ("flowback-64-baseline-1000k", RunEvaluation(50_000, [3.0]), 4.21, []),
        ("itarflow-256-b", RunEvaluation(50_000, [0.0, 1.0]), 6.83, []),
        ("itarflow-256-b", RunEvaluation(50_000, [0.0]), 44.46, []),
        ("itarflow-256-xl", RunEvaluation(50_000, [0.0]), 4.54, ["No guidance; the paper's number is with guidance"]),
        ("biflow-256-b-hidden-alignment", RunEvaluation(50_000, [0.0]), 36.93, []),
        ("biflow-256-b-hidden-alignment", RunEvaluation(50_000, [0.0, 0.5]), 6.90, []),
        ("biflow-256-b-naive", RunEvaluation(50_000, [0.5]), 43.41, ["the paper's number is without guidance"]),
        ("biflow-256-b-no-denoiser", RunEvaluation(50_000), 100.51, []),
        ("biflow-256-b-no-denoiser", RunEvaluation(50_000, denoising="none"), 100.51, []),
        ("biflow-256-b-no-denoiser", RunEvaluation(50_000, denoising="score"), 42.62, []),
    ],
)
def test_the_papers_number_is_the_one_drawn_alike(preset, how, fid, differences):
    paper = reported(preset, how)
    assert paper.fid == fid
    found = drawn_otherwise(paper, how)
    assert len(found) == len(differences) and all(part in one for part, one in zip(differences, found, strict=True))


def test_a_learned_inverse_has_no_noise_std():
    with pytest.raises(ValueError, match=r"noise_std was 0\.1; a student has none"):
        RunEvaluation(2000, noise_std=0.1).check(as_named("biflow-16-w64-naive")[0].model)
    assert RunEvaluation(2000, noise_std=0.1).sampling(0.0, "linear", 0).noise_std == 0.1


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path, monkeypatch):
    """And draw the same: the second record is of the first one's images."""
    reference = tmp_path / "reference.safetensors"
    test = load("fashion-mnist-12k", "test")
    save_reference(make_reference(spread(test, 128), load_extractor("efflite0")), reference)
    data, how = Data("fashion-mnist-12k"), Sampling(num=128, guidance=0.5, seed=2, chunk=32, guidance_schedule="linear")
    request = EvaluationRequest(["classify", "precision_efflite0"], how, reference, 20, how.seed)
    said = []
    two = evaluate_streamed(
        Path("fashion-tarflow"),
        data,
        request,
        tmp_path / "two.json",
        2,
        said.append,
    )
    one = evaluate_streamed(Path("fashion-tarflow"), data, request, tmp_path / "one.json")
    kept = "fidelity_efflite0"
    assert one[kept]["images"] == two[kept]["images"] and one[kept]["measures"] == two[kept]["measures"]
    assert one["training_free_accuracy"]["accuracy"] == two["training_free_accuracy"]["accuracy"]
    assert any("precision_efflite0" in line for line in said)
    assert (tmp_path / "two" / "train.json").is_file()
    classify = EvaluationRequest(["classify"], how, limit=20, seed=how.seed)
    with monkeypatch.context() as patch:  # what was killed has no status, and no new record either
        patch.setattr("labcore.runs.detached.Output.stream", lambda self, show: None)
        patch.setattr("labcore.runs.detached.start", lambda folder, *_: SimpleNamespace(poll=lambda: None))
        patch.setattr("labcore.runs.detached.running", lambda folder: False)
        with pytest.raises(RuntimeError, match="the evaluation was killed"):
            evaluate_streamed(Path("fashion-tarflow"), data, classify, tmp_path / "two.json", 2, said.append)
    with pytest.raises(RuntimeError, match="the evaluation ended with status"):
        gone = tmp_path / "gone"
        evaluate_streamed(gone, data, classify, tmp_path / "no.json", 2, said.append)


@pytest.mark.slow
def test_two_processes_share_the_latents_of_a_test_set(tmp_path, monkeypatch):
    """Which are on no disk yet: each process computes its part and waits for the other's."""
    config = recipe.ready_to_train("latent-small", tmp_path / "flow", small=True)
    train_streamed(config, tmp_path / "run", previews=False)
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "another cache"))
    d, out = config.data, tmp_path / "record.json"
    data = Data(d.name, d.path, d.image_size, d.channels, d.crop)
    how = Sampling(num=4, guidance_schedule="linear")
    request = EvaluationRequest(["likelihood"], how, limit=40)
    found = evaluate_streamed(tmp_path / "run", data, request, out, 2, lambda line: None)
    assert found["likelihood"]["n"] == 40
