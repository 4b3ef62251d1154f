"""Runs as jobs: profiles and refusals, and whole sweeps through submitit's executor for this machine."""

import json
import os
import pickle
import signal
import time
from pathlib import Path

import pytest
import toys
from pydantic import ValidationError
from test_runs import expected, finished, result, toy_runs
from typer.testing import CliRunner

from labcore.campaigns import slurm, state
from labcore.campaigns.spec import load_spec
from labcore.cli.app import app

pytestmark = pytest.mark.usefixtures("as_users_run")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "papermill_runs" / "executed"


@pytest.fixture
def no_slurm(monkeypatch):
    """A machine without Slurm's commands."""
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)


def spec_of(tmp_path: Path):
    return load_spec(tmp_path / "papermill_runs" / "specs" / "toy.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu: 2", r"unknown key 'gpu' \(did you mean 'gpus'\?\)"),
        ("- partition", "holds list"),
        ("a: [", "is not YAML"),
    ],
)
def test_wrong_profiles_are_refused(tmp_path, text, message):
    spec = load_spec(toys.project(tmp_path))
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        slurm.load_profile(spec, "slurm", path)
    with pytest.raises(ValueError, match="there is no profile"):
        slurm.load_profile(spec, "slurm", tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "values", [{"minutes": "1:00"}, {"gpus": -1}, {"cpus": 0}, {"memory_gb": 1.5}, {"options": {"a": []}}]
)
def test_profile_values_are_checked(values):
    with pytest.raises(ValidationError):
        slurm.Profile(**values)


def test_a_profile_lies_beside_the_specs(tmp_path):
    spec = load_spec(toys.project(tmp_path))
    assert slurm.load_profile(spec, "slurm") == slurm.Profile()
    folder = tmp_path / "papermill_runs" / "profiles"
    folder.mkdir()
    (folder / "slurm.yaml").write_text(
        "partition: long\nminutes: 90\nsetup: [module load cuda]\noptions: {mail-type: FAIL}\n"
    )
    profile = slurm.load_profile(spec, "slurm")
    assert (profile.partition, profile.minutes, profile.setup) == ("long", 90, ("module load cuda",))


def test_the_shipped_profile_is_one():
    spec = load_spec("00_quickstart")
    assert (spec.project / "papermill_runs" / "profiles" / "slurm.yaml").is_file()
    assert slurm.load_profile(spec, "slurm").minutes > 0


def test_impossible_requests_are_refused(tmp_path, root, no_slurm):
    runs = toy_runs(tmp_path)
    with pytest.raises(ValueError, match="cluster was 'pbs'; it is one of slurm, local"):
        slurm.submit(spec_of(tmp_path), runs, root, "pbs", slurm.Profile())
    with pytest.raises(ValueError, match="Slurm's sbatch, srun, squeue is not on this machine"):
        slurm.submit(spec_of(tmp_path), runs, root, "slurm", slurm.Profile())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--detach"], "give --cluster slurm too"),
        (["--cluster", "local", "--jobs", "2"], "--jobs is for runs on this machine"),
        (["--cluster", "local", "--detach", "--publish"], "before there are results"),
    ],
)
def test_words_that_do_not_go_together(tmp_path, words, message):
    answer = CliRunner().invoke(app, ["run", str(toys.project(tmp_path)), *words])
    assert answer.exit_code == 2 and message in answer.output


def test_what_is_done_or_running_is_not_queued(tmp_path, root):
    first, second = toy_runs(tmp_path, seeds=[0, 1])
    finished(first, root)
    folder = state.prepare_run_folder(second, root).folder
    with state.lock_folder(folder):
        assert slurm.submit(spec_of(tmp_path), [first, second], root, "local", slurm.Profile()) == {}


def test_a_job_of_an_earlier_version_is_read(tmp_path):
    """submitit stores the object by the name of its module, which was labcore.runs.slurm."""
    stored = pickle.dumps(slurm.Job(tmp_path, threads=3), protocol=0)
    assert b"clabcore.campaigns.slurm\n" in stored
    job = pickle.loads(stored.replace(b"clabcore.campaigns.slurm\n", b"clabcore.runs.slurm\n"))
    assert isinstance(job, slurm.Job) and (job.folder, job.threads) == (tmp_path, 3)


def test_a_job_requests_the_devices_that_its_run_takes(tmp_path):
    """As many as it has processes; one at the smoke size, as on this machine."""
    (run,) = toy_runs(tmp_path)
    four = run._replace(parameters={"processes": 4})
    for one, gpus in ((run, 1), (four, 4), (four._replace(smoke=True), 1)):
        executor = slurm._executor(tmp_path / slurm.LOGS, "local", slurm.Profile(), [one], "toy")
        assert executor.parameters["gpus_per_node"] == gpus


def test_a_job_is_known_while_it_lives(tmp_path, monkeypatch):
    job = tmp_path / slurm.JOB
    assert not slurm.has_job(tmp_path, set())
    job.write_text(json.dumps({"cluster": "slurm", "job": "12_3"}))
    assert slurm.has_job(tmp_path, {"12_3"}) and not slurm.has_job(tmp_path, {"12_4"})
    job.write_text(json.dumps({"cluster": "local", "job": os.getpid(), "birth": slurm.birth(os.getpid())}))
    assert slurm.has_job(tmp_path, set())
    job.write_text(json.dumps({"cluster": "local", "job": os.getpid(), "birth": "another process"}))
    assert not slurm.has_job(tmp_path, set())
    monkeypatch.setenv("PATH", "")
    assert slurm.queued([tmp_path]) == set()  # Slurm is not asked about jobs of this machine
    job.write_text("{")
    assert not slurm.has_job(tmp_path, set())


def test_a_job_that_is_about_to_end_is_not_queued_again(tmp_path, root, capsys, monkeypatch):
    """Seen running, then failed with its job still there, then without: two lines, and the last says how long."""
    (run,) = toy_runs(tmp_path, seeds=[0])
    found = state.prepare_run_folder(run, root)

    def looks(folders):
        for status, held, job in [("running", True, True), ("failed", False, True), ("failed", False, False)]:
            found.values.update(status=status, attempts=[{"error": "no such luck"}])
            (found.folder / state.STATE).write_text(json.dumps(found.values))
            monkeypatch.setattr(state, "holder", lambda folder, held=held: held)
            monkeypatch.setattr(slurm, "has_job", lambda folder, queue, job=job: job)
            yield set()

    monkeypatch.setattr(slurm, "_queues", looks)
    assert slurm.follow([run], root, live=False) == 1
    running, failed, count = capsys.readouterr().out.splitlines()
    assert running.endswith("running") and failed.endswith("failed after 0 s, no such luck") and count == "1 failed"


def wait_for(condition, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_sweep_as_jobs_of_this_machine(tmp_path, root):
    """Signalled before its end, as before a time limit, a job saves, queues again and goes on; the same line then skips."""
    runs = toy_runs(tmp_path, seeds=[0, 1], parameters={"steps": 60})
    spec = spec_of(tmp_path)
    jobs = slurm.submit(spec, runs, root, "local", slurm.Profile(gpus=0, cpus=1))
    assert list(jobs) == [run.name for run in runs]
    folder = runs[0].folder(root)
    wait_for(lambda: (folder / "count.json").exists())
    assert slurm.submit(spec, runs, root, "local", slurm.Profile(gpus=0)) == {}  # they run already
    tasks = Path(f"/proc/{jobs[runs[0].name]}/task/{jobs[runs[0].name]}/children").read_text().split()
    os.kill(int(tasks[0]), signal.SIGUSR2)
    assert slurm.follow(runs, root, live=False) == 0
    assert [result(run, root) for run in runs] == [expected(run) for run in runs]
    assert [attempt["status"] for attempt in state.read(folder).values["attempts"]] == ["stopped", "done"]
    assert len(state.read(runs[1].folder(root)).values["attempts"]) == 1
    assert slurm.submit(spec, runs, root, "local", slurm.Profile(gpus=0)) == {}


@pytest.mark.slow
def test_a_job_that_fails_says_why(tmp_path, root, capfd):
    runs = toy_runs(tmp_path, toys.START, "raise ValueError('no such luck')")
    slurm.submit(spec_of(tmp_path), runs, root, "local", slurm.Profile(gpus=0, cpus=1))
    assert slurm.follow(runs, root, live=False) == 1
    said = capfd.readouterr().out
    assert "default-seed0: failed after" in said and "s, cell [4] raised ValueError: no such luck" in said
