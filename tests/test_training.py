"""The loop: it learns, it resumes bit for bit, it stops cleanly, and it never loses what was saved."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from labcore import TarFlow
from labcore.config import RunConfig, TrainConfig
from labcore.kinds import FLOW
from labcore.kinds import flow as flow_kind
from labcore.nn.pretrained import read_tensors
from labcore.runs import train as train_module
from labcore.runs.models import find_model
from labcore.runs.train import initialised, run_training
from labcore.train import checkpoint, worker
from labcore.train.inputs import Inputs
from labcore.train.log import read_log
from labcore.train.optim import Ema, learning_rate
from labcore.train.step import Steps

MODEL = dict(
    image_size=8, channels=1, patch_size=2, width=16, num_blocks=2, layers_per_block=1, head_dim=8, num_classes=2
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bit equality holds at one number of threads; the killed process gets one too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """160 small pictures in two classes: bright in the upper or in the lower half."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for k in range(2):
        (root / f"class{k}").mkdir()
        for i in range(80):
            pixels = rng.integers(0, 90, (8, 8), dtype=np.uint8)
            pixels[4 * k : 4 * k + 4] += 150
            Image.fromarray(pixels).save(root / f"class{k}" / f"{i:03d}.png")
    return root


@contextlib.contextmanager
def unplugged(step: int):
    """Training within fails before this step is taken, as if the machine had gone."""
    real = Steps.take

    def fail_at(self, batches):
        if self.state.step == step:
            raise OSError("the plug was pulled")
        return real(self, batches)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="plug"):
        patch.setattr(Steps, "take", fail_at)
        yield


def run_config(folder: Path, **train) -> RunConfig:
    """Flips, noise, label dropout, EMA, and accumulation 3; three steps an epoch, so steps are mid-epoch often."""
    settings = dict(
        steps=40,
        batch_size=48,
        accumulation=3,
        lr=3e-3,
        warmup_steps=5,
        label_dropout=0.3,
        ema_decay=0.9,
        precision="fp32",
    )
    settings |= dict(log_every=7, eval_every=20, save_every=10, keep=2) | train
    data = dict(name="folder", path=str(folder), image_size=8, flip=True)
    return RunConfig(model=MODEL, data=data, train=settings)


def last_state(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint."""
    found = checkpoint.latest(run)
    training = checkpoint.read_training(found, torch.device("cpu"))
    tensors = {
        f"{kind}.{k}": v
        for kind in ("model", "ema")
        for k, v in read_tensors(found.path / kind / "model.safetensors").items()
    }
    for i, slots in training["optimizer"]["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in slots.items()}
    running = {f"running.{k}": v for k, v in training["running"].items() if not k.startswith("seconds")}
    return tensors | running


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, averages, optimizer and log, bit for bit (times aside)."""
    sa, sb = last_state(a), last_state(b)
    assert sa.keys() == sb.keys() and len(sa) > 40
    assert all(torch.equal(sa[k], sb[k]) for k in sa), [k for k in sa if not torch.equal(sa[k], sb[k])]
    logs = [[{k: v for k, v in r.items() if not k.startswith("seconds")} for r in read_log(run)] for run in (a, b)]
    assert logs[0] == logs[1] and len(logs[0]) > 5


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run_training(run_config(folder), run, previews=False).finished
    return run


def test_it_learns_and_leaves_what_it_says(undisturbed):
    log = read_log(undisturbed)
    assert [r["step"] for r in log] == [7, 14, 20, 21, 28, 35, 40]
    assert log[-1]["loss"] < log[0]["loss"] - 0.5
    wanted = {
        "loss",
        "nats_per_dim",
        "grad_norm",
        "grad_norm/block_1",
        "lr",
        "max_log_scale",
        "state_rms/block_1",
        "state_rms/block_2",
    }
    assert wanted <= log[0].keys()
    assert {"test_nats_per_dim", "round_trip_error"} <= log[-1].keys()
    assert log[-1]["round_trip_error"] < 1e-4
    assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == ["step-00000030", "step-00000040"]
    assert any((undisturbed / "tensorboard").iterdir())
    ema = TarFlow.from_pretrained(undisturbed / "model")
    assert all(torch.equal(v, last_state(undisturbed)[f"ema.{k}"]) for k, v in ema.state_dict().items())
    state = checkpoint.latest(undisturbed).state
    assert {"revision", "torch", "device", "precision", "run"} <= state.keys()


@pytest.mark.slow
def test_a_log_that_was_cut_is_said_on_resuming(folder, tmp_path):
    with unplugged(30):
        run_training(run_config(folder), tmp_path, previews=False)
    lines = (tmp_path / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_text("".join(lines[2:]))
    with pytest.warns(UserWarning, match=rf"has {len(lines) - 2} records up to step 30, and {len(lines)} were written"):
        assert run_training(run_config(folder), tmp_path, previews=False).finished


@pytest.mark.slow
def test_resumed_after_sigkill_equals_undisturbed(folder, undisturbed, tmp_path):
    """The same command, killed without warning between two checkpoints and in the middle of an epoch, and given again."""
    config, run = tmp_path / "run.yaml", tmp_path / "run"
    import yaml

    config.write_text(yaml.safe_dump(run_config(folder).model_dump(mode="json")))
    # the pause makes sure that the kill lands after step 20 and before step 40, whatever the machine
    code = (
        "import sys, time, labcore.train.log as log\n"
        "advance = log.RunLog.advance\n"
        "def slow(self, step):\n    advance(self, step)\n    time.sleep(0.3 if step >= 23 else 0)\n"
        "log.RunLog.advance = slow\n"
        "from labcore.cli.app import app\napp()\n"
    )
    command = [sys.executable, "-c", code, "train", "--config", str(config), "--out", str(run)]
    process = subprocess.Popen(command, env=dict(os.environ, OMP_NUM_THREADS="1"), stdout=subprocess.DEVNULL)
    until = time.time() + 120
    while not (run / "checkpoints" / "step-00000020").exists() and time.time() < until:
        time.sleep(0.01)
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = checkpoint.latest(run).step
    assert 20 <= step < 40
    assert run_training(run_config(folder), run, previews=False).finished
    assert_same_run(run, undisturbed)


@pytest.mark.slow
def test_sigterm_saves_and_returns(folder, undisturbed, tmp_path, monkeypatch):

    real = Steps.take

    def terminate_at(self, batches):
        if self.state.step == 16:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batches)

    monkeypatch.setattr(Steps, "take", terminate_at)
    before = signal.getsignal(signal.SIGTERM)
    result = run_training(run_config(folder), tmp_path, previews=False)
    assert (result.step, result.finished) == (17, False)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    assert run_training(run_config(folder), tmp_path, previews=False).finished
    assert_same_run(tmp_path, undisturbed)


def test_a_finished_run_is_left_alone(folder, undisturbed):
    before = {p: p.stat().st_mtime_ns for p in (undisturbed / "checkpoints").rglob("*")}
    log = (undisturbed / "log.jsonl").read_text()
    assert run_training(run_config(folder), undisturbed, previews=False).finished
    assert {p: p.stat().st_mtime_ns for p in (undisturbed / "checkpoints").rglob("*")} == before
    assert (undisturbed / "log.jsonl").read_text() == log


def test_a_damaged_checkpoint_is_passed_over(folder, undisturbed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    weights = run / "checkpoints" / "step-00000040" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.warns(
        UserWarning, match=r"step-00000040 is damaged: model/model.safetensors has .* Resuming from step-00000030"
    ):
        assert run_training(run_config(folder), run, previews=False).finished
    assert_same_run(run, undisturbed)
    for path in (run / "checkpoints").rglob("state.json"):
        path.write_text("{")
    with pytest.raises(ValueError, match=r"every checkpoint .* is damaged"):
        run_training(run_config(folder), run, previews=False)


def test_another_configuration_is_refused(folder, undisturbed):
    with pytest.raises(ValueError, match=r"holds step 40 of another run \(train.lr was 0.003, now 0.001\)"):
        run_training(run_config(folder, lr=1e-3), undisturbed, previews=False)
    assert run_training(run_config(folder, log_every=3, keep=5), undisturbed, previews=False).finished


def test_a_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(folder, tmp_path, monkeypatch):
    real = flow_kind.Likelihood.forward

    def explode(self, flow, batch, noise):
        loss, logs = real(self, flow, batch, noise)
        return (loss * float("nan") if noise.step == 13 else loss), logs

    monkeypatch.setattr(flow_kind.Likelihood, "forward", explode)
    with pytest.raises(FloatingPointError, match=r"finite at step 14\. The last good checkpoint is step-00000010"):
        run_training(run_config(folder), tmp_path, previews=False)
    good = checkpoint.latest(tmp_path)
    assert good.step == 10
    assert all(v.isfinite().all() for v in read_tensors(good.path / "model" / "model.safetensors").values())
    assert [r["step"] for r in read_log(tmp_path)] == [7]


@pytest.mark.slow
def test_a_full_disk_while_saving_loses_nothing(folder, tmp_path, monkeypatch):
    """A real failing write: files may not grow beyond 4 kB from the second save on."""
    real, limits = checkpoint.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(run, step, *rest):
        if step == 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            return real(run, step, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(checkpoint, "save", limited)
    with pytest.raises(OSError, match=r"could not save step 20 .* last good checkpoint is step-00000010; free space"):
        run_training(run_config(folder), tmp_path, previews=False)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]
    monkeypatch.undo()
    assert run_training(run_config(folder), tmp_path, previews=False).finished


@pytest.mark.slow
def test_pruning_leaves_alone_what_is_not_its_own(folder, tmp_path):
    run_training(run_config(folder, steps=40, save_every=10, keep=2), tmp_path / "a", previews=False)
    checkpoints = tmp_path / "a" / "checkpoints"
    for name in ("step-abc", "step-00000030-backup"):
        (checkpoints / name).mkdir()
    (checkpoints / "step-00000000.txt").write_text("mine")
    (checkpoints / "step-00000099").mkdir()  # a damaged one with a later number
    (checkpoints / "step-00000007.tmp").mkdir()  # left by a kill
    shutil.rmtree(checkpoints / "step-00000040")
    with pytest.warns(UserWarning, match="step-00000099 is damaged"):
        run_training(run_config(folder, steps=40, save_every=5, keep=1), tmp_path / "a", previews=False)
    left = sorted(p.name for p in checkpoints.iterdir())
    assert left == ["step-00000000.txt", "step-00000030-backup", "step-00000040", "step-00000099", "step-abc"]


def test_a_failing_evaluation_does_not_cost_the_steps(folder, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("a test image is corrupt")

    monkeypatch.setattr(type(FLOW), "evaluation", fail)
    with pytest.raises(ValueError, match="a test image is corrupt"):
        run_training(run_config(folder, save_every=100, eval_every=16), tmp_path, previews=False)
    assert checkpoint.latest(tmp_path).step == 16


@pytest.mark.slow
def test_bad_data_midway_does_not_cost_the_steps(folder, tmp_path, undisturbed, monkeypatch):
    """The second micro-batch of step 17 cannot be read; after the repair the run ends as if nothing had been."""

    real, calls = Inputs.batch, []

    def fail_once(self, read, noise):
        calls.append(1)
        if len(calls) == 3 * 16 + 2:
            raise ValueError("broken.png cannot be read")
        return real(self, read, noise)

    monkeypatch.setattr(Inputs, "batch", fail_once)
    with pytest.raises(ValueError, match=r"broken\.png"):
        run_training(run_config(folder), tmp_path, previews=False)
    assert checkpoint.latest(tmp_path).step == 16
    monkeypatch.undo()
    assert run_training(run_config(folder), tmp_path, previews=False).finished
    assert_same_run(tmp_path, undisturbed)


def test_weights_that_are_not_finite_are_never_saved(folder, tmp_path):
    explosive = run_config(folder, lr=1e300, min_lr=0.0, warmup_steps=5, save_every=1, keep=1)
    with pytest.raises(FloatingPointError, match="stopped being finite"):
        run_training(explosive, tmp_path, previews=False)
    good = checkpoint.latest(tmp_path)
    assert all(v.isfinite().all() for v in read_tensors(good.path / "model" / "model.safetensors").values())


@pytest.mark.parametrize("damage", ["zeroed", "pickle", "empty", "state"])
def test_other_damage_is_passed_over_too(folder, undisturbed, tmp_path, damage):
    import pickle

    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    newest = run / "checkpoints" / "step-00000040"
    path, size = newest / "training.pt", (newest / "training.pt").stat().st_size
    if damage == "zeroed":
        path.write_bytes(bytes(size))
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(print).ljust(size, b"\0"))
    elif damage == "empty":
        torch.save({}, path)
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    else:
        (newest / "state.json").write_text("[]")
    with pytest.warns(UserWarning, match=r"step-00000040 is damaged.* Resuming from step-00000030"):
        assert checkpoint.latest(run).step == 30


def test_a_folder_that_cannot_be_written_is_refused_at_once(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to"):
        run_training(run_config(folder), tmp_path / "file" / "run", previews=False)


def test_two_runs_in_one_folder_are_refused(folder, tmp_path):
    with checkpoint.lock_folder(tmp_path), pytest.raises(OSError, match="another process is training in"):
        run_training(run_config(folder), tmp_path, previews=False)
    with checkpoint.lock_folder(tmp_path):  # the lock was given back
        pass


def test_a_trial_step_changes_nothing(folder, tmp_path, monkeypatch):
    """precision="auto" tries a step; a volume-preserving flow's prior, learned from batches, must not notice."""
    model = dict(MODEL, volume_preserving=True)
    seen = []
    real = train_module.train
    monkeypatch.setattr(train_module, "train", lambda flow, *a, **k: seen.append(flow) or real(flow, *a, **k))
    config = run_config(folder, steps=6, warmup_steps=1, precision="fp32")
    run_training(RunConfig(**{**config.model_dump(), "model": model}), tmp_path / "a", previews=False)
    monkeypatch.setattr("labcore.train.precision.resolve", lambda precision, device, step: step(None) or "fp32")
    config = run_config(folder, steps=6, warmup_steps=1, precision="auto")
    run_training(RunConfig(**{**config.model_dump(), "model": model}), tmp_path / "b", previews=False)
    assert torch.equal(seen[0].prior_var, seen[1].prior_var)
    assert (seen[0].prior_var - 1).abs().max() > 0.05


def test_data_that_does_not_fit_the_model(folder, tmp_path):
    config = run_config(folder)
    for changes, message in (
        (dict(model=dict(MODEL, image_size=16)), "images are 1 x 8 x 8, the model takes 1 x 16 x 16"),
        (dict(model=dict(MODEL, channels=3)), "the model takes 3 x 8 x 8"),
        (dict(model=dict(MODEL, num_classes=7)), "2 classes and the model 7"),
        (dict(train=dict(steps=5, batch_size=500)), "allowed are 1..144"),
    ):
        with pytest.raises(ValueError, match=message):
            run_training(RunConfig(**{**config.model_dump(), **changes}), tmp_path, previews=False)


def test_fp16_needs_cuda(folder, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match="'fp16' needs a CUDA device"):
        run_training(run_config(folder, precision="fp16"), tmp_path, previews=False)


@pytest.mark.slow
def test_bf16_trains_and_auto_is_remembered(folder, tmp_path):
    assert run_training(
        run_config(folder, steps=10, save_every=5, precision="bf16"), tmp_path / "a", previews=False
    ).finished
    assert read_log(tmp_path / "a")[-1]["loss"] < 3
    run_training(run_config(folder, steps=10, precision="auto"), tmp_path / "b", previews=False)
    assert checkpoint.latest(tmp_path / "b").state["precision"] in ("bf16", "fp32")


def test_compile_falls_back_with_one_message(folder, tmp_path, monkeypatch):
    def no_compiler(self, *_, **__):
        self._compiled_call_impl = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("No working C++ compiler found"))

    monkeypatch.setattr(torch.nn.Module, "compile", no_compiler)
    with pytest.warns(
        UserWarning, match="torch.compile does not work here .*C\\+\\+ compiler.*going on without it"
    ) as seen:
        assert run_training(run_config(folder, steps=10, compile=True), tmp_path, previews=False).finished
    assert len([w for w in seen if "compile" in str(w.message)]) == 1


def test_accumulation_changes_nothing_but_rounding(folder, tmp_path, undisturbed):
    run_training(run_config(folder, accumulation=1), tmp_path, previews=False)
    pairs = [
        (a["loss"], b["loss"]) for a, b in zip(read_log(tmp_path), read_log(undisturbed), strict=True) if "loss" in a
    ]
    assert len(pairs) == 6
    for a, b in pairs:
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.slow
def test_previews_and_finding_the_model(folder, undisturbed, tmp_path):
    run_training(run_config(folder, steps=10, eval_every=10), tmp_path)
    width, height = Image.open(tmp_path / "previews" / "step-00000010.png").size
    assert width == (2 * 10 - 2) * 2 and height > (4 * 10 - 2) * 2  # the names of the classes stand above
    for source in (undisturbed, undisturbed / "model", undisturbed / "checkpoints" / "step-00000040"):
        found = find_model(source).state_dict()
        assert all(torch.equal(v, last_state(undisturbed)[f"ema.{k}"]) for k, v in found.items())


def test_initialisation_is_a_function_of_the_seed(folder):
    state = torch.get_rng_state()
    a, b, c = (initialised(TarFlow, run_config(folder, seed=s)).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["blocks.0.position"], c["blocks.0.position"])


def test_schedule():
    config = TrainConfig(steps=110, warmup_steps=10, lr=1e-3, min_lr=1e-5)
    assert learning_rate(0, config) == 1e-5
    assert learning_rate(10, config) == 1e-3
    assert learning_rate(60, config) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(110, config) == pytest.approx(1e-5)


def test_ema_ramp():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = Ema(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema.update(model, 1)  # decay min(0.5, 2 / 11)
    assert ema.model.weight.item() == pytest.approx(9 / 11)
    ema.update(model, 100)  # decay 0.5
    assert ema.model.weight.item() == pytest.approx(10 / 11)


def test_a_log_cut_short_is_read(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(tmp_path) == [{"step": 1}, {"step": 2}]
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe garbage')
    assert read_log(tmp_path) == [{"step": 1}]
    (tmp_path / "log.jsonl").write_text('{"step": 1}\nnoise\n[]\n{"step": "a"}\n{"step": 2}\n')
    assert read_log(tmp_path) == [{"step": 1}, {"step": 2}]


@pytest.mark.slow
def test_two_processes_equal_one(folder, tmp_path):
    """gloo on the CPU: the same loss curve as one process, to float32 rounding; the command line starts both."""
    import yaml

    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run_config(folder, steps=20, log_every=1, save_every=10).model_dump(mode="json")))
    base = [sys.executable, "-m", "labcore.cli", "train", "--config", str(config), "--out"]
    for n in (1, 2):
        done = subprocess.run(
            [*base, str(tmp_path / str(n)), "--num-processes", str(n)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
    logs = [read_log(tmp_path / str(n)) for n in (1, 2)]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]]
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4, abs=1e-5)
    assert not (tmp_path / "2" / "checkpoints" / "step-00000020.tmp").exists()
    assert json.loads((tmp_path / "2" / "checkpoints" / "step-00000020" / "state.json").read_text())["step"] == 20


@pytest.mark.parametrize(("status", "left"), [(0, True), (143, True), (2, False)])
def test_a_process_that_fails_does_not_wait_for_the_others(monkeypatch, status, left):
    """The group is left by all processes together; one that fails would wait for others that wait for it."""
    calls = []

    def command(*_, **__):
        raise SystemExit(status)

    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    monkeypatch.setattr(worker.signal, "pthread_sigmask", lambda *_: None)
    monkeypatch.setattr(worker.runpy, "run_module", command)
    monkeypatch.setattr(sys, "argv", ["worker", "labcore.cli"])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append(1))
    with pytest.raises(SystemExit) as end:
        worker.main()
    assert (end.value.code, bool(calls)) == (status, left)


@pytest.mark.slow
def test_two_processes_stop_together_on_sigterm(folder, tmp_path):
    import yaml

    config = tmp_path / "run.yaml"
    config.write_text(
        yaml.safe_dump(run_config(folder, steps=100_000, save_every=1000, eval_every=10_000).model_dump(mode="json"))
    )
    command = [sys.executable, "-m", "labcore.cli", "train", "--config", str(config), "--out", str(tmp_path / "run")]
    process = subprocess.Popen([*command, "--num-processes", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.time() + 120
    while not read_log(tmp_path / "run") and time.time() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert checkpoint.latest(tmp_path / "run").step > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_leaves_readers_at_work_until_it_is_saved(folder, tmp_path, number):
    """As `timeout`, a terminal or Slurm send it: the training finishes its step and saves, which its readers must outlive."""
    import yaml

    config, run = tmp_path / "run.yaml", tmp_path / "run"
    settings = dict(steps=100_000, save_every=1000, eval_every=10_000, num_workers=2)
    config.write_text(yaml.safe_dump(run_config(folder, **settings).model_dump(mode="json")))
    command = [sys.executable, "-m", "labcore.cli", "train", "--config", str(config), "--out", str(run)]
    steps = []
    for hit in (number, signal.SIGKILL, number):  # what was killed leaves no reader that holds the folder
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        before, until = len(read_log(run)), time.time() + 120
        while len(read_log(run)) <= before and process.poll() is None and time.time() < until:
            time.sleep(0.2)
        if hit == signal.SIGKILL:
            process.kill()
            process.wait()
            continue
        os.killpg(process.pid, hit)
        said = process.communicate(timeout=60)[0].decode()
        assert process.returncode == 143, said[-2000:]
        steps.append(checkpoint.latest(run).step)
    assert 0 < steps[0] < steps[1]
