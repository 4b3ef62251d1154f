"""Environment variables that accelerate reads: they may describe the launch of processes, and must not change the training.

`accelerate config` and other people's scripts leave such variables behind. ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 would
silently quarter the gradients, ACCELERATE_DYNAMO_BACKEND would compile, ACCELERATE_USE_FSDP would shard. Only a run's
configuration decides: accelerate does not see these variables while a run trains.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

PREFIXES = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_")
"""Of accelerate's own variables (accelerate 1.15). RANK, WORLD_SIZE, MASTER_ADDR and their like are the launcher's."""
LAUNCH = {"ACCELERATE_USE_CPU"}
"""Set by labcore's launcher: processes on a CPU."""
OFF = {"", "0", "no", "none", "false", "off", "n", "f", "default"}
"""Values that switch nothing on, which `accelerate launch` sets for everything it was not asked for."""


def on_cpu() -> bool:
    """Return whether the launcher requests the CPU. ValueError for a value that is neither yes nor no."""
    value = os.environ.get("ACCELERATE_USE_CPU", "").strip().lower()
    if value in OFF:
        return False
    if value in {"1", "true", "yes", "on", "y", "t"}:
        return True
    raise ValueError(f"the environment variable ACCELERATE_USE_CPU is {value!r}; give true or false, or unset it")


@contextlib.contextmanager
def configuration_alone() -> Iterator[None]:
    """Hide accelerate's variables inside, with one warning that names those that would change the training."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(PREFIXES) and name not in LAUNCH}
    asking = sorted(name for name, value in hidden.items() if value.strip().lower() not in OFF)
    if asking and os.environ.get("RANK", "0") == "0":
        variables = ", ".join(f"{name}={hidden[name]}" for name in asking)
        warnings.warn(
            f"ignored environment variables: {variables}. The run's configuration alone decides how it is trained; set train.* "
            "there, and unset these",
            stacklevel=3,
        )
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
