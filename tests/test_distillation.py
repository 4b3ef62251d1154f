"""Training a student: it learns, resumes bit for bit, never touches its flow, and what it leaves can be sampled."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import perturbed
from PIL import Image
from test_training import assert_same_run, folder, one_thread, run_config, unplugged  # noqa: F401
from typer.testing import CliRunner

from labcore import BackwardModel, sample
from labcore.biflow.trajectory import trajectory
from labcore.cli.app import app
from labcore.config import StudentRunConfig
from labcore.data.transforms import to_uint8
from labcore.nn.pretrained import read_tensors
from labcore.provenance import weights_hash
from labcore.runs.configure import configure_run, configure_student
from labcore.runs.models import find_model, find_sampler
from labcore.runs.train import run_training
from labcore.train import checkpoint, same_run
from labcore.train.log import read_log

pytestmark = pytest.mark.usefixtures("small_encoder")

FLOW = dict(
    image_size=8, channels=1, patch_size=2, width=16, num_blocks=2, layers_per_block=1, head_dim=8, num_classes=2
)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """The folder of a flow that is no constant."""
    return perturbed(dtype=torch.float32, **FLOW).save_pretrained(tmp_path_factory.mktemp("flow") / "model")


def config(flow, folder, steps: int = 12, **student) -> StudentRunConfig:  # noqa: F811
    train = dict(steps=steps, batch_size=16, lr=1e-2, warmup_steps=2, ema_decay=0.5, precision="fp32", keep=9)
    train |= dict(log_every=2, eval_every=12, save_every=4)
    model = {**FLOW, "max_guidance": student.pop("max_guidance", 0.0)}
    data = dict(name="folder", path=str(folder), image_size=8, flip=True)
    return StudentRunConfig(flow=str(flow), model=model, data=data, train=train, student=student)


def test_it_learns_and_resumes_bit_for_bit(flow, folder, tmp_path):  # noqa: F811
    run = config(flow, folder, max_guidance=1.0, adaptive_power=0.0)
    before = weights_hash(find_model(flow))
    assert run_training(run, tmp_path / "calm", previews=False).finished
    with unplugged(6):
        run_training(run, tmp_path / "rough", previews=False)
    assert run_training(run, tmp_path / "rough", previews=False).finished
    assert_same_run(tmp_path / "calm", tmp_path / "rough")
    log = read_log(tmp_path / "calm")
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    assert {"distance/state-1", "distance/state-0", "distance/image", "rms/state-1", "grad_norm/block_3"} <= log[
        0
    ].keys()
    assert {"test_state-1", "test_state-0", "test_image"} <= log[-1].keys()
    assert weights_hash(find_model(flow)) == before
    saved = checkpoint.latest(tmp_path / "calm")
    kept = checkpoint.read_training(saved, torch.device("cpu"))["objective"]
    assert list(kept) == ["block_rms"]
    own = {name for name, _ in BackwardModel(run.model).named_parameters()}
    for part in ("model", "ema"):
        assert read_tensors(saved.path / part / "model.safetensors").keys() == own


def test_another_flow_is_another_run(flow, folder, tmp_path):  # noqa: F811
    other = perturbed(dtype=torch.float32, seed=1, **FLOW).save_pretrained(tmp_path / "flow")
    run_training(config(tmp_path / "flow", folder, steps=4), tmp_path / "run", previews=False)
    find_model(flow).save_pretrained(other)
    with pytest.raises(ValueError, match="flow was"):
        run_training(config(tmp_path / "flow", folder, steps=4), tmp_path / "run", previews=False)


@pytest.mark.slow
def test_what_it_learns_inverts_the_flow(flow, folder, tmp_path):  # noqa: F811
    """Distances on images that it has not seen fall well below those of predicting nothing."""
    run_training(config(flow, folder, steps=60, adaptive_power=0.0), tmp_path / "run", previews=False)
    back, teacher = find_sampler(tmp_path / "run"), find_model(flow)
    assert isinstance(back, BackwardModel)
    torch.manual_seed(5)
    x = torch.rand(20, 1, 8, 8) * 0.7 - 1
    x[:, :, :4] += 1.2
    y = torch.zeros(20, dtype=torch.int64)
    found = trajectory(teacher, x + 0.1 * torch.randn_like(x), y, x)
    for state, target in zip(back(found.z, y).states, found.targets(True), strict=True):
        assert (state - target).square().mean() < 0.5 * target.square().mean()
    assert torch.equal(sample(back, 4, 1, seed=3), sample(back, 6, 1, seed=3)[:4])
    with pytest.raises(ValueError, match="a student has no noise_std"):
        sample(back, 4, 1, noise_std=0.1)


def test_it_learns_by_the_embedded_encoder_too(flow, folder, tmp_path):  # noqa: F811
    run = config(flow, folder, steps=4, perceptual={"efflite0": 0.5}, adaptive_power=0.0)
    assert run_training(run, tmp_path / "run", previews=False).finished
    log = read_log(tmp_path / "run")[-1]
    hidden = (log["distance/state-1"] + log["distance/state-0"]) / 2
    assert log["distance/efflite0"] > 0
    assert log["loss"] == pytest.approx(log["distance/image"] + hidden + 0.5 * log["distance/efflite0"], rel=1e-5)


@pytest.mark.slow
def test_parts_of_a_step_add_up_to_it(flow, folder, tmp_path):  # noqa: F811
    """With more images than the embedded encoder compares, one micro-batch or four train the same model."""
    logs = []
    for parts in (1, 4):
        run = config(flow, folder, steps=3, perceptual={"efflite0": 0.5}, adaptive_power=0.5)
        run = run.replace(train=run.train.replace(batch_size=64, accumulation=parts, log_every=1).model_dump())
        run_training(run, tmp_path / str(parts), previews=False)
        logs.append([line for line in read_log(tmp_path / str(parts)) if "loss" in line])
    for one, four in zip(*logs, strict=True):
        for name in ("loss", "distance/efflite0", "distance/image", "grad_norm"):
            assert four[name] == pytest.approx(one[name], rel=2e-3), name


def test_what_is_compiled_trains_guided_models_too(flow, folder, tmp_path, monkeypatch):  # noqa: F811
    calls = []

    def compiled(self):
        self._compiled_call_impl = lambda *a, **k: calls.append(type(self).__name__) or self._call_impl(*a, **k)

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    run = config(flow, folder, steps=3, max_guidance=0.5)
    run_training(run.replace(train=run.train.replace(compile=True).model_dump()), tmp_path, previews=False)
    assert len(calls) >= 4 * 2 * 3 and set(calls) == {"BidirectionalLayer"}  # trial and steps, guided and not, 3 layers


@pytest.mark.slow
def test_the_command_line(flow, folder, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    settings = ["train.steps=3", "train.batch_size=16", "model.max_guidance=0.5", "student.adaptive_power=0.5"]
    words = [word for setting in settings for word in ("--set", setting)]
    line = ["train", "--invert", str(flow), "--data", str(folder), "--out", str(out), "--no-previews", *words]
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 0, answer.output
    kept = checkpoint.latest(out).state["run"]
    assert (kept["student"]["adaptive_power"], kept["model"]["max_guidance"]) == (0.5, 0.5)
    answer = CliRunner().invoke(app, ["sample", str(out), "--out", str(tmp_path / "images"), "--num", "4"])
    assert answer.exit_code == 0, answer.output
    assert len(list((tmp_path / "images" / "images").glob("*.png"))) == 4
    apart = ["sample", str(out), "--out", str(tmp_path / "apart"), "--num", "4", "--guidance", "0.4"]
    assert CliRunner().invoke(app, [*apart, "--denoiser-guidance", "0"]).exit_code == 0
    for where, guidance in (("apart", [0.4, 0.4, 0.0]), ("images", 0.0)):
        drawn = sample(find_sampler(out), 4, torch.tensor([0, 1, 0, 1]), guidance, seed=0)
        drawn_there = np.asarray(Image.open(tmp_path / where / "images" / "00000.png"))
        assert np.array_equal(drawn_there, to_uint8(drawn)[0, 0].numpy())
    for words, message in (
        (["--align", "reverse"], "do not apply to a student"),
        (["--preset", "fashion-16"], "leave them out, or give a student's --preset: biflow-16-w64-naive"),
        (["--set", "model.num_blocks=3"], "num_blocks (2 and 3)"),
        (["--set", "student.perceptual={lpips: 1.0}"], "vgg16-397923af.pth is not on this machine"),
        (["--set", "student.strategy=hidden-distillation"], "needs a model with handover 'state'"),
        (["--set", "align.weight=1"], "with section model, data, train, student"),
    ):
        answer = CliRunner().invoke(app, [*line[:5], "--out", str(tmp_path / "no"), *words])
        assert answer.exit_code == 2 and message in answer.output, (words, answer.output)
        assert not (tmp_path / "no" / "checkpoints").exists()


def test_a_file_with_a_flow_trains_its_student(flow, folder, tmp_path):  # noqa: F811
    """So the config.yaml of a run, as its --config, says the same run; a flow's file says a flow's."""
    run, file = config(flow, folder, max_guidance=1.0, perceptual={"efflite0": 0.5}), tmp_path / "run.yaml"
    for made in (run, run_config(folder)):
        file.write_text(yaml.safe_dump(made.model_dump(mode="json")))
        assert configure_run(file=file) == made
    with pytest.raises(ValueError, match=r"--preset was 'fashion-small' and --config .*run\.yaml; give one of them"):
        configure_run("fashion-small", file)  # a flow's file, whose sections a preset would not change
    with pytest.raises(ValueError, match="as in  lab train --preset biflow-16-w64-guided --invert runs/itarflow-16"):
        configure_run("biflow-16-w64-guided")
    file.write_text(yaml.safe_dump({**run.model_dump(mode="json"), "flow": "nowhere"}))
    assert configure_run(file=file, invert=str(flow)) == run
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere'"):
        configure_run(file=file)
    for changes, options, message in (
        ({"flow": 3}, {}, "flow was 3; give a zoo name, a run's folder or a saved model"),
        ({"flow": None}, {}, "flow was None"),
        ({}, {"align": "reverse"}, "do not apply to a student"),
        ({}, {"preset": "fashion-medium"}, "do not apply to a student"),
        ({"align": {}}, {}, "unknown sections .'align'.; a run has model, data, train, student"),
    ):
        file.write_text(yaml.safe_dump({**run.model_dump(mode="json"), **changes}))
        with pytest.raises(ValueError, match=message):
            configure_run(file=file, **options)


def test_files_and_checkpoints_of_earlier_versions_are_read_by_the_present_names(flow, folder, tmp_path):  # noqa: F811
    run = config(flow, folder, strategy="naive", adaptive_power=0.5)
    values = run.model_dump(mode="json")
    former = {{"student": "inversion"}.get(name, name): section for name, section in values.items()}
    assert "student" not in former and StudentRunConfig(**former) == run
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(former))
    assert configure_run(file=file) == run
    changed = configure_run(file=file, settings=["inversion.adaptive_power=0.25"])
    assert changed.student == run.student.replace(adaptive_power=0.25)
    assert same_run.changes(former, values) == []
    assert same_run.changes(former, changed.model_dump(mode="json")) == ["student.adaptive_power was 0.5, now 0.25"]
    with pytest.raises(ValueError, match="inversion is the former name of student: give student alone"):
        StudentRunConfig(**former, student={})


@pytest.mark.slow
def test_the_command_line_goes_on_with_the_file_of_a_run(flow, folder, tmp_path):  # noqa: F811
    run, file = config(flow, folder), tmp_path / "run.yaml"
    run_training(run, tmp_path / "calm", previews=False)
    with unplugged(6):
        run_training(run, tmp_path / "rough", previews=False)
    file.write_text(yaml.safe_dump(run.model_dump(mode="json")))
    for own in (file, tmp_path / "rough" / "config.yaml"):  # goes on, and then has nothing left to do
        line = ["train", "--config", str(own), "--out", str(tmp_path / "rough"), "--no-previews"]
        answer = CliRunner().invoke(app, line)
        assert answer.exit_code == 0 and "done: 12 steps" in answer.output, answer.output
        assert_same_run(tmp_path / "calm", tmp_path / "rough")
    file.write_text(yaml.safe_dump({**run.model_dump(mode="json"), "flow": 3}))
    answer = CliRunner().invoke(app, [*line[:2], str(file), "--out", str(tmp_path / "no")])
    assert answer.exit_code == 2 and "run.yaml: flow was 3" in answer.output and not (tmp_path / "no").exists()


def test_what_nothing_says_follows_the_flow(tmp_path):
    found = configure_student("fashion-tarflow", "biflow-16-w96-guided")
    assert (found.model.image_size, found.model.tokens, found.data.name) == (28, 49, "fashion-mnist")
    assert (found.model.width, found.model.max_guidance, found.train.steps) == (96, 0.5, 600)
    found = configure_student("fashion-tarflow")
    assert (found.model.width, found.model.num_blocks, found.model.num_states) == (64, 8, 9)
    assert (found.data.name, found.data.image_size) == ("fashion-mnist", None)  # those of the run that made it
    found = configure_student("fashion-tarflow", data="fashion-mnist-12k", settings=["train.steps=40"])
    assert (found.data.name, found.data.image_size, found.data.channels) == ("fashion-mnist-12k", 28, 1)
    assert (found.train.steps, found.train.warmup_steps) == (40, 10)
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"model": {"width": 32, "head_dim": 16}, "student": {"strategy": "naive"}}))
    found = configure_student("fashion-tarflow", file=file)
    assert (found.model.width, found.model.layers_per_block, found.student.strategy) == (32, 2, "naive")


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "strategy"), [("ddp", "naive"), ("ddp", "hidden-alignment"), ("fsdp2", "naive")])
def test_two_processes_equal_one(flow, folder, tmp_path, parallel, strategy):  # noqa: F811
    """gloo on the CPU, by the command line: the same curves to rounding, although "naive" leaves heads without a gradient."""
    run = config(flow, folder, strategy=strategy, max_guidance=1.0)
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(run.model_dump(mode="json")))
    for n in (1, 2):
        words = [
            "train",
            "--invert",
            str(flow),
            "--config",
            str(file),
            "--out",
            str(tmp_path / str(n)),
            "--no-previews",
        ]
        words += ["--num-processes", str(n), "--set", f"train.parallel={parallel}"]
        done = subprocess.run(
            [sys.executable, "-m", "labcore.cli", *words], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
    logs = [read_log(tmp_path / str(n)) for n in (1, 2)]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]]
    for a, b in zip(*logs, strict=True):
        for key in ("loss", "distance/image", "grad_norm"):
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-5), key
