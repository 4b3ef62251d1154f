"""Launch of a command in several processes, on one or several machines, by torch's launcher; each process uses accelerate.

`accelerate launch --cpu --num_processes 2` would silently run one process; torch's launcher with ACCELERATE_USE_CPU runs
two. The chain of processes, each ended by the death of the one before it: launch -> labcore.train.agent (torch's
launcher) -> labcore.train.worker (the command), one for each device.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from labcore.processes import usable_cores

PORT = 29500
"""Where nodes meet when only a host is given; torch's own default."""


class Nodes(NamedTuple):
    """Number of machines that train together, number of this machine (from 0), and HOST:PORT of machine 0."""

    count: int = 1
    rank: int = 0
    rendezvous: str = ""


def nodes_of(
    count: int | None = None,
    rank: int | None = None,
    rendezvous: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Nodes:
    """Return the machines that train together; values that are None come from variables that launchers and Slurm set.

    These are NNODES or SLURM_NNODES, NODE_RANK or SLURM_NODEID, MASTER_ADDR and MASTER_PORT. Slurm's are used only if
    MASTER_ADDR is set, because a job of several nodes may run a command on one. Inside a launched process the result is
    one machine: that process is started already. Raises ValueError.
    """
    env = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in env:
        return Nodes()
    together = bool(env.get("MASTER_ADDR"))
    if count is None:
        count = _number(env, "NNODES") or (together and _number(env, "SLURM_NNODES")) or 1
    if count < 1:
        raise ValueError(f"nodes was {count}; allowed are 1 or more")
    if count == 1:
        return Nodes()
    if rank is None:
        rank = _number(env, "NODE_RANK")
    if rank is None:
        rank = _number(env, "SLURM_NODEID")
    if rank is None or not 0 <= rank < count:
        raise ValueError(
            f"node_rank was {rank}; of {count} nodes it is 0..{count - 1}: give --node-rank, or set NODE_RANK"
        )
    if not rendezvous and together:
        rendezvous = f"{env['MASTER_ADDR']}:{_number(env, 'MASTER_PORT') or PORT}"
    if not re.fullmatch(r"[^\s:]+:\d{1,5}", rendezvous or ""):
        raise ValueError(
            f"rendezvous was {rendezvous!r}; give the same HOST:PORT on every node, a port of node 0, as in "
            f"--rendezvous node0:{PORT}, or set MASTER_ADDR and MASTER_PORT"
        )
    return Nodes(count, rank, rendezvous)


def _number(env: Mapping[str, str], name: str) -> int | None:
    """Return a whole number from the environment; None if it is not set."""
    if not env.get(name):
        return None
    if not env[name].isdecimal():
        raise ValueError(f"the environment variable {name} is {env[name]!r}; it needs a whole number")
    return int(env[name])


def launch(module: str, arguments: Sequence[str], processes: int, nodes: Nodes | None = None) -> int:
    """Run `python -m module arguments` in `processes` processes on each node and wait; return the status, 143 if stopped.

    Each process gets one CUDA device; on a CPU the threads are divided. SIGTERM and Ctrl-C are passed on, so the run
    saves; a second Ctrl-C kills. Standard output is the first process's. Raises ValueError for more processes than CUDA
    devices.
    """
    env = environment(processes)
    return wait_for(command(module, arguments, processes, nodes or Nodes()), env)


def environment(processes: int) -> dict[str, str]:
    """Return the environment for `processes` processes on this machine; ValueError if it has fewer devices.

    Each process gets its share of the cores as threads, or fewer if OMP_NUM_THREADS says so.
    """
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes < 1 or (devices and processes > devices):
        allowed = f"1..{devices}, one for each CUDA device" if devices else "1 or more"
        raise ValueError(f"num_processes was {processes}; allowed are {allowed}")
    cores = usable_cores()
    threads = min(max(1, cores // processes), int(os.environ.get("OMP_NUM_THREADS") or cores))
    env = dict(os.environ, LABCORE_HEADLESS="1", OMP_NUM_THREADS=str(threads))
    return env if devices else {**env, "ACCELERATE_USE_CPU": "true"}


def command(module: str, arguments: Sequence[str], processes: int, nodes: Nodes) -> list[str]:
    """Return the command line that `launch` starts."""
    meeting = ["--standalone"]
    if nodes.count > 1:
        host, port = nodes.rendezvous.rsplit(":", 1)
        meeting = [f"--nnodes={nodes.count}", f"--node-rank={nodes.rank}", f"--master-addr={host}"]
        meeting.append(f"--master-port={port}")
    agent = [sys.executable, "-m", "labcore.train.agent", *meeting, f"--nproc-per-node={processes}"]
    return [*agent, "-m", "labcore.train.worker", module, *arguments]


def wait_for(words: Sequence[str], env: Mapping[str, str], ready: Callable[[], object] = lambda: None) -> int:
    """Run a command line in a session of its own, hand signals on to it, and wait for its status (128 + n for signal n).

    ready: called before the command starts, when all later signals will be handed on.
    """
    child, early, interrupted = None, [], False

    def hand_on(number: int, _frame) -> None:
        nonlocal interrupted
        if child is None:
            early.append(number)
            return
        again, interrupted = interrupted and number == signal.SIGINT, interrupted or number == signal.SIGINT
        child.send_signal(signal.SIGINT if again else signal.SIGTERM)

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ready()
        child = subprocess.Popen(words, env={**env, "LABCORE_PARENT": str(os.getpid())}, start_new_session=True)
        for number in early:
            hand_on(number, None)
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status
