"""The compiled token loop: the plain way's numbers for every option of a flow, and the plain way where it cannot be had."""

import multiprocessing
import os
import stat
import warnings

import pytest
import torch
from conftest import OPTIONS, perturbed

from labcore import invert
from labcore.finite import NotFinite
from labcore.inverse import native as token_loop
from labcore.inverse.solve import way_of
from labcore.kernels import dispatch, native


@pytest.fixture(scope="module", autouse=True)
def compiled():
    if native.library() is None:
        pytest.skip("needs a C compiler")


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """No library is loaded yet, and the cache folder is empty."""
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    native.library.cache_clear()
    yield tmp_path / "cache" / "native"
    native.library.cache_clear()


@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("images", [1, 2, 7])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_the_numbers_of_float64(name, images, guidance):
    exact, flow = perturbed(**OPTIONS[name]), perturbed(dtype=torch.float32, **OPTIONS[name])
    flow.load_state_dict(exact.state_dict())
    c = flow.config
    z = torch.randn(images, c.tokens, c.token_dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.arange(images) % c.num_classes - 1 if c.num_classes else None
    how = dict(guidance_schedule="linear", attn_temp=0.7)
    strength = torch.linspace(0.5, 1, images) * guidance
    wanted = invert(exact, z, y, strength.double(), **how)
    found = invert(flow, z.float(), y, strength, **how)
    assert way_of(flow) == "native" and way_of(exact) == "plain"
    assert (found.x - wanted.x).abs().amax() <= 1e-5 * wanted.x.abs().amax()
    assert found.stats == wanted.stats


@pytest.mark.parametrize("sizes", [dict(head_dim=4), dict(width=24, head_dim=12), dict(patch_size=4, image_size=12)])
def test_sizes_that_fill_no_panel(sizes):
    for more in ({}, dict(positions="rope", mlp="swiglu", norm="rmsnorm")):
        exact = perturbed(**sizes, **more)
        flow = perturbed(dtype=torch.float32, **sizes, **more)
        flow.load_state_dict(exact.state_dict())
        z = torch.randn(5, flow.config.tokens, flow.config.token_dim)
        wanted = invert(exact, z.double(), None).x
        assert (invert(flow, z).x - wanted).abs().amax() <= 1e-5 * wanted.abs().amax()


def test_an_image_does_not_depend_on_the_batch_or_the_threads():
    flow = perturbed(dtype=torch.float32)
    z, y = torch.randn(7, flow.config.tokens, flow.config.token_dim), torch.arange(7) % 5
    g, weights = torch.ones(7, 1), torch.ones(flow.config.tokens)
    block = flow.blocks[-1]
    ways = [token_loop.solve(block, z, y, g, weights, threads=threads) for threads in (1, 2, 3, 16)]
    ways.append(torch.cat([token_loop.solve(block, z[i : i + 1], y[i : i + 1], g[:1], weights) for i in range(7)]))
    assert all(torch.equal(ways[0], other) for other in ways[1:])


@pytest.mark.parametrize("architecture", [{}, dict(positions="rope", mlp="swiglu", norm="rmsnorm", affine_clamp=0.3)])
@pytest.mark.parametrize("width", [256, 264])
def test_threads_that_share_an_image_change_no_number(width, architecture):
    """A block of more than 2 MiB, whose layers are shared out where there are few rows; 264 channels fill no panel."""
    sizes = dict(width=width, head_dim=width // 11 if width % 11 == 0 else 64, layers_per_block=1, num_blocks=1)
    exact, flow = (perturbed(0.02, dtype, **sizes, **architecture) for dtype in (torch.float64, torch.float32))
    flow.load_state_dict(exact.state_dict())
    block, weights = flow.blocks[0], torch.ones(flow.config.tokens)
    z = torch.randn(3, flow.config.tokens, flow.config.token_dim, generator=torch.Generator().manual_seed(0))
    y, g = torch.arange(3), torch.tensor([[0.0], [1.0], [2.0]])
    for images, strength in ((1, None), (3, None), (1, g), (2, g), (3, g)):
        given = z[:images], y[:images], None if strength is None else strength[-images:], weights
        alone, *shared = (token_loop.solve(block, *given, threads=threads) for threads in (1, 2, 3, 16))
        assert all(torch.equal(alone, other) for other in shared)
    wanted = invert(exact, z[:1].double(), y[:1], 2.0).x
    assert (invert(flow, z[:1], y[:1], 2.0).x - wanted).abs().amax() <= 1e-5 * wanted.abs().amax()


def test_weights_that_change_are_seen():
    flow, other = perturbed(dtype=torch.float32), perturbed(dtype=torch.float32, seed=5)
    z = torch.randn(2, flow.config.tokens, flow.config.token_dim)
    before, wanted = invert(flow, z).x, invert(other, z).x
    for p, q in zip(flow.parameters(), other.parameters(), strict=True):
        p.data = q.data.clone() if p.ndim > 1 else p.data.copy_(q.data)  # neither is counted by torch
    assert torch.equal(invert(flow, z).x, wanted) and not torch.equal(before, wanted)
    with torch.inference_mode():
        assert torch.equal(invert(flow, z).x, wanted)


def test_what_overflows_is_refused_as_the_plain_way_refuses_it():
    flow = perturbed(dtype=torch.float32)
    flow.blocks[0].params_out.bias.data[:12] = 200.0
    z = torch.randn(2, flow.config.tokens, flow.config.token_dim)
    refusals = []
    for way in (False, None):
        with pytest.raises(NotFinite) as error:
            invert(flow, z, compiled=way)
        refusals.append(str(error.value))
    assert refusals[0] == refusals[1] and "from block 1 on" in refusals[0]


def test_other_formats_devices_and_wishes_go_the_plain_way():
    flow = perturbed(dtype=torch.float32)
    z = torch.randn(1, flow.config.tokens, flow.config.token_dim)
    assert token_loop.fits(z) and not token_loop.fits(z.double())
    assert invert(flow, z[:0]).x.shape == (0, *flow.config.image_shape)
    with torch.autocast("cpu", torch.bfloat16):
        assert not token_loop.fits(z)
    with dispatch.use("torch"):
        assert not token_loop.fits(z) and way_of(flow) == "plain"
    seen = []
    invert(flow, z, callback=lambda sweep: seen.append(sweep.number))
    assert len(seen) == len(flow.blocks) * (flow.config.tokens - 1)


def test_the_threads_of_the_caller_stay_as_they_were(monkeypatch):
    before = torch.get_num_threads()
    flow = perturbed(dtype=torch.float32)
    invert(flow, torch.randn(4, flow.config.tokens, flow.config.token_dim))
    assert torch.get_num_threads() == before


def script(folder, text):
    file = folder / "compiler"
    file.write_text("#!/bin/sh\n" + text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


@pytest.mark.parametrize("fault", ["missing", "broken", "empty", "hangs"])
def test_without_a_compiler_the_plain_way_with_one_message(anew, tmp_path, monkeypatch, caplog, fault):
    texts = {"broken": "echo 'error: no headers' >&2; exit 1", "empty": 'touch "$6"', "hangs": "exec sleep 60"}
    monkeypatch.setenv("CC", "no-such-compiler" if fault == "missing" else script(tmp_path, texts[fault]))
    monkeypatch.setattr(native, "LIMIT", 0.2 if fault == "hangs" else 60.0)
    flow = perturbed(dtype=torch.float32)
    z = torch.randn(1, flow.config.tokens, flow.config.token_dim)
    plain = invert(flow, z, compiled=False).x
    assert torch.equal(invert(flow, z).x, plain) and torch.equal(invert(flow, z).x, plain)
    assert [r.message for r in caplog.records].count(caplog.records[0].message) == len(caplog.records) == 1
    assert "without compiled code" in caplog.records[0].message


def test_it_is_kept_and_found_again(anew, monkeypatch):
    native.load()
    assert len(list(anew.iterdir())) == 1
    monkeypatch.setattr(native, "build", lambda *_: pytest.fail("compiled again"))
    native.load()
    monkeypatch.undo()


def test_another_processor_compiler_or_source_gets_its_own(anew, monkeypatch, tmp_path):
    words = native.compiler()
    keys = {native.key(words)}
    with monkeypatch.context() as patch:
        patch.setattr(native, "processor", lambda: "another")
        keys.add(native.key(words))
    with monkeypatch.context() as patch:
        (tmp_path / "other.c").write_text(native.SOURCE.read_text() + "\n")
        patch.setattr(native, "SOURCE", tmp_path / "other.c")
        keys.add(native.key(words))
    assert len(keys) == 3


@pytest.mark.slow
def test_a_damaged_file_and_a_folder_that_cannot_be_written_do_no_harm(anew, monkeypatch):
    native.load()
    (kept,) = anew.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert native.load().solve_block
    monkeypatch.setenv("LABCORE_CACHE", "/dev/null/nowhere")
    assert native.load().solve_block


def _load_in_a_child(_) -> bool:
    return native.load() is not None


@pytest.mark.slow
def test_processes_that_compile_at_once_and_a_fork_after_first_use(anew):
    flow = perturbed(dtype=torch.float32)
    z = torch.randn(3, flow.config.tokens, flow.config.token_dim)
    wanted = invert(flow, z).x
    with warnings.catch_warnings(), multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(pool.map(_load_in_a_child, range(2), 1))
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, b"1" if torch.equal(invert(flow, z).x, wanted) else b"0")
        os._exit(0)
    assert os.read(reader, 1) == b"1"
    os.wait()


@pytest.mark.slow
def test_a_library_that_changed_is_never_loaded(anew, caplog):
    native.load()
    (kept,) = anew.iterdir()
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1  # loadable still
    kept.write_bytes(data)
    native.load()
    assert "has changed since it was compiled; it is compiled again" in caplog.text
    (again,) = anew.iterdir()
    assert again.read_bytes() != bytes(data)
