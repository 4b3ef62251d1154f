"""Starting a command in several processes on this machine, by torch's launcher; accelerate does the rest inside.

`accelerate launch --cpu --num_processes 2` would silently run one process; torch's launcher with ACCELERATE_USE_CPU runs two.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import torch


def launch(module: str, arguments: Sequence[str], processes: int) -> int:
    """Run `python -m module arguments` in `processes` processes and wait; returns the exit status, 143 where stopped.

    One device each on CUDA; on a CPU the threads are shared out. SIGTERM and Ctrl-C are handed on, so that the run saves.
    Raises ValueError for more processes than CUDA devices.
    """
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes < 1 or (devices and processes > devices):
        allowed = f"1..{devices}, one for each CUDA device" if devices else "1 or more"
        raise ValueError(f"num_processes was {processes}; allowed are {allowed}")
    env = dict(os.environ, LABCORE_HEADLESS="1", OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // processes)))
    if not devices:
        env["ACCELERATE_USE_CPU"] = "true"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    child = subprocess.Popen([*command, "-m", module, *arguments], env=env, start_new_session=True)
    stopped = False

    def hand_on(*_) -> None:
        nonlocal stopped
        stopped = True
        child.terminate()  # a SIGTERM also for Ctrl-C: the launcher hands it to every process once

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 143 if stopped and status else status
