"""Memory of recorded steps: which is kept, which makes room, and how many images are drawn at a time."""

import importlib

import torch
from conftest import perturbed

from labcore import invert, sample
from labcore.inverse import compiled
from labcore.inverse.workspaces import Workspaces, chunk_that_fits


class Workspace:
    bytes, failed = 10, False


def test_idle_workspaces_are_few_and_the_last_used(monkeypatch):
    idle, device = Workspaces(most=2), torch.device("cpu")
    held = {key: Workspace() for key in "abc"}
    for key, workspace in held.items():
        assert idle.take(key, lambda workspace=workspace: workspace, 10, device) is workspace
    for key, workspace in held.items():
        idle.keep(key, workspace)
    assert list(idle.idle) == ["b", "c"] and idle.bytes() == 20
    assert idle.take("b", Workspace, 10, device) is held["b"] and idle.take("b", Workspace, 10, device) is not held["b"]
    failed = Workspace()
    failed.failed = True
    idle.keep("d", failed)
    assert list(idle.idle) == ["c"]

    idle.keep("b", held["b"])
    free = iter([30, 40])  # as much again is free after one was dropped
    monkeypatch.setattr("labcore.inverse.workspaces.free_bytes", lambda device: next(free))
    idle.take("e", Workspace, 20, device)
    assert list(idle.idle) == ["b"], "the one used least recently made room"
    free = iter([9, 9])
    idle.make_room(10, device)
    assert not idle.idle and next(free) == 9, "without idle ones, memory is not asked for"


def test_chunks_fit_half_of_the_free_memory():
    config = perturbed().config  # 2 layers, 16 tokens, width 16: 4096 bytes of keys and values a row in float32
    row = 2 * 2 * 16 * 16 * 4
    fit = lambda asked, branches, free, dtype=torch.float32: chunk_that_fits(asked, branches, config, dtype, free)  # noqa: E731
    assert fit(100, 1, None) == fit(100, 1, 10**9) == 100
    assert fit(100, 1, 2 * 16 * row) == 16 and fit(100, 2, 2 * 16 * row) == 8
    assert fit(100, 1, 2 * 17 * row) == 16, "17 rows are filled up to 32"
    assert fit(100, 1, 2 * 16 * row, torch.bfloat16) == 32
    assert fit(100, 2, 0) == 1
    for rows in range(1, 300):
        n = fit(100, 2, 2 * rows * row)
        assert 1 <= n <= 100 and (n == 1 or compiled.padded(2 * n) <= rows)


def test_drawing_in_parts_is_drawing_at_once(monkeypatch):
    flow, sizes = perturbed(), []
    guidance = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])
    want = sample(flow, 5, torch.arange(5), guidance, seed=1)
    module, real = importlib.import_module("labcore.inverse.sample"), invert

    def counted(flow, z, *rest, **more):
        sizes.append(len(z))
        return real(flow, z, *rest, **more)

    monkeypatch.setattr(module, "invert", counted)
    monkeypatch.setattr(module, "free_bytes", lambda device: 2 * 4 * 2 * 2 * 16 * 16 * 8)
    torch.testing.assert_close(sample(flow, 5, torch.arange(5), guidance, seed=1), want, atol=1e-9, rtol=0)
    assert sizes == [2, 2, 1]
