"""Compile what the rows compile, beside each other in processes of their own, into the caches on disk; untimed.

A program is for the layers or for one block, so that flows of two blocks are enough. The caches are torch's and Triton's
(TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR); the benchmark must be started with the same ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from benchmarks.gpu import inverses, passes, steps
from benchmarks.gpu.measure import reason_of
from benchmarks.gpu.record import Record
from benchmarks.gpu.setting import FULL, GUIDANCE, TOY, Setting, twin
from labcore import invert
from labcore.train.recompute import recompute_layers

BLOCKS = 2


def step(s: Setting) -> None:
    """The training step of rows 6 and 7."""
    steps.compiled_flow(s, twin(s.flow), s.sizes.batch)


def their_step(s: Setting) -> None:
    """ml-tarflow's step of row 6; nothing where no clone was given."""
    if s.theirs is not None:
        steps.their_step(s, steps.compiled_theirs(s), s.sizes.batch)()


def recomputed(s: Setting) -> None:
    """The step of row 8."""
    flow = twin(s.flow)
    recompute_layers(flow)
    steps.compiled_flow(s, flow, s.sizes.parts * s.sizes.batch)


def student(s: Setting) -> None:
    """The pass of row 23."""
    passes.compiled_student(s, s.sizes.images[0])


def shipped(s: Setting) -> None:
    """The graph of row 30."""
    flow, _ = s.shipped
    invert(flow, *s.noise(flow, 1), compiled=True)


def graph(n: int) -> Callable[[Setting], None]:
    """The inverse of a row of `inverses.CASES`."""

    def inverse(s: Setting) -> None:
        case = inverses.CASES[n]
        z, y = s.noise(s.flow, s.sizes.images[case.images])
        with s.autocast(case.precision):
            invert(s.flow, z, y, GUIDANCE if case.guided else 0.0, compiled=True)

    return inverse


GRAPHS = {f"graph-{n}": graph(n) for n, case in inverses.CASES.items() if case.graph}
TASKS = {"step": step, **GRAPHS, "student": student, "recomputed": recomputed, "their-step": their_step}
TASKS["shipped"] = shipped


def compile_one(task: str, reference: Path | None) -> None:
    """Compile one of TASKS in this process."""
    sizes = FULL if torch.cuda.is_available() else TOY
    if sizes is FULL:
        few = {"num_blocks": BLOCKS}
        sizes = FULL._replace(flow={**FULL.flow, **few}, student={**FULL.student, **few})
    s = Setting(Record(Path(), {"ceilings": {}, "rows": [], "not_run": []}), reference, sizes)
    with torch.compiler.set_stance("force_eager") if s.toy else nullcontext():
        TASKS[task](s)


def warm(processes: int, reference: Path | None, tasks: list[str] | None = None) -> int:
    """Compile the tasks (default: all), so many at a time; how many failed. Raises ValueError for less than one process."""
    if processes < 1:
        raise ValueError(f"--processes was {processes}; give at least 1")
    waiting, running, failed = list(TASKS if tasks is None else tasks), {}, 0
    env = {"TORCHINDUCTOR_COMPILE_THREADS": "2", **os.environ}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                task = waiting.pop(0)
                running[task] = (subprocess.Popen(command(task, reference), env=env), time.perf_counter())
            for task, (child, start) in list(running.items()):
                if child.poll() is not None:
                    del running[task]
                    failed += child.returncode != 0
                    word = "compiled" if child.returncode == 0 else f"failed with status {child.returncode}"
                    print(f"{task}: {word} after {time.perf_counter() - start:.1f} s", flush=True)
            time.sleep(0.05)
    finally:
        for child, _ in running.values():
            child.kill()
    return failed


def command(task: str, reference: Path | None) -> list[str]:
    """What compiles one task in a process of its own."""
    given = ["--reference", str(reference)] if reference else []
    return [sys.executable, "-m", "benchmarks.gpu", "warm", "--task", task, *given]


def warm_one(task: str, reference: Path | None) -> int:
    """`compile_one` with its error as one line; the exit status. Raises ValueError for an unknown task."""
    if task not in TASKS:
        raise ValueError(f"--task was {task!r}; allowed are {', '.join(TASKS)}")
    try:
        compile_one(task, reference)
    except Exception as error:
        print(f"{task}: {reason_of(error)}", file=sys.stderr, flush=True)
        return 1
    return 0
