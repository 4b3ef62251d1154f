"""labcore: understand, train and use transformer normalizing flows.

TARFlow (arXiv 2412.06329) is the foundation; FlowBack / R-REPA (2511.22345) aligns its features with a frozen vision encoder;
BiFlow (2512.10953) learns its inverse. Names below are imported on first use, so `import labcore` is quick.
"""

from __future__ import annotations

import importlib

__version__ = "0.2.0"

_NAMES = {
    "TarFlow": "labcore.flows.tarflow",
    "TarFlowConfig": "labcore.config",
    "BackwardModel": "labcore.biflow.model",
    "BackwardConfig": "labcore.config",
    "invert": "labcore.inverse.solve",
    "denoise": "labcore.inverse.denoise",
    "sample": "labcore.inverse.sample",
    "explore": "labcore.runs.explore",
}
_PACKAGES = (
    "align",
    "biflow",
    "config",
    "data",
    "encoders",
    "evaluate",
    "flows",
    "guidance",
    "inverse",
    "kernels",
    "latents",
    "nn",
    "provenance",
    "rng",
    "runs",
    "store",
    "train",
    "types",
    "viz",
    "zoo",
)

__all__ = [*_NAMES, *_PACKAGES]


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"labcore.{name}")
    raise AttributeError(f"module 'labcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
