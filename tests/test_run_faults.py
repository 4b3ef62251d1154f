"""Faults of runs, for real: kills, dead kernels, time limits, stops, full disks, two runners, a clock that jumps.

After each fault the same command ends with the result.json and the table of an undisturbed run.
"""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import toys
from in_turn import in_turn
from test_runs import command, execute_once, expected, result, toy_runs

from labcore import locks
from labcore.campaigns import kernel, records, runner, state, tables
from labcore.campaigns.spec import load_spec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run")]

ONCE = """
first = Path("been-here")
if not first.exists():
    first.write_text("")
    {fault}
"""
"""A cell with a fault at its first execution only."""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "papermill_runs" / "executed"


def until(condition, seconds: float = 120.0) -> bool:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def counted(run, root: Path) -> int:
    """Steps that a toy has saved."""
    path = run.folder(root) / "count.json"
    return json.loads(path.read_text())[0] if path.exists() else 0


def kernel_in(folder: Path) -> int:
    """The process number of a run's kernel, 0 where none lives."""
    holder = locks.holder(folder / state.KERNEL)
    return (holder.pid or 0) if holder else 0


def alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def attempts(run, root: Path) -> list[dict]:
    return state.read(run.folder(root)).values["attempts"]


FAULTS = {
    "exception": ("raise ValueError('no such flow')", r"cell \[4\] raised ValueError: no such flow"),
    "dead kernel": ("os._exit(1)", "DeadKernelError"),
    "killed kernel": ("os.kill(os.getpid(), signal.SIGKILL)", "DeadKernelError"),
    "timeout": ("time.sleep(60)", "CellTimeoutError"),
    "sys.exit(0)": ("import sys; sys.exit(0)", r"cell \[4\] ended the notebook with sys.exit\(\)"),
    "sys.exit(3)": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "interrupted by somebody": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_run_says_why_and_goes_on(fault, tmp_path, root):
    code, reason = FAULTS[fault]
    spec = dict(timeout=8.0) if fault == "timeout" else {}
    (run,) = toy_runs(tmp_path, toys.START, ONCE.format(fault=code), toys.COUNT, toys.RESULT, **spec)
    assert execute_once(run, root).returncode == 1
    (attempt,) = attempts(run, root)
    assert attempt["status"] == "failed"
    assert re.search(reason, attempt["error"]), attempt["error"]
    folder = run.folder(root)
    assert (folder / "notebook-attempt-1.ipynb").exists()
    assert not (folder / "notebook.ipynb").exists()
    assert execute_once(run, root).returncode == 0
    assert result(run, root) == expected(run)
    assert [a["status"] for a in attempts(run, root)] == ["failed", "done"]


@pytest.mark.parametrize(("also", "ends"), [("", "done"), ("raise ValueError('no such flow')", "failed")])
def test_a_cell_that_only_shows_may_fail(tmp_path, root, also, ends):
    """It is said, and the run goes on to its result; another cell's failure is one all the same."""
    (run,) = toy_runs(tmp_path, toys.START, "1 / 0", toys.COUNT, also or "None", toys.RESULT)
    path = tmp_path / "notebooks" / "toy.ipynb"
    made = nbformat.read(path, as_version=4)
    (shows,) = (cell for cell in made.cells if cell.source == "1 / 0")
    shows.metadata["tags"] = ["explore", "raises-exception"]
    nbformat.write(made, path)
    process = execute_once(run, root)
    (attempt,) = attempts(run, root)
    assert attempt["status"] == ends and (process.returncode == 0) == (ends == "done"), attempt
    if ends == "done":
        assert result(run, root) == expected(run)
        log = (run.folder(root) / "log.txt").read_text()
        assert "a cell that only shows something failed (ZeroDivisionError: division by zero)" in log


def test_a_result_of_an_earlier_attempt_does_not_count(tmp_path, root):
    (run,) = toy_runs(tmp_path, toys.START, toys.COUNT, "print('no record')")
    folder = state.prepare_run_folder(run, root).folder
    (folder / "result.json").write_text('{"total": 1.0}')
    assert execute_once(run, root).returncode == 1
    assert "without writing result.json" in attempts(run, root)[0]["error"]


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, root):
    (run,) = toy_runs(tmp_path, parameters={"steps": 60})
    spec = tmp_path / "papermill_runs" / "specs" / "toy.yaml"
    child = toys.lab("run", spec)
    assert until(lambda: counted(run, root) >= 3)
    child.terminate()
    output = child.communicate(timeout=120)[0]
    assert child.returncode == 143, output
    assert "default-seed0: stopped" in output
    assert attempts(run, root)[0]["status"] == "stopped"
    done = counted(run, root)
    assert 3 <= done < 60
    assert not kernel_in(run.folder(root))
    assert not (run.folder(root) / "result.json").exists()
    child = toys.lab("run", spec)
    output = child.communicate(timeout=300)[0]
    assert child.returncode == 0, output
    assert f"step {done}/60" not in output
    assert f"step {done + 1}/60" in output
    assert result(run, root) == expected(run)


def test_a_stop_in_the_last_cell_is_no_result(tmp_path, root):
    (run,) = toy_runs(tmp_path, toys.START, toys.COUNT + toys.RESULT, parameters={"steps": 60})
    state.prepare_run_folder(run, root)
    child = subprocess.Popen(command(run, root))
    assert until(lambda: counted(run, root) >= 3)
    child.terminate()
    assert child.wait(120) == 143
    assert state.read(run.folder(root)).status == "stopped"
    assert execute_once(run, root).returncode == 0
    assert result(run, root) == expected(run)


def test_a_killed_runner_takes_its_runs_with_it(tmp_path, root):
    (run,) = toy_runs(tmp_path, parameters={"steps": 60})
    spec = tmp_path / "papermill_runs" / "specs" / "toy.yaml"
    child = toys.lab("run", spec)
    assert until(lambda: counted(run, root) >= 3)
    child.kill()
    again = toys.lab("run", spec)  # at once, while the other's child is still saving
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    child.communicate()
    assert [a["status"] for a in attempts(run, root)] == ["stopped", "done"]
    assert result(run, root) == expected(run)


@pytest.mark.parametrize("part", in_turn(range(4), 4))
def test_sigkill_at_random_moments_of_a_sweep(tmp_path, root, part):
    """Five kills in each of four tests."""
    seed, kills, rounds = f"{os.environ.get('LABCORE_FAULT_SEED', '0')}.{part}", 0, 0
    rng = random.Random(seed)
    changes = dict(rows={"one": {}, "two": {"scale": 2.0}}, seeds=[0, 1, 2], parameters={"steps": 40})
    runs = toy_runs(tmp_path, **changes)
    spec = tmp_path / "papermill_runs" / "specs" / "toy.yaml"
    hit = dict.fromkeys(("runner", "run", "kernel"), 0)
    while kills < 5:
        rounds += 1
        if all(runner.finished(run, root) for run in runs):
            shutil.rmtree(runs[rng.randrange(6)].folder(root))  # something left to kill
        child = toys.lab("run", spec, "--jobs", "2")
        time.sleep(rng.uniform(0.5, 12))
        while child.poll() is None:
            target = rng.choice(list(hit))
            live = [found for found in state.states(root) if found.status == "running" and state.holder(found.folder)]
            process = child.pid
            if target != "runner":
                if not live:
                    break
                found = rng.choice(live)
                pid = found.values["attempts"][-1]["pid"]
                process = pid if target == "run" else kernel_in(found.folder)
            if not process or not alive(process):
                break
            with contextlib.suppress(ProcessLookupError):  # ended since
                os.kill(process, signal.SIGKILL)
                kills, hit[target] = kills + 1, hit[target] + 1
            time.sleep(rng.uniform(0, 4))
        if child.poll() is None:
            child.kill()
            kills, hit["runner"] = kills + 1, hit["runner"] + 1
        child.communicate()
    for _ in range(3):  # a run that was hit while being saved may count as failed once more
        child = toys.lab("run", spec, "--jobs", "2")
        output = child.communicate(timeout=600)[0]
        if child.returncode == 0:
            break
    assert child.returncode == 0, output
    for run in runs:
        assert result(run, root) == expected(run)
    undisturbed = [dict(row=run.row, seed=run.seed, metrics=expected(run)) for run in runs]
    table = load_spec(spec).table
    assert tables.tables(records.collect(runs, root), table) == tables.tables(undisturbed, table)
    print(
        f"\nseed {seed}: {kills} kills {hit} in {rounds} rounds, {sum(len(attempts(r, root)) for r in runs)} attempts"
    )


def test_two_runners_share_a_spec(tmp_path, root):
    runs = toy_runs(tmp_path, seeds=[0, 1], parameters={"steps": 40})
    spec = tmp_path / "papermill_runs" / "specs" / "toy.yaml"
    both = [toys.lab("run", spec), toys.lab("run", spec)]
    outputs = [child.communicate(timeout=400)[0] for child in both]
    assert [child.returncode for child in both] == [0, 0], outputs
    assert any("running elsewhere, pid" in output for output in outputs)
    for run in runs:
        assert len(attempts(run, root)) == 1
        assert result(run, root) == expected(run)


def test_damaged_run_json_loses_nothing(tmp_path, root):
    (run,) = toy_runs(tmp_path, parameters={"steps": 60})
    state.prepare_run_folder(run, root)
    child = subprocess.Popen(command(run, root))
    assert until(lambda: counted(run, root) >= 3)
    child.kill()
    child.wait()
    done = counted(run, root)
    whole = (run.folder(root) / "run.json").read_text()
    (run.folder(root) / "run.json").write_text(whole[: len(whole) // 2])
    again = toys.lab("run", tmp_path / "papermill_runs" / "specs" / "toy.yaml")
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    assert "run.json was damaged and is now run-damaged-1.json" in output
    assert f"step {done}/60" not in output
    assert result(run, root) == expected(run)


@pytest.mark.parametrize("room", [0, 3000, 6000])
def test_a_full_disk(room, tmp_path, root):
    (run,) = toy_runs(tmp_path)
    spec = tmp_path / "papermill_runs" / "specs" / "toy.yaml"
    full = toys.lab("run", spec, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    output = full.communicate(timeout=200)[0]
    assert full.returncode in (1, 2), output
    assert "File too large" in output or "cannot write" in output
    child = toys.lab("run", spec)
    output = child.communicate(timeout=200)[0]
    assert child.returncode == 0, output
    assert result(run, root) == expected(run)


def test_a_read_only_folder(tmp_path, root):
    (run,) = toy_runs(tmp_path)
    spec, folder = tmp_path / "papermill_runs" / "specs" / "toy.yaml", state.prepare_run_folder(run, root).folder
    words = " ".join(command(run, root))
    if os.geteuid():
        folder.chmod(0o555)
        read_only = subprocess.run(command(run, root), capture_output=True, text=True)
        folder.chmod(0o755)
    else:  # nothing is read-only for root but a file system
        script = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && exec {words}"
        read_only = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
        if "unshare" in read_only.stderr or "mount" in read_only.stderr:
            pytest.skip("this machine lets nobody mount")
    assert read_only.returncode == 1
    assert "ead-only" in read_only.stderr or "denied" in read_only.stderr
    assert "Traceback" not in read_only.stderr
    child = toys.lab("run", spec)
    output = child.communicate(timeout=200)[0]
    assert child.returncode == 0, output
    assert result(run, root) == expected(run)


def test_a_clock_that_jumps(tmp_path, root, monkeypatch):
    patch = tmp_path / "patch" / "sitecustomize.py"
    patch.parent.mkdir()
    patch.write_text(
        "import random, time\nreal, rng = time.time, random.Random(1)\n"
        "time.time = lambda: real() + rng.uniform(-1e6, 1e6)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(patch.parent))
    (run,) = toy_runs(tmp_path)
    before = time.monotonic()
    child = toys.lab("run", tmp_path / "papermill_runs" / "specs" / "toy.yaml")
    output = child.communicate(timeout=300)[0]
    assert child.returncode == 0, output
    assert result(run, root) == expected(run)
    assert 0 < attempts(run, root)[0]["seconds"] < time.monotonic() - before


def test_overhead(tmp_path, root):
    """`lab run` adds little to what the notebook itself does, here nothing; the number is printed."""
    toys.project(tmp_path, (toys.START, 'Path("result.json").write_text("{}")'))
    before, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    child = toys.lab("run", tmp_path / "papermill_runs" / "specs" / "toy.yaml")
    assert child.wait(200) == 0
    wall = time.monotonic() - before
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - cpu
    print(f"\na run of nothing: {wall:.1f} s wall, {cpu:.1f} s of processor time, load {os.getloadavg()[0]:.1f}")
    assert cpu < 15


def test_a_kernel_that_never_answers_is_ended(tmp_path):
    """By its lock: nothing is killed where nobody holds it."""
    lock, script = (
        tmp_path / "kernel",
        "import sys, time; from labcore.campaigns.kernel import hold; hold(sys.argv[1]); time.sleep(99)",
    )
    hung = subprocess.Popen([sys.executable, "-c", script, str(lock)])
    while not (lock.exists() and lock.read_text()):
        time.sleep(0.05)
    kernel.end(lock)
    assert hung.wait(30) == -signal.SIGKILL
    lock.write_text(f"pid {os.getpid()} on {os.uname().nodename}")
    kernel.end(lock)
    kernel.end(tmp_path / "none")
