"""Marks of the tests on a GPU, and the state of torch that each of them starts from. Imports no more than torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from gpu.device import CUDA

HERE = Path(__file__).parent


def pytest_configure(config) -> None:
    """Where tests run on a GPU, import labcore without the shape checks: torch.compile cannot trace them."""
    if CUDA and "not gpu" not in config.option.markexpr:
        sys.meta_path[:] = [found for found in sys.meta_path if type(found).__module__ != "jaxtyping._import_hook"]


def pytest_collection_modifyitems(items) -> None:
    if CUDA:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.gpu)


@pytest.fixture
def record_property(record_property):
    """pytest's own, with values as text: processes of xdist cannot send each other versions, tensors and NumPy's numbers."""
    return lambda name, value: record_property(name, str(value))


@pytest.fixture(autouse=True)
def as_it_was():
    """Full float32 products, and nothing left behind: modes and memory of one test are not those of the next."""
    if not CUDA:
        yield
        return
    from labcore import tf32

    with tf32.use(False):
        yield
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
