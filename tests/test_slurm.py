"""Runs on a real Slurm of one node, which `make test-slurm` installs and starts."""

import os
import shutil
import subprocess
import time

import pytest
import toys
from test_cluster import wait_for
from test_runs import expected, result, toy_runs

from labcore.campaigns import slurm, state
from labcore.campaigns.spec import load_spec

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.usefixtures("as_users_run"),
    pytest.mark.skipif(
        "SLURM_CONF" not in os.environ or not shutil.which("sbatch"), reason="no Slurm; make test-slurm"
    ),
]
PROFILE = slurm.Profile(gpus=0, cpus=1, minutes=30, memory_gb=1)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "papermill_runs" / "executed"


def spec_of(tmp_path):
    return load_spec(tmp_path / "papermill_runs" / "specs" / "toy.yaml")


def slurm_says(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def attempts(run, root) -> list[str]:
    return [attempt["status"] for attempt in state.read(run.folder(root)).values["attempts"]]


def start_now(job: str) -> None:
    """What was queued again waits two minutes for its turn; here it need not."""
    wait_for(lambda: f"{job} PENDING" in slurm_says("squeue", "--array", "--noheader", "--format=%i %T"))
    time.sleep(4)  # in the second of its requeue Slurm refuses the job's new credential, and drops it
    slurm_says("scontrol", "update", f"jobid={job}", "starttime=now")


def test_a_sweep_is_an_array_and_goes_to_its_end(tmp_path, root):
    runs = toy_runs(tmp_path, seeds=[0, 1, 2])
    jobs = slurm.submit(spec_of(tmp_path), runs, root, "slurm", PROFILE)
    assert len({job.split("_")[0] for job in jobs.values()}) == 1 and len(set(jobs.values())) == 3
    assert (
        slurm.submit(spec_of(tmp_path), runs, root, "slurm", PROFILE) == {}
    )  # queued or running: none is queued twice
    assert slurm.follow(runs, root, live=False) == 0
    assert [result(run, root) for run in runs] == [expected(run) for run in runs]
    assert slurm.submit(spec_of(tmp_path), runs, root, "slurm", PROFILE) == {}  # done


@pytest.mark.parametrize("how", ["signal", "requeue"])
def test_a_preempted_job_goes_on(tmp_path, root, how):
    """By the signal that Slurm sends before a limit, and by a requeue without one, which kills."""
    (run,) = toy_runs(tmp_path, parameters={"steps": 100})
    (job,) = slurm.submit(spec_of(tmp_path), [run], root, "slurm", PROFILE).values()
    wait_for(lambda: (run.folder(root) / "count.json").exists())
    slurm_says("scancel", "--signal=USR2", job) if how == "signal" else slurm_says("scontrol", "requeue", job)
    start_now(job)
    assert slurm.follow([run], root, live=False) == 0
    assert result(run, root) == expected(run)
    assert attempts(run, root) in (["stopped", "done"], ["running", "done"], ["killed", "done"])
    if how == "signal":
        assert attempts(run, root)[0] == "stopped"


def test_a_time_limit_is_no_end(tmp_path, root):
    """A job of two minutes for a run of about that: it saves before the limit, and queues again.

    Slurm may signal up to a minute early, so that less than two minutes could end a job before its run has begun.
    """
    (run,) = toy_runs(tmp_path, parameters={"steps": 1600})
    profile = slurm.Profile(gpus=0, cpus=1, minutes=2, grace=40, memory_gb=1)
    (job,) = slurm.submit(spec_of(tmp_path), [run], root, "slurm", profile).values()
    for _ in range(9):
        wait_for(
            lambda: not state.holder(run.folder(root)) and attempts(run, root) and attempts(run, root)[-1] != "running",
            seconds=240,
        )
        if attempts(run, root)[-1] == "done":
            break
        count = len(attempts(run, root))
        start_now(job)
        wait_for(lambda count=count: len(attempts(run, root)) > count)
    assert result(run, root) == expected(run)
    assert attempts(run, root)[0] == "stopped" and len(attempts(run, root)) > 1


def test_a_cancelled_job_can_be_given_again(tmp_path, root):
    (run,) = toy_runs(tmp_path, parameters={"steps": 100})
    (job,) = slurm.submit(spec_of(tmp_path), [run], root, "slurm", PROFILE).values()
    wait_for(lambda: (run.folder(root) / "count.json").exists())
    slurm_says("scancel", job)
    assert slurm.follow([run], root, live=False) == 1
    assert attempts(run, root) == ["stopped"]
    slurm.submit(spec_of(tmp_path), [run], root, "slurm", PROFILE)
    assert slurm.follow([run], root, live=False) == 0
    assert result(run, root) == expected(run) and attempts(run, root) == ["stopped", "done"]


def test_a_job_that_slurm_refuses(tmp_path, root):
    (run,) = toy_runs(tmp_path)
    with pytest.raises(ValueError, match="refused the jobs"):
        slurm.submit(spec_of(tmp_path), [run], root, "slurm", slurm.Profile(gpus=0, partition="none"))


def test_the_command_line_to_a_table(tmp_path, root):
    spec = toys.project(tmp_path, seeds=[0, 1])
    (tmp_path / "papermill_runs" / "profiles").mkdir()
    (tmp_path / "papermill_runs" / "profiles" / "slurm.yaml").write_text(
        "{gpus: 0, cpus: 1, memory_gb: 1, minutes: 10}"
    )
    answer = toys.lab("run", spec, "--cluster", "slurm", "--publish")
    said, _ = answer.communicate(timeout=300)
    assert answer.returncode == 0, said
    assert "2 of 2 runs queued" in said and "2 done" in said
    assert "(n=2)" in (tmp_path / "papermill_runs" / "results" / "toy" / "table.md").read_text()
