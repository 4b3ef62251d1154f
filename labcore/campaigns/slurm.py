"""Runs on a cluster: a Slurm job per run through submitit; all jobs of one call are a job array.

A job runs `labcore.campaigns.execute` on a run's folder, as `lab run` does on this machine, with the same states, locks and
resuming. Before a time limit or a preemption Slurm signals the job. The run then saves and stops, and the job is queued again
under its number and continues from the checkpoint. The folders must be on a disk that all machines share.
"""

from __future__ import annotations

import contextlib
import importlib.util
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
from labcore.campaigns.runner import devices_of, finished
from labcore.campaigns.spec import FOLDER, Run, RunSpec
from labcore.files import write_atomic
from labcore.hints import nearest
from labcore.jsonfile import read_json
from labcore.processes import birth
from labcore.strict import Config
from labcore.yamlfile import read_yaml

CLUSTERS = ("slurm", "local")
JOB, LOGS = "job.json", "jobs"
POLL = 2.0  # seconds between looks at the runs' folders, and ten times that between questions to Slurm


class Profile(Config):
    """Resources that a job requests; papermill_runs/profiles/slurm.yaml, or the file given with --profile."""

    model_config = ConfigDict(strict=True)
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
    """Read the profile in `given`, else papermill_runs/profiles/<cluster>.yaml of the spec's project, else the defaults.

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
    """The object that submitit stores and calls on the cluster: it runs a run's folder in a process of its own."""

    def __init__(self, folder: Path, threads: int):
        self.folder, self.threads = folder, threads
        self._process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Run to the end. Raises RuntimeError if the run failed, so that the cluster's accounting shows it too."""
        command = [sys.executable, "-m", "labcore.campaigns.execute", str(self.folder), "--parent", str(os.getpid())]
        env = os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        signal.signal(signal.SIGTERM, lambda *_: self._terminate())  # scancel, or a preemption without warning
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
        while self._process.poll() is None:  # `wait` holds a lock that `checkpoint`, in a signal handler, would need
            time.sleep(0.2)
        status = self._process.returncode
        if status not in (execute.DONE, execute.BUSY, execute.STOPPED):
            raise RuntimeError(f"the run ended with status {status}; see {self.folder / execute.LOG}")

    def checkpoint(self) -> Any:
        """Save, stop, and return the job to queue again. submitit calls it on Slurm's signal."""
        from submitit.helpers import DelayedSubmission

        self._terminate()
        while state.holder(self.folder):
            time.sleep(0.2)
        return DelayedSubmission(Job(self.folder, self.threads))

    def _terminate(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)


def submit(spec: RunSpec, runs: Sequence[Run], root: Path, cluster: str, profile: Profile) -> dict[str, str]:
    """Queue those of `runs` that are not done, running or queued already; return the job numbers by run name.

    Raises ValueError for an unknown cluster, without submitit, without Slurm's commands, and if Slurm refuses the jobs;
    OSError if `root` cannot be written.
    """
    executor = _executor(runs[0].folder(root).parent / LOGS, cluster, profile, runs, spec.name)
    waiting = _not_started(runs, root)
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
        _note_job(folder, cluster, job.job_id)
    return {run.name: job.job_id for (run, _folder), job in zip(waiting, jobs, strict=True)}


def _not_started(runs: Sequence[Run], root: Path) -> list[tuple[Run, Path]]:
    """Return those runs with their folders that are not done, running or queued already."""
    queue = queued(run.folder(root) for run in runs)
    waiting = []
    for run in runs:
        with contextlib.suppress(state.Busy):
            folder = state.prepare_run_folder(run, root).folder
            if finished(run, root) is None and not state.holder(folder) and not has_job(folder, queue):
                waiting.append((run, folder))
    return waiting


def _note_job(folder: Path, cluster: str, number: str) -> None:
    """Write the job's number to a run's folder."""
    job: dict[str, Any] = {"cluster": cluster, "job": number}
    if cluster == "local":  # a process of this machine, whose number another process may get later
        job |= {"job": int(number), "birth": birth(int(number))}
    write_atomic(folder / JOB, json.dumps(job) + "\n")


def follow(runs: Sequence[Run], root: Path, live: bool | None = None) -> int:
    """Show the runs' states and lines until none is queued or running; return 0 if all are done, 1 otherwise.

    Ctrl-C ends this function and leaves Slurm's jobs alone.
    """
    progress = ProgressTable([run.name for run in runs], live)
    unfinished = {run.name: run.folder(root) for run in runs}
    for name, folder in unfinished.items():
        progress.follow(name, folder / execute.LOG)
    try:
        for queue in _queues(list(unfinished.values())):
            for name in _show_changes(unfinished, queue, progress):
                del unfinished[name]
            if not unfinished:
                break
        progress.say(progress.counts())
        return 0 if set(progress.status.values()) <= {"done"} else 1
    finally:
        progress.close()


def _show_changes(folders: dict[str, Path], queue: set[str], progress: ProgressTable) -> list[str]:
    """Show new lines and states of runs; return the names of those that have ended."""
    finished_names = []
    for name, folder in folders.items():
        status, ended = _state(folder, queue, progress.status[name])
        progress.drain(name, last=ended)
        if status != progress.status[name]:
            progress.set(name, status, _why(folder) if ended and status != "done" else "")
        if ended:
            finished_names.append(name)
    return finished_names


def queued(folders: Iterable[Path]) -> set[str]:
    """Return the numbers of this user's jobs that Slurm has waiting or running.

    Slurm is asked only if a run in `folders` was queued there. Raises OSError if it does not answer.
    """
    if not any(_job(folder).get("cluster") == "slurm" for folder in folders):
        return set()
    words = ["squeue", "--me", "--array", "--noheader", "--format=%i"]  # %i is 12_3 for a member of an array
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode:
        raise OSError(f"Slurm does not answer: {answer.stderr.strip()}; try again when it does")
    return set(answer.stdout.split())


def has_job(folder: Path, queue: set[str]) -> bool:
    """Whether a run's last job is waiting or running; `queue` is the result of `queued`."""
    job = _job(folder)
    if job.get("cluster") == "local":
        return birth(job["job"]) == job["birth"]
    return job.get("job") in queue


def _job(folder: Path) -> dict[str, Any]:
    """Read the note on a run's last job; empty if there is none."""
    try:
        job = read_json(folder / JOB)
    except (OSError, ValueError):
        return {}
    return job if isinstance(job, dict) else {}


def _queues(folders: Sequence[Path]) -> Iterator[set[str]]:
    """Yield the queue every POLL seconds. Slurm is asked only every tenth time."""
    count, queue = 0, queued(folders)
    while True:
        yield queue
        time.sleep(POLL)
        count += 1
        if count % 10 == 0:
            with contextlib.suppress(
                OSError, subprocess.SubprocessError
            ):  # a controller that restarts is asked again later
                queue = queued(folders)


def _state(folder: Path, queue: set[str], before: str) -> tuple[str, bool]:
    """Return a run's status, and whether it has ended: it has not while it runs or its job is queued.

    `queue` is older than what is read here, so a job that has left it since counts as queued once more. A run that was
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


def _executor(folder: Path, cluster: str, profile: Profile, runs: Sequence[Run], name: str) -> Any:
    """Make submitit's executor with the resources of the profile."""
    _check_cluster(cluster)
    import submitit

    gpus = profile.gpus if profile.gpus is not None else max(map(devices_of, runs))
    if cluster == "local":
        executor = submitit.AutoExecutor(folder, cluster="local", local_max_num_timeout=profile.requeues)
        executor.update_parameters(timeout_min=profile.minutes, gpus_per_node=gpus)
        return executor
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=profile.requeues)
    requests = {
        "name": name,
        "timeout_min": profile.minutes,
        "cpus_per_task": profile.cpus,
        "mem_gb": profile.memory_gb,
        "gpus_per_node": gpus or None,
        **{f"slurm_{key}": getattr(profile, key) for key in ("partition", "account", "qos", "constraint")},
        "slurm_setup": list(profile.setup) or None,
        "slurm_signal_delay_s": profile.grace,
        "slurm_array_parallelism": profile.parallel,
        "slurm_additional_parameters": {"requeue": True, **profile.options},
    }
    executor.update_parameters(**{key: value for key, value in requests.items() if value is not None})
    return executor


def _check_cluster(cluster: str) -> None:
    """Raises ValueError for an unknown cluster, without submitit, and without Slurm's commands."""
    if cluster not in CLUSTERS:
        raise ValueError(f"cluster was {cluster!r}; it is one of {', '.join(CLUSTERS)}")
    if importlib.util.find_spec("submitit") is None:
        raise ValueError("--cluster needs submitit:  pip install 'labcore[cluster]'")
    if cluster == "slurm" and (missing := [tool for tool in ("sbatch", "srun", "squeue") if not shutil.which(tool)]):
        raise ValueError(
            f"Slurm's {', '.join(missing)} is not on this machine; submit from a machine of the cluster, or leave out --cluster"
        )
