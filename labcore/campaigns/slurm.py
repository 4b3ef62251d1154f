"""Runs on a cluster: each a Slurm job through submitit, all of one call a job array.

A job runs `labcore.campaigns.execute` on a run's folder, as `lab run` does here, so everything about states, locks and resuming
holds there too. Before a time limit or a preemption Slurm signals the job; the run saves and stops, the job queues again
under its number, and goes on from what it saved. Folders lie on a disk that all machines share.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt

from labcore.campaigns import execute, state
from labcore.campaigns.progress_table import ProgressTable
from labcore.campaigns.runner import finished
from labcore.campaigns.spec import FOLDER, Run, RunSpec
from labcore.config import Config
from labcore.files import write_atomic
from labcore.hints import nearest
from labcore.jsonfile import read_json
from labcore.processes import birth
from labcore.yamlfile import read_yaml

CLUSTERS = ("slurm", "local")
JOB, LOGS = "job.json", "jobs"
POLL = 2.0  # seconds between looks at the runs' folders, and ten times that between questions to Slurm


class Profile(Config):
    """What a job asks a cluster for; papermill_runs/profiles/slurm.yaml, or a file given with --profile."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: NonNegativeInt | None = Field(default=None, description="of a run; None is one for each of its processes")
    cpus: PositiveInt = Field(default=8, description="of a run")
    memory_gb: PositiveInt | None = None
    minutes: PositiveInt = Field(default=1440, description="time limit of a job; a run takes as many jobs as it needs")
    grace: PositiveInt = Field(default=120, description="seconds before the limit in which a run saves and stops")
    requeues: NonNegativeInt = Field(
        default=100, description="time limits that a run may meet; preemptions do not count"
    )
    parallel: PositiveInt = Field(default=64, description="jobs of an array that run at a time")
    setup: tuple[str, ...] = Field(default=(), strict=False, description="shell lines before a run: module load cuda")
    options: dict[str, str | int | bool] = Field(default={}, description="anything else for sbatch: {mail-type: FAIL}")


def load_profile(spec: RunSpec, cluster: str, given: Path | None = None) -> Profile:
    """The profile in `given`, else papermill_runs/profiles/<cluster>.yaml of the spec's project, else the defaults.

    Raises ValueError (pydantic's for wrong keys and types) for a file that is missing or is no mapping.
    """
    path = given or spec.project / FOLDER / "profiles" / f"{cluster}.yaml"
    if given is None and not path.is_file():
        return Profile()
    try:
        values = read_yaml(path) or {}
    except FileNotFoundError:
        raise ValueError(
            f"there is no profile {path}; give a .yaml file with {', '.join(Profile.model_fields)}"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}; a profile has {', '.join(Profile.model_fields)}")
    for key in values:
        if key not in Profile.model_fields:
            hint = nearest(str(key), dict.fromkeys(Profile.model_fields))
            raise ValueError(
                f"{path.name} has an unknown key {key!r}{hint}; a profile has {', '.join(Profile.model_fields)}"
            )
    return Profile(**values)


class Job:
    """What submitit keeps and starts: one run's folder. Called on the cluster, it runs it in a process of its own."""

    def __init__(self, folder: Path, threads: int):
        self.folder, self.threads = folder, threads
        self._process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Run it to its end. RuntimeError where it failed, so that the cluster's own account says so too."""
        command = [sys.executable, "-m", "labcore.campaigns.execute", str(self.folder), "--parent", str(os.getpid())]
        env = os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        signal.signal(signal.SIGTERM, lambda *_: self._ask())  # scancel, or a preemption without a word before
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
        while self._process.poll() is None:  # `wait` holds a lock that `checkpoint`, in a signal handler, would need
            time.sleep(0.2)
        status = self._process.returncode
        if status not in (execute.DONE, execute.BUSY, execute.STOPPED):
            raise RuntimeError(f"the run ended with status {status}; see {self.folder / execute.LOG}")

    def checkpoint(self) -> Any:
        """Save and stop; what the job does when it starts again. submitit calls it on Slurm's signal."""
        from submitit.helpers import DelayedSubmission

        self._ask()
        while state.holder(self.folder):
            time.sleep(0.2)
        return DelayedSubmission(Job(self.folder, self.threads))

    def _ask(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)


def submit(spec: RunSpec, runs: Sequence[Run], root: Path, cluster: str, profile: Profile) -> dict[str, str]:
    """Queue those of `runs` that are not done, running or queued already: run name -> job number.

    Raises ValueError for an unknown cluster, without submitit, where Slurm's commands are missing or refuse the job;
    OSError where `root` cannot be written.
    """
    executor = _executor(runs[0].folder(root).parent / LOGS, cluster, profile, runs[0].parameters, spec.name)
    queue = queued(run.folder(root) for run in runs)
    waiting = []
    for run in runs:
        with contextlib.suppress(state.Busy):
            folder = state.prepare(run, root).folder
            if finished(run, root) is None and not state.holder(folder) and not has_job(folder, queue):
                waiting.append((run, folder))
    if not waiting:
        return {}
    import submitit

    try:
        with executor.batch():
            jobs = [executor.submit(Job(folder.resolve(), run.threads or profile.cpus)) for run, folder in waiting]
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(
            f"the cluster refused the jobs: {error}; see the profile's partition, limits and options"
        ) from None
    for (_run, folder), job in zip(waiting, jobs, strict=True):
        about: dict[str, Any] = {"cluster": cluster, "job": job.job_id}
        if cluster == "local":  # a process of this machine, whose number another may get one day
            about = {"cluster": cluster, "job": int(job.job_id), "birth": birth(int(job.job_id))}
        write_atomic(folder / JOB, json.dumps(about) + "\n")
    return {run.name: job.job_id for (run, _folder), job in zip(waiting, jobs, strict=True)}


def follow(runs: Sequence[Run], root: Path, live: bool | None = None) -> int:
    """Show the runs' states and lines until none of them is queued or running; 0 if all are done, 1 otherwise.

    Leaving it with Ctrl-C leaves Slurm's jobs alone.
    """
    board = ProgressTable([run.name for run in runs], live)
    left = {run.name: run.folder(root) for run in runs}
    for name, folder in left.items():
        board.follow(name, folder / execute.LOG)
    try:
        for queue in _looks(list(left.values())):
            for name, folder in list(left.items()):
                now, ended = _state(folder, queue, board.status[name])
                board.drain(name, last=ended)
                if now != board.status[name]:
                    board.set(name, now, _why(folder) if ended and now != "done" else "")
                if ended:
                    del left[name]
            if not left:
                break
        board.say(board.counts())
        return 0 if set(board.status.values()) <= {"done"} else 1
    finally:
        board.close()


def queued(folders: Iterable[Path]) -> set[str]:
    """Numbers of this user's jobs that Slurm has waiting or running. It is asked only if a run in `folders` was queued there.

    OSError where it does not answer.
    """
    if not any(_job(folder).get("cluster") == "slurm" for folder in folders):
        return set()
    words = ["squeue", "--me", "--array", "--noheader", "--format=%i"]  # %i is 12_3 for a member of an array
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode:
        raise OSError(f"Slurm does not answer: {answer.stderr.strip()}; try again when it does")
    return set(answer.stdout.split())


def has_job(folder: Path, queue: set[str]) -> bool:
    """Whether a run's last job is waiting or running; `queue` is what `queued` says."""
    job = _job(folder)
    if job.get("cluster") == "local":
        return birth(job["job"]) == job["birth"]
    return job.get("job") in queue


def _job(folder: Path) -> dict[str, Any]:
    """What is noted of a run's last job; empty where there is none."""
    try:
        job = read_json(folder / JOB)
    except (OSError, ValueError):
        return {}
    return job if isinstance(job, dict) else {}


def _looks(folders: Sequence[Path]) -> Iterator[set[str]]:
    """The queue, again and again; Slurm is asked less often than folders are looked at."""
    count, queue = 0, queued(folders)
    while True:
        yield queue
        time.sleep(POLL)
        count += 1
        if count % 10 == 0:
            with contextlib.suppress(OSError, subprocess.SubprocessError):  # a controller that restarts loses nothing
                queue = queued(folders)


def _state(folder: Path, queue: set[str], before: str) -> tuple[str, bool]:
    """A run's status, and whether that is its end: not while it runs or its job is queued.

    The queue was looked at first, so that what leaves it in between is taken for queued once more. A run that was seen
    running `before` and has failed since is not queued again: its job is about to end.
    """
    waits = has_job(folder, queue)
    found = None
    with contextlib.suppress(ValueError):
        found = state.read(folder)
    if found is not None and found.status == "done":
        return "done", True
    if state.holder(folder):
        return "running", False
    if waits:
        ends = before == "running" and found is not None and found.status == "failed"
        return "running" if ends else "new", False
    now = "new" if found is None else state.status_of(found)
    return "killed" if now == "new" else now, True


def _why(folder: Path) -> str:
    with contextlib.suppress(ValueError, OSError):
        if (found := state.read(folder)) is not None and found.error:
            return found.error.splitlines()[0]
    return f"see {folder / execute.LOG}"


def _executor(folder: Path, cluster: str, profile: Profile, parameters: dict[str, Any], name: str) -> Any:
    """submitit's executor with the profile's wishes."""
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster was {cluster!r}; it is one of {', '.join(CLUSTERS)}")
    try:
        import submitit
    except ImportError:
        raise ValueError("--cluster needs submitit:  pip install 'labcore[cluster]'") from None
    if cluster == "slurm" and (missing := [tool for tool in ("sbatch", "srun", "squeue") if not shutil.which(tool)]):
        raise ValueError(
            f"Slurm's {', '.join(missing)} is not on this machine; submit from one of the cluster's, or leave out --cluster"
        )
    gpus = profile.gpus if profile.gpus is not None else int(parameters.get("processes", 1))
    wishes: dict[str, Any] = {"timeout_min": profile.minutes}
    if cluster == "local":
        executor = submitit.AutoExecutor(folder, cluster="local", local_max_num_timeout=profile.requeues)
        executor.update_parameters(**wishes, gpus_per_node=gpus)
        return executor
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=profile.requeues)
    wishes |= {"name": name, "cpus_per_task": profile.cpus, "mem_gb": profile.memory_gb, "gpus_per_node": gpus or None}
    slurm = {
        **{key: getattr(profile, key) for key in ("partition", "account", "qos", "constraint")},
        "setup": list(profile.setup) or None,
        "signal_delay_s": profile.grace,
        "array_parallelism": profile.parallel,
        "additional_parameters": {"requeue": True, **profile.options},
    }
    wishes |= {f"slurm_{key}": value for key, value in slurm.items()}
    executor.update_parameters(**{key: value for key, value in wishes.items() if value is not None})
    return executor
