"""`lab rehearse`: points, plan, a trial on this machine, the whole run by it; and `lab plan`'s line for this CPU."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from labcore.cli.app import app
from labcore.data import throughput
from labcore.data.datasets import Data
from labcore.plan import GPUS, Gpu, Machine, Plan, duration, estimate, machine, words
from labcore.plan.machine import known_as
from labcore.rehearsal import fitting, planned, ready, rehearse, trial
from labcore.rehearsal.rehearse import Asked, Rehearsal
from labcore.rehearsal.trial import Trial
from labcore.runs.configure import DataOptions, as_named, configure, configure_student
from labcore.train.step import Steps

pytestmark = pytest.mark.usefixtures("small_encoder")

CPU = Machine("cpu", "CPU with 1 thread", 1, Gpu(1e11, 1e11, 8e9))
TINY = ("model.width=32", "model.head_dim=16", "model.num_blocks=2", "model.layers_per_block=1", "train.batch_size=8")
PICTURES = ("data.image_size=16", "model.image_size=16", "model.num_classes=3", "train.num_workers=0")
ALIGNED = (*TINY, *PICTURES, "align.sites=[[1,1],[2,1]]")


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LABCORE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(rehearse, "machine", lambda: CPU)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


def lab(*words):
    return CliRunner().invoke(app, [*words])


def settings(*given):
    return [word for each in given for word in ("--set", each)]


def left_behind(folder):
    return [path.name for path in (*folder.iterdir(), *(folder / "temporary").iterdir()) if "rehearsal" in path.name]


def test_a_rehearsal_from_points_to_price(tmp_path):
    words = ["rehearse", "fashion-16", *settings(*TINY), "--steps", "4", "--images", "3", "--price", "2.5"]
    done = lab(*words, "--processes", "2", "--out", "out", "--json", "record.json")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert record == json.loads((tmp_path / "out" / "rehearsal.json").read_text())
    assert [point["status"] for point in record["points"]] == ["ok"] * 3
    measured, whole = record["measured"], record["whole_run"]
    assert (measured["steps"], measured["batch_size"], measured["drawn"], measured["precision"]) == (4, 4, 3, "fp32")
    assert measured["seconds_per_step"] > 0 and measured["seconds_per_image"] > 0
    assert whole["days"] == pytest.approx(400 * measured["seconds_per_step"] / 86_400)
    assert whole["device_hours"] == pytest.approx(48 * whole["days"])
    assert whole["price"] == pytest.approx(2.5 * whole["device_hours"])
    assert record["plan"]["steps"] == 400 and record["device"]["kind"] == "cpu" and record["problem"] is None
    assert Image.open(tmp_path / "out" / "images.png").size[1] > 32  # 32 pixels, and the names of the classes
    assert (tmp_path / "out" / "run" / "model" / "model.safetensors").is_file()
    command = record["command"]
    assert command.startswith("lab train --preset fashion-16 --set model.width=32")
    assert command.endswith("--num-processes 2 --out runs/fashion-16") and f"  {command}" in done.output.splitlines()
    assert max(len(line) for line in done.output.splitlines() if "/" not in line) <= 80
    assert not left_behind(tmp_path) and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_all_that_is_missing_is_reported_together_and_nothing_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearse, "run_trial", pytest.fail)
    monkeypatch.setattr("labcore.encoders.weights._from_package", lambda spec: None)
    monkeypatch.setattr(ready.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**9))
    small = (*TINY, "align.sites=[[1,1]]", "align.encoder=efficientnet-lite0", "model.codec=taesd")
    done = lab("rehearse", "flowback-256-reverse", *settings(*small), "--json", "record.json", "--out", "out")
    assert done.exit_code == 1, done.output
    record = json.loads((tmp_path / "record.json").read_text())
    missing = {(p["name"], p["found"].split()[0]) for p in record["points"] if p["status"] == "missing"}
    assert {("data", "flowback-256-reverse"), ("weights", "autoencoder"), ("weights", "encoder")} < missing
    assert {name for name, _ in missing} == {"data", "weights", "disk"} and len(missing) == 5
    for remedy in (
        "give --data FOLDER",
        "huggingface.co/madebyollin/taesd",
        "labcore[encoders]",
        "toshas",
        "train.keep=1",
    ):
        assert remedy in " ".join(done.output.split())
    assert "5 missing; nothing was trained" in done.output and "--synthetic" in done.output
    assert record["measured"] is None and record["whole_run"] is None
    assert not (tmp_path / "out").exists() and not left_behind(tmp_path)


@pytest.mark.slow
def test_random_images_and_weights_stand_in_for_what_is_missing(tmp_path, monkeypatch):
    """An alignment to cached tokens of an encoder that is not here, on pictures that are not here, without a trace."""
    monkeypatch.setattr("labcore.encoders.weights._from_package", lambda spec: None)
    words = settings(*ALIGNED, "align.encoder=efficientnet-lite0", "train.keep=1")
    found = lab("rehearse", "flowback-64-reverse-7-8-l6", "--synthetic", *words, "--steps", "2", "--json", "r.json")
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert [p["status"] for p in record["points"]][:3] == ["random", "random", "later"]
    assert "The real run also needs" in found.output and "--data IMAGE_FOLDER" in record["command"]
    assert record["measured"]["drawn"] == 4
    assert not (tmp_path / "cache").exists() and not (tmp_path / "weights").exists() and not left_behind(tmp_path)


@pytest.mark.slow
def test_the_flow_under_a_learned_inverse_is_a_point(tmp_path):
    few = settings("model.width=32", "model.head_dim=16", "train.batch_size=8")
    found = lab(
        "rehearse", "biflow-16-w64-naive", *few, "--synthetic", "--steps", "1", "--images", "1", "--json", "r.json"
    )
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["points"][2]["status"] == "random" and record["measured"]["drawn"] == 1
    assert "lab train --preset itarflow-16 --out runs/itarflow-16" in " ".join(found.output.split())
    assert "--invert runs/itarflow-16" in record["command"]


def test_a_learned_inverse_is_planned_for_the_flow_that_is_given(tmp_path):
    asked = Asked("biflow-16-w64-naive", flow="fashion-itarflow")
    found = rehearse._planned(asked, tmp_path, pytest.fail)
    assert found.config == configure_student("fashion-itarflow", "biflow-16-w64-naive")
    assert found.config.model.image_size == found.flow.image_size == 28
    assert rehearse._point_of_flow(asked, found.config).status == "ok"


@pytest.mark.slow
def test_the_smoke_size_walks_the_same_way(tmp_path):
    found = lab("rehearse", "latent-small", "--smoke", "--steps", "1", "--images", "1", "--json", "r.json")
    assert found.exit_code == 0, found.output
    assert "at its smoke size" in found.output and "say nothing about the full run" in " ".join(found.output.split())
    assert json.loads((tmp_path / "r.json").read_text())["plan"]["batch_size"] == 4
    assert not (tmp_path / "cache" / "latents").exists()


def test_out_of_memory_says_what_would_fit_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(Steps, "take", full)  # where a device says so; the training turns it into advice
    done = lab("rehearse", "fashion-16", *settings(*TINY), "--out", "out", "--json", "record.json")
    assert done.exit_code == 1, done.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["problem"] == "out of memory while training" and record["measured"] is None
    assert record["fits"][0].startswith("--set train.accumulation=2: 4 images at a time in")
    assert record["fits"][1].startswith("--set train.recompute=true: 8 images at a time in")
    assert record["fits"][2].startswith("the same settings on h200, h100")
    assert "lab rehearse fashion-16 --smoke" in done.output
    assert not (tmp_path / "out").exists() and not left_behind(tmp_path)
    monkeypatch.undo()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: tried 1 TB")]
)
def test_other_words_for_a_full_memory(error):
    with pytest.raises(trial.OutOfMemory, match="out of memory while drawing"), trial._memory("drawing"):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), trial._memory("drawing"):
        raise RuntimeError("shapes do not fit")


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (CPU._replace(gpu=Gpu(1e11, 1e11, 1e6)), "are free here"),
        (CPU._replace(gpu=Gpu(1e4, 1e4, 8e9)), "by the plan; the limit is 600 s"),
    ],
)
def test_a_cpu_is_not_asked_for_more_than_it_has(monkeypatch, there, message):
    monkeypatch.setattr(rehearse, "machine", lambda: there)
    monkeypatch.setattr(rehearse, "run_trial", pytest.fail)
    done = lab("rehearse", "fashion-16", *settings(*TINY))
    assert done.exit_code == 1 and message in " ".join(done.output.split()), done.output
    assert "lab rehearse fashion-16 --smoke" in done.output


def test_training_ends_when_the_time_is_over(tmp_path):
    run = configure("fashion-16", settings=TINY)
    found = trial.run_trial(run, tmp_path / "trial", 5, 2, 1e-6)
    assert (found.steps, found.drawn, found.undrawn) == (2, 0, "the time limit of 1e-06 s was reached")
    assert 0 < found.seconds_per_step < found.first_step


def test_days_and_price_of_the_whole_run():
    plan = Plan(10, 10, 10**9, 10**6, 10**6, 16, batch_size=64, steps=1000)
    measured = Trial(20, 16, seconds_per_step=8.64, first_step=9.0, memory=None, precision="bf16")
    there = Machine("cuda", "NVIDIA H100 80GB HBM3", 8, GPUS["h100"], "h100")
    asked = Asked("fashion-16", price=2.0)
    found = Rehearsal(asked, there, 4, "", [], plan, estimate(plan, GPUS["h100"], 4), 16, measured)
    assert (found.days, found.device_hours, found.price) == pytest.approx((0.1, 9.6, 19.2))
    assert found._replace(trial=None).price is None and found._replace(asked=Asked("fashion-16")).price is None


def test_what_fits_is_said_from_the_cheapest_on():
    config = as_named("fashion-16", TINY)[0]
    plan = Plan(10, 10, 10**9, activations=10**9, held=10**9, tokens=16, batch_size=8, steps=10)
    there = CPU._replace(gpu=Gpu(1e12, 1e12, 6e9))
    (first, *_, last) = fitting.what_fits(config, None, plan, there, 1, tried=False)
    assert first == "--set train.accumulation=2: 4 images at a time in 5.0 GB"
    assert last == "the same settings on h200, h100, a100, a100-40, l40s or rtx-4090"
    assert fitting.what_fits(config, None, plan, there, 1, tried=True)[0] == first
    lower = there._replace(gpu=Gpu(1e12, 1e12, 1e6))
    huge = plan._replace(held=10**11)
    settled = config.replace(train=config.train.replace(recompute=True).model_dump())
    assert fitting.what_fits(settled, None, huge, lower, 1, False) == ["the same settings on h200"]
    assert fitting.what_fits(settled, None, plan._replace(held=10**13), lower, 1, False) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fashion-61"], "did you mean 'fashion-16'"),
        (["fashion-16", "--data", "nowhere"], "--data was 'nowhere', which does not exist"),
        (["fashion-16", "--price", "-1"], "price was -1.0; give the price of one GPU for an hour, 0 or more"),
        (["fashion-16", "--price", "nan"], "price was nan"),
        (["fashion-16", "--price", "inf"], "price was inf"),
        (["fashion-16", "--steps", "0"], "steps was 0"),
        (["fashion-16", "--seconds", "nan"], "seconds was nan"),
        (["fashion-16", "--flow", "fashion-tarflow"], "fashion-16 is a flow itself, so leave it out"),
        (["fashion-16", "--processes", "3"], "processes was 3; it must divide the batch of 128"),
        (["fashion-16", "--processes", "0"], "processes was 0; give 1 or more"),
        (["fashion-16", "--out", "full"], "full is a file, or not empty; give a new folder"),
        (["fashion-16", "--json", "full"], "full is a folder"),
        (["fashion-16", "--set", "model.widht=3"], "model.widht"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(tmp_path, monkeypatch, given, message):
    monkeypatch.setattr(rehearse, "plan_of", pytest.fail)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("x")
    done = lab("rehearse", *given)
    assert done.exit_code == 2 and message in done.output.replace("\n", " "), done.output
    assert not left_behind(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    for k in range(2):
        (tmp_path / "pictures" / f"class{k}").mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (20 + i, 40), (20 * i, 0, 100 * k)).save(tmp_path / "pictures" / f"class{k}" / f"{i}.png")
    return str(tmp_path / "pictures")


def test_the_point_of_the_data_says_what_is_wrong(pictures):
    config = planned.planned("fashion-16", [], DataOptions(pictures, 24, 3)).config
    read = lambda split: Data.of(config.data).split(split)  # noqa: E731
    point, images = ready.of_data(config, read)
    assert (point.status, images, point.found) == ("missing", None, "22 training images for batches of 128")
    assert "train.batch_size=22" in point.remedy
    config = config.replace(train=config.train.replace(batch_size=4).model_dump())
    point, images = ready.of_data(config, read)
    assert point.status == "ok" and len(images) == 22
    assert "22 training and 2 test images, 2 classes of 11 training images each, read as 3 x 24 x 24" in point.found
    assert "20 to 31 pixels" in point.found and "have fewer than 24 and are enlarged" in point.found
    wrong = config.replace(model=config.model.replace(num_classes=7).model_dump())
    assert ready.of_data(wrong, read)[0].found == "2 classes, and the model has 7"


@pytest.mark.slow
def test_a_plan_is_for_the_size_of_the_data(pictures, monkeypatch):
    """The same configuration as that of `lab train`."""
    found = planned.planned("fashion-16", ["model.num_blocks=2"], DataOptions(pictures, 24, 3)).config
    assert found == configure("fashion-16", data=pictures, image_size=24, channels=3, settings=["model.num_blocks=2"])
    latent = planned.planned("flowback-256-baseline", [], DataOptions(pictures, 64)).config.model
    assert (latent.image_size, latent.channels, latent.num_classes) == (8, 4, 2)
    inverse = planned.planned("biflow-256-b-final", [], DataOptions(pictures, 128))
    assert inverse.config.model.image_size == inverse.flow.image_size == 16
    briefly = partial(throughput.images_per_second, seconds=0.1)  # not for ten seconds
    monkeypatch.setattr(throughput, "images_per_second", briefly)
    told = lab(
        "plan",
        "fashion-16",
        "--data",
        pictures,
        "--image-size",
        "24",
        "--workers",
        "0",
        "--kind",
        "cpu",
        *settings("train.batch_size=8", "model.num_blocks=2", "model.layers_per_block=1"),
    )
    assert told.exit_code == 0 and "36 tokens an image" in told.output, told.output


@pytest.mark.slow
def test_the_plan_has_a_line_for_this_cpu():
    told = lab("plan", "fashion-16")
    assert told.exit_code == 0 and "this CPU" in told.output and "measured now on a matrix product" in told.output
    assert "starting the 1,046 operators of a step" in told.output
    assert told.output.rstrip().endswith("lab rehearse fashion-16")
    alone = lab("plan", "fashion-16", "--kind", "cpu")
    assert "this CPU" in alone.output and "h100" not in alone.output


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.02, "under a second"), (42.0, "42 seconds"), (90.0, "1.5 minutes"), (7200.0, "2 hours"), (1e9, "11,574 days")],
)
def test_short_runs_are_said_in_seconds(seconds, told):
    assert duration(seconds) == told


@pytest.mark.slow
def test_this_machine_is_a_kind_of_the_table_or_measured():
    found = machine("cpu")
    assert found.kind == "cpu" and found.known is None and found.gpu.peak >= found.gpu.single > 1e8
    assert found.gpu.memory > 1e8 and "measured" in words.peaks(found)
    names = {"NVIDIA H100 80GB HBM3": 85e9, "NVIDIA H200": 150e9, "NVIDIA A100-SXM4-40GB": 42e9, "NVIDIA L40S": 48e9}
    assert [known_as(*each) for each in names.items()] == ["h100", "h200", "a100-40", "l40s"]
    assert known_as("NVIDIA A100-SXM4-80GB", 85e9) == "a100" and known_as("NVIDIA GeForce RTX 4090", 25e9) == "rtx-4090"
    assert known_as("Tesla T4", 16e9) is None
