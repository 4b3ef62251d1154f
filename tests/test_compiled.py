"""The compiled step of a token is the plain one, whatever the flow, the batch and the solver; and it may fail."""

import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from conftest import perturbed

from labcore import invert
from labcore.inverse import compiled

MODERN = dict(norm="rmsnorm", mlp="swiglu", positions="rope", head_dim=16, width=32)


@pytest.fixture
def programs(monkeypatch):
    """Programs of this test alone, not compiled; the sizes of each call."""
    calls = []

    def step(u, *rest):
        calls.append(len(u))
        return compiled.token_step(u, *rest)

    monkeypatch.setattr(compiled, "_WORKS", {})
    monkeypatch.setattr(compiled, "program", lambda: step)
    return calls


@pytest.mark.parametrize("changes", [{}, MODERN, {"volume_preserving": True, "affine_clamp": 0.5}], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance": 1.5},
        {"guidance": torch.tensor([0.0, 0.5, 2.0]), "attn_temp": 0.6},
        {"solver": "gs-jacobi", "segments": 4},
        {"solver": "jacobi", "tolerance": 1e-3},
    ],
    ids=str,
)
def test_the_same_function(changes, settings, programs):
    flow = perturbed(**changes)
    z = torch.randn(3, 16, 12, dtype=torch.float64)  # 3 images are filled up to 4, 6 branches to 8
    for y in (torch.tensor([1, 4, -1]), None) if "guidance" not in settings else (torch.tensor([1, 4, -1]),):
        want, got = invert(flow, z, y, **settings), invert(flow, z, y, compiled=True, **settings)
        torch.testing.assert_close(got.x, want.x, atol=1e-10, rtol=0)
        assert got.stats == want.stats
    assert set(programs) <= {1, 2, 4, 8}
    assert bool(programs) == ("solver" not in settings)  # sweeps go the plain way


def test_under_autocast_there_is_one_program_a_size(monkeypatch):
    """Weights and cache are cast once; the program is tried with what it is used with."""
    flow, seen = perturbed(dtype=torch.float32), set()

    def step(u, position, *rest):
        seen.add((len(u), u.dtype, rest[-1][0][0].dtype))
        return compiled.token_step(u, position, *rest)

    monkeypatch.setattr(compiled, "_WORKS", {})
    monkeypatch.setattr(compiled, "program", lambda: step)
    z, y = torch.randn(3, 16, 12), torch.tensor([1, 4, -1])
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings(action="error"):
        got, plain = invert(flow, z, y, compiled=True).x, invert(flow, z, y).x
    assert seen == {(4, torch.float32, torch.bfloat16)}
    torch.testing.assert_close(got, plain, atol=0.05, rtol=0)
    torch.testing.assert_close(plain, invert(flow, z, y).x, atol=0.05, rtol=0)
    assert not torch.equal(plain, invert(flow, z, y).x)


def test_rows_are_rounded_up():
    assert [compiled.padded(n) for n in (1, 2, 3, 32, 33, 64, 65, 80, 200, 256)] == [
        1,
        2,
        4,
        32,
        64,
        64,
        80,
        80,
        208,
        256,
    ]


def test_without_classes(programs):
    flow = perturbed(num_classes=0)
    z = torch.randn(2, 16, 12, dtype=torch.float64)
    settings = {"guidance": 0.5, "attn_temp": 0.3}
    torch.testing.assert_close(
        invert(flow, z, compiled=True, **settings).x, invert(flow, z, **settings).x, atol=1e-10, rtol=0
    )
    assert set(programs) == {4}


def test_large_batches_go_the_plain_way(programs):
    flow = perturbed()
    z = torch.randn(compiled.LARGEST["cpu"] + 1, 16, 12, dtype=torch.float64)
    assert torch.equal(invert(flow, z, compiled=True).x, invert(flow, z).x)
    assert not programs


def test_says_that_it_compiles_once_for_all_blocks_tokens_and_flows_of_a_size(programs, caplog):
    for seed, images in ((0, 2), (1, 2), (0, 3), (0, 4)):
        invert(perturbed(seed=seed), torch.randn(images, 16, 12, dtype=torch.float64), compiled=True)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "2 layers" in said[0] and "2 rows, 16 tokens" in said[0] and "4 rows" in said[1]


def test_falls_back_with_one_message(programs, monkeypatch):
    def broken():
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(compiled, "program", broken)
    flow, z = perturbed(), torch.randn(2, 16, 12, dtype=torch.float64)
    with pytest.warns(UserWarning, match="does not work here .No working C.* going on without it") as seen:
        got = invert(flow, z, compiled=True)
    assert len(seen) == 1
    assert torch.equal(got.x, invert(flow, z).x)


def test_what_cannot_be_compiled_again_goes_the_plain_way(programs, monkeypatch):
    """Something that a program depends on, and the lab does not know of, has changed, and the compiler has had enough."""
    flow, z = perturbed(), torch.randn(2, 16, 12, dtype=torch.float64)
    invert(flow, z, compiled=True)

    def enough(*_):
        raise RuntimeError("recompile limit reached")

    monkeypatch.setattr(compiled, "program", lambda: enough)
    with pytest.warns(UserWarning, match="recompile limit reached.*going on without it") as seen:
        got = invert(flow, z, compiled=True)
    assert len(seen) == 1
    assert torch.equal(got.x, invert(flow, z).x)


def test_no_images(programs):
    assert invert(perturbed(), torch.zeros(0, 16, 12, dtype=torch.float64), compiled=True).x.shape == (0, 3, 8, 8)
    assert not programs


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, MODERN], ids=str)
def test_really_compiled(changes):
    """In a process of its own: the shape checks that pytest switches on are not for compilers."""
    code = f"""
        import warnings
        warnings.filterwarnings("error", message=".*torch.compile does not work.*")
        import torch
        from labcore import TarFlow, TarFlowConfig, invert
        torch.manual_seed(0)
        config = dict(image_size=8, channels=3, patch_size=2, width=32, num_blocks=3, layers_per_block=2, num_classes=5)
        config |= dict(head_dim=16)
        flow = TarFlow(TarFlowConfig(**{{**config, **{changes}}})).eval()
        for p in flow.parameters():
            p.data.add_(0.05 * torch.randn_like(p))
        for images in (1, 3):
            z, y = torch.randn(images, 16, 12), torch.arange(images)
            for g in (0.0, 1.0):
                want, got = invert(flow, z, y, g), invert(flow, z, y, g, compiled=True)
                torch.testing.assert_close(got.x, want.x, atol=1e-5, rtol=0)
        from torch._dynamo.utils import counters
        print(counters["stats"]["unique_graphs"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4"]  # 1, 2, 4 and 8 rows
    assert "complex" not in done.stderr
