"""Training that does not belong to the notebook: found again, stopped, resumed, and honest about how it ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import test_distillation
import test_training
import torch
import yaml
from conftest import perturbed
from test_training import assert_same_run, run_config

from labcore import BackwardModel
from labcore.locks import locked
from labcore.nn.pretrained import read_tensors
from labcore.processes import birth
from labcore.provenance import weights_hash
from labcore.runs import detached
from labcore.runs.background import TrainingStopped, train_streamed
from labcore.runs.models import find_model
from labcore.runs.train import run_training
from labcore.train import checkpoint
from labcore.train.launch import Nodes, nodes_of, wait_for
from labcore.train.log import read_log
from labcore.train.step import Steps

flow = test_distillation.flow
folder = test_training.folder
one_thread = test_training.one_thread


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_until(true, seconds: float = 400) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def start(folder: Path, code: str) -> subprocess.Popen:
    process = detached.start(folder, python(code), os.environ, {"a": 1})
    assert process is not None
    return process


# a command that outlives whoever started it


def test_lines_and_status_are_recorded(tmp_path):
    process = start(tmp_path, "print('one'); print('two'); print('no end', end=''); raise SystemExit(3)")
    seen = []
    assert detached.Output(tmp_path).stream(seen.append) == 3
    assert seen == ["one", "two", "no end"]
    record = detached.read(tmp_path)
    assert (record["status"], record["about"], record["host"]) == (3, {"a": 1}, socket.gethostname())
    assert process.wait(10) == 0 and not detached.running(tmp_path)
    start(tmp_path, "print('three')")  # a second attempt: its own lines only
    seen = []
    assert detached.Output(tmp_path).stream(seen.append) == 0
    assert seen == ["three"] and detached.last_lines(tmp_path) == "three"
    assert (tmp_path / "train.out").read_text() == "one\ntwo\nno endthree\n"


def test_only_one_runs_in_a_folder(tmp_path):
    start(tmp_path, "import time; print('up', flush=True); time.sleep(60)")
    late = lambda: pytest.fail("wrote what the first one reads")  # noqa: E731
    assert detached.start(tmp_path, python("print('second')"), os.environ, None, late) is None
    assert detached.running(tmp_path)
    assert detached.stop(tmp_path, timeout=30)
    assert detached.read(tmp_path)["status"] == 143 and not detached.stop(tmp_path)
    assert "second" not in (tmp_path / "train.out").read_text()


def test_killed_without_a_word(tmp_path):
    process = start(tmp_path, "import time; time.sleep(60)")
    wait_until(lambda: len(family(process.pid)) == 2)
    for member in family(process.pid):
        member.kill()
    assert detached.Output(tmp_path).stream(print) is None
    assert not detached.running(tmp_path)
    start(tmp_path, "pass")
    assert detached.Output(tmp_path).stream(print) == 0


def test_a_number_used_again_is_not_mistaken(tmp_path):
    record = dict(command=[], about=None, host=socket.gethostname(), offset=0, began=0, status=None)
    (tmp_path / "train.json").write_text(json.dumps({**record, "pid": os.getpid(), "birth": "another boot 123"}))
    assert not detached.running(tmp_path) and not detached.ask_to_stop(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps({**record, "host": "elsewhere", "pid": 1, "birth": "x"}))
    assert not detached.running(tmp_path)  # nobody on that host holds the lock
    with locked(tmp_path / "train.lock"):
        assert detached.running(tmp_path)
        with pytest.raises(OSError, match="runs on elsewhere; stop process 1 there"):
            detached.ask_to_stop(tmp_path)
    (tmp_path / "train.json").write_text("{")
    assert detached.read(tmp_path) is None and not detached.running(tmp_path)


def record_of(pid: int, born: str | None) -> str:
    """train.json of an attempt on this machine that has not ended."""
    record = dict(command=[], about=None, host=socket.gethostname(), offset=0, began=0, status=None)
    return json.dumps({**record, "pid": pid, "birth": born})


def test_a_copy_of_a_folder_does_not_run(tmp_path):
    """It names the process of the original, which a stop of the copy would have ended; its lock nobody holds."""
    original = subprocess.Popen(python("import time; time.sleep(60)"))
    try:
        (tmp_path / "train.json").write_text(record_of(original.pid, birth(original.pid)))
        assert not detached.running(tmp_path) and not detached.stop(tmp_path, timeout=1)
        (tmp_path / "train.lock").touch()
        assert not detached.running(tmp_path) and not detached.ask_to_stop(tmp_path)
        assert original.poll() is None
    finally:
        original.kill()
        original.wait()


def test_a_process_of_another_container_with_this_host_name_runs(tmp_path, monkeypatch):
    """It has another number there, or none here: the lock is held, so it is followed, and no process here gets its signal."""
    monkeypatch.setattr(detached, "WAIT", 0.1)
    (tmp_path / "train.json").write_text(record_of(os.getpid(), "another start 1"))
    with locked(tmp_path / "train.lock"):
        assert detached.running(tmp_path)
        assert detached.start(tmp_path, python("pass"), os.environ, None) is None
        with pytest.raises(OSError, match=f"runs on {socket.gethostname()}; stop process {os.getpid()} there"):
            detached.ask_to_stop(tmp_path)
    assert not detached.running(tmp_path)


def test_a_long_past_is_shortened(tmp_path):
    start(tmp_path, "for i in range(500): print(i)").wait(30)
    seen = []
    detached.Output(tmp_path, again=True).stream(seen.append)
    assert len(seen) == 201 and seen[0].startswith("... 300 earlier lines in") and seen[-1] == "499"


# which machines


def test_nodes_from_words_and_from_the_environment():
    slurm = dict(SLURM_NNODES="4", SLURM_NODEID="3")
    assert nodes_of(environment={}) == nodes_of(environment=slurm) == Nodes()
    assert nodes_of(environment={**slurm, "MASTER_ADDR": "n0"}) == Nodes(4, 3, "n0:29500")
    usual = dict(NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1", MASTER_PORT="1234")
    assert nodes_of(environment=usual) == Nodes(2, 1, "10.0.0.1:1234")
    assert nodes_of(2, 0, "here:5000", {}) == Nodes(2, 0, "here:5000")
    assert nodes_of(1, environment=usual) == Nodes()
    assert nodes_of(environment={**usual, "TORCHELASTIC_RUN_ID": "x"}) == Nodes()  # inside a launch


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, None, None, {}), "nodes was 0"),
        ((2, None, "a:1", {}), "node_rank was None; of 2 nodes it is 0..1"),
        ((2, 2, "a:1", {}), "node_rank was 2"),
        ((2, 0, None, {}), "rendezvous was None; give the same HOST:PORT"),
        ((2, 0, "host", {}), "rendezvous was 'host'"),
        ((None, None, None, {"NNODES": "two"}), "NNODES is 'two'; it needs a whole number"),
    ],
)
def test_mistakes_about_nodes(given, message):
    with pytest.raises(ValueError, match=message):
        nodes_of(*given)


# training in place


def test_one_process_trains_in_place(folder, tmp_path):
    config = run_config(folder, steps=10)
    result = train_streamed(config, tmp_path, previews=False)
    assert (result.step, result.finished) == (10, True)
    assert not (tmp_path / "train.json").exists() and read_log(tmp_path)[-1]["step"] == 10


def test_one_process_that_stops_is_not_taken_for_done(folder, tmp_path, monkeypatch):
    real = Steps.take

    def interrupt_at(self, batches):
        if self.state.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batches)

    monkeypatch.setattr(Steps, "take", interrupt_at)
    with pytest.raises(TrainingStopped, match="stopped and saved at step 5 of 10; run the cell again to resume"):
        train_streamed(run_config(folder, steps=10), tmp_path, previews=False)
    monkeypatch.setattr(Steps, "take", real)
    monkeypatch.setattr("labcore.runs.background.datasets", None)  # the training reads its data itself, once
    assert train_streamed(run_config(folder, steps=10), tmp_path, previews=False).finished


def test_mistakes_are_raised_before_anything_starts(folder, tmp_path):
    for changes, processes, message in (
        (dict(batch_size=48, accumulation=3), 5, "does not divide into 3 micro-batches on 5 processes"),
        (dict(), -1, "num_processes was -1"),
    ):
        with pytest.raises(ValueError, match=message):
            train_streamed(run_config(folder, steps=10, **changes), tmp_path, processes)
    assert not list(tmp_path.iterdir())


def test_an_inverse_in_place_is_that_of_run_inversion(flow, folder, tmp_path):
    config = test_distillation.config(flow, folder)
    result = train_streamed(config, tmp_path / "streamed", previews=False)
    assert (result.step, result.finished) == (12, True) and isinstance(result.ema, BackwardModel)
    run_training(config, tmp_path / "plain", previews=False)
    assert_same_run(tmp_path / "streamed", tmp_path / "plain")
    assert not (tmp_path / "streamed" / "train.json").exists()


def test_mistakes_about_an_inverse_are_raised_before_anything_starts(flow, folder, tmp_path):
    config = test_distillation.config(flow, folder)
    for changes, error, message in (
        (dict(flow="nowhere"), FileNotFoundError, "no folder 'nowhere'"),
        (dict(model={**test_distillation.FLOW, "num_blocks": 3}), ValueError, r"differ in num_blocks \(2 and 3\)"),
        (dict(train=dict(steps=4, batch_size=15)), ValueError, "give a multiple of 2"),
    ):
        for processes in (1, 2) if "train" not in changes else (2,):
            with pytest.raises(error, match=message):
                train_streamed(config.replace(**changes), tmp_path, processes)
    assert not list(tmp_path.iterdir())


# training in the background


def test_an_inverse_that_runs_is_found_by_the_weights_of_its_flow(folder, tmp_path, request):
    """A finished one, and beside it a process that says it is training it."""
    teacher, run, enough, lines = tmp_path / "flow", tmp_path / "run", tmp_path / "enough", []
    weights = weights_hash(
        find_model(perturbed(dtype=torch.float32, **test_distillation.FLOW).save_pretrained(teacher))
    )
    config = test_distillation.config(teacher, folder, steps=4)
    run_training(config, run, previews=False)
    about = checkpoint.latest(run).state["run"]
    assert about["flow"] == weights
    work = f"import os, time\nprint('at work', flush=True)\nwhile not os.path.exists({str(enough)!r}): time.sleep(0.05)"
    assert detached.start(run, python(work), os.environ, about)
    request.addfinalizer(enough.touch)  # it must not outlive a test that fails
    perturbed(dtype=torch.float32, seed=1, **test_distillation.FLOW).save_pretrained(teacher)
    with pytest.raises(ValueError, match=rf"another training runs in .* \(flow was '{weights}', now "):
        train_streamed(config, run, 2, show=lines.append)
    perturbed(dtype=torch.float32, **test_distillation.FLOW).save_pretrained(teacher)
    found = train_streamed(
        config, run, 2, show=lambda line: lines.append(line) or (line == "at work" and enough.touch())
    )
    assert lines[0].startswith("found the training that began in") and lines[1:] == ["at work"]
    assert (found.step, found.finished) == (4, True) and isinstance(found.ema, BackwardModel)


LONG = dict(steps=100_000, save_every=50_000, eval_every=50_000, log_every=20)
SHORT = dict(steps=100, save_every=10, eval_every=100, log_every=10)


@pytest.fixture(scope="module")
def two_processes(folder, tmp_path_factory) -> tuple[Path, list[str]]:
    """An undisturbed run on two processes, and the lines that its cell showed."""
    run, lines = tmp_path_factory.mktemp("two") / "run", []
    result = train_streamed(run_config(folder, **SHORT), run, 2, previews=False, show=lines.append)
    assert (result.step, result.finished) == (100, True)
    saved = read_tensors(run / "model" / "model.safetensors")
    assert all(torch.equal(v, saved[k]) and not v.requires_grad for k, v in result.ema.named_parameters())
    return run, lines


def kernel(config: Path, run: Path) -> subprocess.Popen:
    """A notebook's cell in a process of its own."""
    code = (
        "import signal, yaml\nfrom labcore.config import RunConfig\nfrom labcore.runs.background import train_streamed\n"
        # a kernel listens to interrupts, also if a shell started the tests in the background and ignores them there
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"config = RunConfig(**yaml.safe_load(open({str(config)!r})))\n"
        f"train_streamed(config, {str(run)!r}, 2, previews=False)\n"
    )
    return subprocess.Popen(
        python(code), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_two_processes_in_the_background(folder, two_processes, tmp_path):
    run, lines = two_processes
    assert sum(line.startswith("step 100/100") for line in lines) == 1
    assert sum(line.startswith("done: 100 steps") for line in lines) == 1  # the first process speaks for all
    record = detached.read(run)
    assert record["status"] == 0 and not (run / "previews").exists()
    again = train_streamed(run_config(folder, **SHORT), run, 2, previews=False)
    assert again.finished and detached.read(run) == record  # nothing was started
    with pytest.raises(ValueError, match=r"holds step 100 of another run \(train.lr was 0.003, now 0.001\)"):
        train_streamed(run_config(folder, lr=1e-3, **SHORT), run, 2)
    alone = train_streamed(run_config(folder, **SHORT), tmp_path, previews=False).folder
    for a, b in zip(read_log(run), read_log(alone), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_two_processes_train_an_inverse_in_the_background(flow, folder, tmp_path):
    config, run, lines = test_distillation.config(flow, folder, max_guidance=1.0), tmp_path / "two", []
    result = train_streamed(config, run, 2, previews=False, show=lines.append)
    assert (result.step, result.finished) == (12, True) and isinstance(result.ema, BackwardModel)
    assert sum(line.startswith("done: 12 steps") for line in lines) == 1
    saved = read_tensors(run / "model" / "model.safetensors")
    assert all(torch.equal(v, saved[k]) and not v.requires_grad for k, v in result.ema.named_parameters())
    record = detached.read(run)
    about, trained = record["about"], checkpoint.latest(run).state["run"]
    assert about["model"].pop("class_names") is None and trained["model"].pop("class_names") == ["class0", "class1"]
    assert record["status"] == 0 and about == trained  # the data's names were added when they were read
    record = detached.read(run)
    assert (
        train_streamed(config, run, 2, previews=False).finished and detached.read(run) == record
    )  # nothing was started
    other = perturbed(dtype=torch.float32, seed=1, **test_distillation.FLOW).save_pretrained(tmp_path / "flow")
    with pytest.raises(ValueError, match=r"holds step 12 of another run \(flow was"):
        train_streamed(config.replace(flow=str(other)), run, 2)
    alone = train_streamed(config, tmp_path / "one", previews=False).folder
    for a, b in zip(read_log(run), read_log(alone), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-5)


def test_a_signal_that_comes_before_the_child_is_handed_on():
    """Whoever finds the run by its record may stop it at once."""
    before = signal.getsignal(signal.SIGTERM)
    ready = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    assert wait_for(python("import time; time.sleep(60)"), os.environ, ready) == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_restarted_kernel_finds_it_and_an_interrupt_stops_it(folder, tmp_path, request):
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(run_config(folder, **LONG).model_dump(mode="json")))
    first = kernel(config, run)
    request.addfinalizer(lambda: detached.ask_to_stop(run))  # 100,000 steps must not outlive a test that fails
    assert any(line.startswith("step 20/100000") for line in first.stdout)  # waits until the cell has shown it
    wait_until(lambda: len(read_log(run)) > 1)
    os.killpg(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    pid = detached.read(run)["pid"]
    with pytest.raises(ValueError, match=r"another training runs in .* \(train.lr was 0.003, now 0.001\)"):
        train_streamed(run_config(folder, lr=1e-3, **LONG), run, 2)
    second = kernel(config, run)
    shown = [second.stdout.readline() for _ in range(3)]
    assert shown[0].startswith("found the training that began in"), shown
    assert shown[1].startswith("precision fp32") and shown[2].startswith("step 20/100000"), shown
    assert detached.read(run)["pid"] == pid and detached.running(run)
    second.send_signal(signal.SIGINT)
    rest = second.communicate(timeout=400)[0]
    assert second.returncode != 0 and "interrupted: the training saves and stops" in rest
    assert "TrainingStopped: stopped and saved at step" in rest, rest[-3000:]
    assert detached.read(run)["status"] == 143 and checkpoint.latest(run).step > 10
    assert "Traceback" not in (run / "train.out").read_text()  # neither torch's nor ours


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["everyone", "the one who looks after it"])
def test_killed_and_run_again_it_ends_the_same(folder, two_processes, tmp_path, whom):
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(run_config(folder, **SHORT).model_dump(mode="json")))
    cell = kernel(config, run)
    wait_until(lambda: len(read_log(run)) >= 3)
    members = family(detached.read(run)["pid"])
    assert len(members) == 4
    for member in members if whom == "everyone" else members[:1]:
        member.kill()
    output = cell.communicate(timeout=400)[0]
    assert cell.returncode == 1 and "was killed" in output and "Run the cell again" in output, output[-2000:]
    seen = []
    assert train_streamed(run_config(folder, **SHORT), run, 2, previews=False, show=seen.append).finished
    assert not any(line.startswith("step 10/") for line in seen)  # it resumed
    assert_same_run(run, two_processes[0])
    assert not any(member.is_running() and member.status() != "zombie" for member in members)


@pytest.mark.slow
def test_a_failure_shows_the_last_lines(folder, tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(RuntimeError, match=r"ended with status 2, 0 of 100 steps saved") as error:
        train_streamed(run_config(folder, **SHORT), tmp_path, 2, previews=False, show=lambda line: None)
    assert "Is a directory" in str(error.value) and "Run the cell again" in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.slow
def test_two_nodes_equal_one_process(folder, tmp_path):
    """Two launchers on this machine, one process each, meeting on 127.0.0.1."""
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run_config(folder, steps=20, log_every=1, save_every=10).model_dump(mode="json")))
    base = [sys.executable, "-m", "labcore.cli", "train", "--config", str(config), "--no-previews", "--out"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*base, str(tmp_path / "2"), "--nodes", "2", "--rendezvous", f"127.0.0.1:{port}"]
    nodes = [
        subprocess.Popen(
            [*words, "--node-rank", str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in (0, 1)
    ]
    outputs = [node.communicate(timeout=200)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert "done: 20 steps" in outputs[0] and "done" not in outputs[1]
    train_streamed(run_config(folder, steps=20, log_every=1, save_every=10), tmp_path / "1", previews=False)
    logs = [read_log(tmp_path / name) for name in ("1", "2")]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]] == list(range(1, 21))
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4, abs=1e-5)
