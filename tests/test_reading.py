"""Pictures are decoded by other processes wherever something is computed of them, to the same numbers in the same order."""

import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from conftest import perturbed
from PIL import Image

from labcore import driver, encoders, reading
from labcore.data import load
from labcore.data.loaders import StepSampler, in_order, micro_batches
from labcore.derived import Derived, derive
from labcore.encoders.cache import cached_tokens
from labcore.evaluate import hiddens
from labcore.evaluate.extractors import Extractor
from labcore.evaluate.hiddens import hidden_features
from labcore.evaluate.statistics import image_features
from labcore.latents.codec import Pixels
from labcore.latents.store import cached_raw
from labcore.processes import process_device
from labcore.spread import spread
from labcore.train.targets import Cached
from labcore.types import Batch

CHUNK = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dozen small JPEGs in two classes, twice."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.jpg")
    return root


@pytest.fixture(scope="module")
def pictures(folder):
    return load("folder", "train", folder, 8)


@pytest.fixture
def processes(monkeypatch) -> list[int]:
    """How many processes each loader was given; they are two where images are few, too."""
    given: list[int] = []
    real = reading.loader_of

    def watched(dataset, num_workers, **options):
        given.append(num_workers)
        return real(dataset, num_workers, **options)

    monkeypatch.setattr(reading, "loader_of", watched)
    monkeypatch.setattr(reading, "readers", lambda dataset, count: 2 if dataset.decodes and count else 0)
    return given


def test_parts_come_in_order_as_they_are_here(pictures):
    parts = [range(7, 12), range(0, 3), range(3, 4)]
    for workers in (0, 2):
        found = list(reading.parts_of(pictures, parts, num_workers=workers))
        for part, (images, labels) in zip(parts, found, strict=True):
            here = pictures.__getitems__(list(part))
            assert torch.equal(images, here[0]) and torch.equal(labels, here[1])
    assert list(reading.parts_of(pictures, [], num_workers=2)) == []


class Mean(torch.nn.Module):
    def forward(self, images):
        return (images.float().mean((2, 3)),)


def extractor() -> Extractor:
    return Extractor("mean", Mean(), {"pool": 3}, "none", "none")


def derived(pictures, root, **options):
    what = Derived("mean", lambda x: x.mean((2, 3)), (3,), {"what": "mean"}, CHUNK, 1)
    return derive(what, pictures, root, dtype="float32", **options)


def test_what_is_computed_is_bit_equal(pictures, tmp_path):
    for flipped in (False, True):
        one, two = (derived(pictures, tmp_path / str(n), flipped=flipped, num_workers=n) for n in (0, 2))
        assert torch.equal(one, two) and len(one) == 12
    one, two = (image_features(pictures, extractor(), tmp_path / f"f{n}", num_workers=n)["pool"] for n in (0, 2))
    assert torch.equal(one, two) and one.std() > 0


def test_everything_that_looks_at_pictures_reads_them_so(pictures, processes, tmp_path, monkeypatch):
    """Tokens, latents, features, hiddens: by processes of their own where the set is large and decoded."""
    encoder = encoders.untrained("efficientnet-lite0")
    tokens = lambda root: cached_tokens(encoder, spread(pictures, 2), 2, root=tmp_path / root)  # noqa: E731
    flow = perturbed(dtype=torch.float32)
    calls = {
        "tokens": tokens,
        "latents": lambda root: cached_raw(Pixels(3), pictures, 8, root=tmp_path / root),
        "features": lambda root: image_features(pictures, extractor(), tmp_path / root)["pool"],
        "hiddens": lambda root: hidden_features(flow, pictures, [(1, 1)], tmp_path / root, chunk=CHUNK)[1, 1],
    }
    two = {name: call("two") for name, call in calls.items()}
    assert processes == [2] * len(calls)
    monkeypatch.setattr(reading, "readers", lambda dataset, count: 0)
    for name, call in calls.items():
        assert torch.equal(call("none"), two[name]), name
    assert hiddens.parts_of is reading.parts_of


def test_how_many_processes_read(pictures, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16))
    shipped = load("fashion-mnist-12k", "test")
    assert reading.readers(pictures, 100_000) == 8
    assert reading.readers(pictures.subset([0]), 100_000) == 8
    assert reading.readers(pictures, 12) == 0 and reading.readers(shipped, 100_000) == 0  # few; none are decoded
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert reading.readers(pictures, 100_000) == 1
    assert in_order(pictures, 5).num_workers == 0


def test_tokens_on_disk_are_read_with_the_images(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
    targets = Cached(encoders.untrained("efficientnet-lite0"), pictures, 2, mirror=True)
    assert not torch.equal(*targets.tokens)
    sampler = StepSampler(12, 4, 0, 0, 3)
    for images, labels, rows, *extra in micro_batches(pictures, sampler, 2, extra=targets.read):
        x, mirrored = images.float(), rows % 2 == 0
        batch = Batch(x, labels, rows, mirrored)
        assert all(torch.equal(a, b[rows]) for a, b in zip(extra, targets.tokens, strict=True))
        assert torch.equal(targets(batch), targets(batch._replace(extra=tuple(extra))))


PARENT = """
import sys, time
from labcore.data import load
from labcore.reading import parts_of
data = load("folder", "train", sys.argv[1], 8)
parts = parts_of(data, [range(i % 12, i % 12 + 1) for i in range(10**5)], num_workers=2)
next(parts)
from multiprocessing import active_children
print(*(child.pid for child in active_children()), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_readers_end_with_their_parent(folder):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    until = time.time() + 10
    while time.time() < until and any(alive(pid) for pid in pids):
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# a GPU that torch cannot use


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """A driver's command that lists one card; torch finds none."""
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver.has_cuda.cache_clear()
    yield command
    driver.has_cuda.cache_clear()


def old_driver() -> bool:
    warnings.warn("The NVIDIA driver on your system is too old (found version 11040).\nPlease update", stacklevel=2)
    return False


def test_an_old_driver_is_one_message(smi, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", old_driver)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert process_device() == process_device() == "cpu"
    (message,) = (str(each.message) for each in said)
    assert message.startswith("GPU 0: NVIDIA H100 is not used: The NVIDIA driver on your system is too old")
    assert "runs on the CPU; update the NVIDIA driver" in message and "\n" not in message
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA" in driver.problem("GPU 0", [])


@pytest.mark.parametrize("why", ["no card", "broken", "hidden by the user"])
def test_no_gpu_is_no_message(smi, monkeypatch, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if why == "hidden by the user":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    else:
        smi.write_text("#!/bin/sh\n" + ("exit 9\n" if why == "broken" else "echo No devices found\n"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert process_device() == "cpu"
