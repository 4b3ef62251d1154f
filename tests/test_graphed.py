"""The recorded step of a token on a CPU, where it is called instead of recorded: what is copied, kept, shared and given up."""

import functools
import gc
import subprocess
import sys
import textwrap
import warnings
import weakref

import pytest
import torch
from conftest import perturbed
from torch.utils._pytree import tree_flatten, tree_unflatten

from labcore import invert, sample
from labcore.evaluate.generate import Sampling, generate
from labcore.evaluate.record import differences, of_samples
from labcore.finite import NotFinite
from labcore.inverse import calibrate as calibrating
from labcore.inverse import compiled, graphed, recording, solve
from labcore.inverse.graphed import GraphedDecoder, RecordedDecoder, prefixes
from labcore.inverse.methods import Method
from labcore.inverse.params import GuidedParams
from labcore.inverse.solve import way_of
from labcore.inverse.workspaces import IDLE
from labcore.kernels import dispatch
from labcore.timing import Timing

MODERN = dict(norm="rmsnorm", mlp="swiglu", positions="rope", head_dim=16, width=32)
Y = torch.tensor([1, 4, -1])


@pytest.fixture
def recordings(monkeypatch):
    """CUDA's decoders for CPUs: steps are called again instead of recorded; the sizes (rows, d) of each recording.

    As a recording, a step keeps nothing alive of what it reads, and writes its result to the same place each time.
    """
    made = []

    def record(step, given):
        leaves, tree = tree_flatten(given)
        held = [weakref.ref(leaf) if isinstance(leaf, torch.Tensor) else lambda leaf=leaf: leaf for leaf in leaves]
        is_tensor = [isinstance(leaf, torch.Tensor) for leaf in leaves]
        made.append(tuple(given[0].shape))
        out = step(*given)

        def replay():
            found = [leaf() for leaf in held]
            assert not any(tensor and leaf is None for tensor, leaf in zip(is_tensor, found, strict=True))
            return out.copy_(step(*tree_unflatten(found, tree)))

        return replay

    monkeypatch.setitem(dispatch.DEFAULT, "cpu", "torch")
    monkeypatch.setattr(graphed, "record", record)
    monkeypatch.setattr(graphed, "layer_programs", lambda before: (before, graphed.after_attention))
    monkeypatch.setattr(graphed, "_BROKEN", [])
    monkeypatch.setattr(compiled, "_WORKS", {})
    monkeypatch.setattr(solve, "_DECODERS", {"cpu": GraphedDecoder})
    monkeypatch.setattr(solve, "_AUTOMATIC", {"cpu": RecordedDecoder})
    IDLE.idle.clear()
    yield made
    IDLE.idle.clear()


def noise(images=3, seed=0, dtype=torch.float64):
    return torch.randn(images, 16, 12, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def same(flow, z, y=Y, **settings):
    """The inverse by recordings of both kinds is the plain one."""
    want = invert(flow, z, y, compiled=False, **settings)
    for way in (None, True):
        got = invert(flow, z, y, compiled=way, **settings)
        torch.testing.assert_close(got.x, want.x, atol=1e-10, rtol=0)
        assert got.stats == want.stats


@pytest.mark.parametrize("changes", [{}, MODERN, {"volume_preserving": True, "affine_clamp": 0.5}], ids=str)
@pytest.mark.parametrize("settings", [{}, {"guidance": torch.tensor([0.0, 0.5, 2.0]), "attn_temp": 0.6}], ids=str)
def test_one_recording_of_each_kind_serves_all_blocks(changes, settings, recordings):
    same(perturbed(**changes), noise(), **settings)
    assert recordings == 2 * [(8 if settings else 4, 12)]


@pytest.mark.slow
def test_a_recording_sees_new_numbers_and_other_flows(recordings):
    one, other = perturbed(), perturbed(seed=1)
    same(one, noise())
    same(one, noise(seed=1))
    same(one, noise(), torch.tensor([0, 0, 3]))
    same(other, noise())
    with torch.no_grad():
        for p in one.parameters():
            p.mul_(1.1)
    same(one, noise())
    one.load_state_dict({name: x.clone() for name, x in other.state_dict().items()}, assign=True)
    same(one, noise())
    assert len(recordings) == 2, "nothing was recorded again"
    same(one, noise(), None)
    assert len(recordings) == 4, "one class for all is another kind of step"


def test_prefixes_of_the_cache():
    assert prefixes(256) == (64, 128, 192, 256)
    assert prefixes(1024) == (256, 512, 768, 1024)
    assert prefixes(49) == (49,) and prefixes(64) == (64,) and prefixes(100) == (64, 100)
    assert prefixes(300) == (80, 160, 240, 300)
    for tokens in range(1, 700):
        found = prefixes(tokens)
        assert found[-1] == tokens and len(found) <= 4 and list(found) == sorted(set(found))


def test_each_prefix_is_recorded_once_and_the_rest_is_not_read(recordings, monkeypatch):
    monkeypatch.setattr(graphed, "prefixes", lambda tokens: (4, 8, 12, 16))
    read, attention = [], graphed.attention

    def looked(q, keys, values, mask):
        read.append(keys.shape[2])
        return attention(q, keys, values, mask)

    monkeypatch.setattr(graphed, "attention", looked)
    same(perturbed(), noise())
    assert len(recordings) == 8 and set(read) == {4, 8, 12, 16}


def test_numbers_that_are_not_finite_do_not_stay(recordings):
    flow = perturbed()
    bad = perturbed()
    with torch.no_grad():
        bad.blocks[2].layers[0].attention.qkv.bias.fill_(float("nan"))
    with pytest.raises(NotFinite, match="from block 3 on"):
        invert(bad, noise(), Y)
    same(flow, noise())


def test_a_workspace_has_one_user(recordings):
    """Two blocks of equal sizes, solved in turn."""
    flow, z = perturbed(), noise()
    settings = (Y, z, None, torch.ones(16, dtype=torch.float64))
    recorded = [GuidedParams(block, *settings, decoder=RecordedDecoder) for block in flow.blocks[:2]]
    plain = [GuidedParams(block, *settings) for block in flow.blocks[:2]]
    for position in range(15):
        u = z[:, position : position + 1]
        for got, want in zip(recorded, plain, strict=True):
            for a, b in zip(got.after(u), want.after(u), strict=True):
                torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    assert len(recordings) == 2 and not IDLE.idle
    part = recorded[0].take(torch.tensor([2, 0]))
    a, b = (each.after(z[[2, 0], 15:]) for each in (part, plain[0].take(torch.tensor([2, 0]))))
    torch.testing.assert_close(a[1], b[1], atol=1e-10, rtol=0)
    del part, recorded, got
    gc.collect()
    assert len(IDLE.idle) == 2, "of 3 workspaces, those of equal keys are one"


def test_falls_back_with_one_warning(recordings, monkeypatch):
    def refused(step, given):
        step(*given)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphed, "record", refused)
    flow, z = perturbed(), noise()
    want = invert(flow, z, Y, compiled=False)
    with pytest.warns(UserWarning, match=r"a CUDA graph does not work here \(oper.* capturing\); going on") as seen:
        for _ in range(2):
            assert torch.equal(invert(flow, z, Y).x, want.x)
    assert len(seen) == 1 and not IDLE.idle


def test_what_cannot_be_compiled_is_recorded_as_it_is(recordings, monkeypatch):
    def broken(*_):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(graphed, "layer_programs", lambda before: (broken, broken))
    flow = perturbed()
    with pytest.warns(UserWarning, match="torch.compile does not work here .No working.*recording the plain") as seen:
        for images in (1, 3):
            z = noise(images)
            want = invert(flow, z, Y[:images], compiled=False)
            got = invert(flow, z, Y[:images], compiled=True)
            torch.testing.assert_close(got.x, want.x, atol=1e-10, rtol=0)
    assert len(seen) == 1 and len(recordings) == 2


def test_under_autocast(recordings):
    flow, z = perturbed(dtype=torch.float32), noise(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings(action="error"):
        plain, got = (invert(flow, z, Y, compiled=way).x for way in (False, None))
    torch.testing.assert_close(got, plain, atol=0.05, rtol=0)
    assert got.dtype == torch.float32 and not torch.equal(plain, invert(flow, z, Y, compiled=False).x)
    same_float32 = invert(flow, z, Y).x  # another kind: nothing of the recording under autocast is used
    torch.testing.assert_close(same_float32, invert(flow, z, Y, compiled=False).x, atol=1e-5, rtol=0)


def test_sizes_without_a_recording_go_the_plain_way(recordings):
    flow = perturbed()
    z = noise(compiled.LARGEST["cpu"] + 1)
    assert torch.equal(invert(flow, z).x, invert(flow, z, compiled=False).x)
    assert invert(flow, z[:0]).x.shape == (0, 3, 8, 8)
    same(flow, noise(), solver="gs-jacobi", segments=4)
    assert not recordings


def test_automatic_is_recorded_where_a_device_has_recordings(recordings, as_users_run):
    flow = perturbed()
    assert (solve.way_of(flow), solve.way_of(flow, compiled=False)) == ("recorded", "plain")
    assert solve.way_of(flow, compiled=True) == "compiled and recorded"
    assert solve.way_of(flow, "jacobi") == solve.way_of(flow, "gs-jacobi") == "plain"
    plain = sample(flow, 3, Y, seed=0, compiled=False)
    assert not recordings
    torch.testing.assert_close(sample(flow, 3, Y, seed=0), plain, atol=1e-9, rtol=0)
    assert len(recordings) == 1
    with pytest.raises(ValueError, match="compiled was 'yes'; allowed are True, False, and None"):
        invert(flow, noise(), compiled="yes")


def test_automatic_is_the_plain_way_on_a_cpu():
    flow = perturbed()
    assert (solve.way_of(flow), solve.way_of(flow, compiled=True)) == ("plain", "compiled")
    assert solve.decoder_for(None, torch.device("cuda")) is RecordedDecoder
    assert solve.decoder_for(True, torch.device("cuda")) is GraphedDecoder
    for way in (None, True, False):
        assert solve.decoder_for(way, torch.device("mps")).way == "plain"


def test_a_recording_that_fails_leaves_its_pool(monkeypatch):
    """The order of calls of a recording, with a graph that only notes them."""
    calls = []

    class Graph:
        def capture_begin(self, pool, capture_error_mode):
            calls.append((pool, capture_error_mode))

        def capture_end(self):
            calls.append("end")

    handles = iter("abc")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    monkeypatch.setattr(torch.cuda, "Stream", lambda index: f"stream of {index}")
    place = recording._Place(0)

    def refused(x):
        raise RuntimeError("not while capturing")

    assert place.capture(lambda x: x, (torch.zeros(2),))[1].shape == (2,)
    with pytest.raises(RuntimeError, match="not while"):
        place.capture(refused, (torch.zeros(2),))
    place.capture(lambda x: x, (torch.zeros(2),))
    mode = "thread_local"
    a, b = [("a", mode), "end"], [("b", mode), "end"]
    assert calls == [*a, *a, *a, *b, *b], "each pool has a recording that stays, so that it outlives all others"
    assert place.first[1].shape == (2,)


@pytest.mark.parametrize("length", [5, 8])
def test_attention_over_a_prefix_is_attention_over_what_was_seen(length):
    q, keys, values = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (1, length, length))
    seen = torch.arange(length) <= 2
    mask = torch.zeros(1, length, dtype=torch.float64).masked_fill_(~seen, float("-inf"))
    want = ((q @ keys[:, :, :3].mT / 2).softmax(-1) @ values[:, :, :3]).flatten(1)
    torch.testing.assert_close(graphed.attention(q, keys, values, mask), want)
    torch.testing.assert_close(compiled.attention(q, keys, values, seen).flatten(1), want)


@pytest.mark.slow
def test_a_calibration_tries_recordings_and_keeps_the_fastest(recordings, monkeypatch, as_users_run):
    """Seconds by the way: the plain one 3, a recording 2, a compiled one 1, and more for sweeps."""
    monkeypatch.setattr(calibrating, "RECORDINGS", {"cpu": (None, True)})
    cost, used = {"plain": 3.0, "recorded": 2.0, "compiled and recorded": 1.0}, []
    real = solve.invert_block
    monkeypatch.setattr(calibrating, "invert_block", lambda *given: used.append(given[-1]) or real(*given))
    whole = {"sequential": 9.0, "chosen": 4.0}

    def timed(ways, repeats, warmup):
        return {
            n: Timing(whole.get(n) or cost[solve.decoder_for(used[-1], torch.device("cpu")).way], 0.0) for n in ways
        }

    monkeypatch.setattr(calibrating, "alternate", timed)
    flow = perturbed()
    found = calibrating.calibrate(flow, noise(), Y, segments=[])
    assert found.compiled is True and found.methods == (Method(segments=16),) * 3 and 0 < found.error < 1e-9
    assert {t.compiled for t in found.trials} == {None, True, False} and found.speedup == 9 / 4
    assert "compiled and recorded" in calibrating.described(found)
    again = calibrating.Calibration.model_validate(found.model_dump(mode="json"))
    assert again == found

    cost["compiled and recorded"] = 2.5
    assert calibrating.calibrate(flow, noise(), Y, segments=[]).compiled is None
    cost["recorded"] = 3.5
    cost["compiled and recorded"] = 4.0
    assert calibrating.calibrate(flow, noise(), Y, segments=[]).compiled is False
    cost["recorded"] = 2.0
    whole["chosen"] = 10.0  # each block's choice won by chance
    by_chance = calibrating.calibrate(flow, noise(), Y, segments=[])
    assert by_chance.compiled is False and by_chance.error == 0 and by_chance.speedup == 1


def test_old_calibrations_load_and_say_nothing_of_recordings():
    old = {"model": "m", "device": "d", "dtype": "float32", "batch": 1, "guided": False, "tolerance": 1e-3}
    trial = {"block": 1, "method": {"segments": 4}, "seconds": 1.0, "error": 0.0, "sweeps": 3}
    old |= {"methods": [{"segments": 4}], "error": 0.0, "speedup": 1.0, "trials": [trial]}
    found = calibrating.Calibration.model_validate(old)
    assert found.compiled is None and found.trials[0].compiled is False
    assert calibrating.described(found).endswith("1.00 times as fast as sequential, error 0.0e+00")


def test_drawn_images_are_keyed_by_the_way_that_drew_them(recordings, tmp_path):
    flow = perturbed(dtype=torch.float32)
    plain, other, third = (generate(flow, Sampling(num=3, compiled=c), tmp_path) for c in (False, None, True))
    assert "compiled" not in plain.made
    assert (other.made["compiled"], third.made["compiled"]) == ("recorded", "compiled and recorded")
    assert len({each.fingerprint() for each in (plain, other, third)}) == 3
    assert (plain.images.int() - other.images.int()).abs().max() <= 1
    swept = Sampling(num=3, solver="jacobi").describe(flow)
    assert "compiled" not in swept, "no block is solved token by token"
    drawn = [
        of_samples({"weights": "w"}, made, {"data": "d", "fingerprint": "f"}, 0) for made in (plain.made, other.made)
    ]
    for known, said in (drawn, drawn[::-1]):
        assert differences(known, said) == ["compiled"] and not differences(known, known)


def test_images_drawn_before_there_was_a_choice_are_found_again(tmp_path):
    """On a CPU the key of the plain way has no word more than it had; the native one says so."""
    flow = perturbed(dtype=torch.float32)
    made = generate(flow, Sampling(num=2, compiled=False), tmp_path).made
    names = "num classes guidance guidance_schedule attn_temp noise_std solver seed chunk model"
    assert set(made) == set(names.split())
    assert Sampling(num=2).describe(flow).get("compiled") == (way_of(flow) if way_of(flow) == "native" else None)


@pytest.mark.slow
def test_really_compiled_layers():
    """In a process of its own, since shape checks are not for compilers: two programs for all layers, blocks and prefixes."""
    code = """
        import warnings
        warnings.filterwarnings("error", message=".*does not work here.*")
        import torch
        from labcore import TarFlow, TarFlowConfig, invert
        from labcore.inverse import graphed, solve
        graphed.record = lambda step, given: lambda: step(*given)
        graphed.prefixes = lambda tokens: (8, 16)
        solve._DECODERS = {"cpu": graphed.GraphedDecoder}
        torch.manual_seed(0)
        config = dict(image_size=8, channels=3, patch_size=2, width=32, num_blocks=3, layers_per_block=3, num_classes=5)
        flow = TarFlow(TarFlowConfig(**config, head_dim=16, norm="rmsnorm", mlp="swiglu", positions="rope")).eval()
        for p in flow.parameters():
            p.data.add_(0.05 * torch.randn_like(p))
        z, y = torch.randn(3, 16, 12), torch.arange(3)
        want, got = (invert(flow, z, y, compiled=way).x for way in (False, True))
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
        from torch._dynamo.utils import counters
        print(counters["stats"]["unique_graphs"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]


@pytest.fixture
def by_triton(recordings, monkeypatch):
    """As where Triton's kernels run, which are torch's here; the numbers of rows that a program was asked for."""
    asked = []

    def program(rows, parts=None):
        asked.append(rows)
        return functools.partial(graphed.prefix_step, graphed.remember, graphed.after_attention, 16)

    monkeypatch.setattr(dispatch, "by_triton", lambda *tensors, by_default=True: by_default)
    monkeypatch.setattr(dispatch, "_broken", {"attention_triton"})  # of plain steps: torch's
    monkeypatch.setattr(graphed, "triton_program", program)
    return asked


def test_kernels_that_read_what_is_filled_need_one_recording(by_triton, recordings, monkeypatch):
    monkeypatch.setattr(graphed, "prefixes", lambda tokens: (4, 8, 12, 16))
    same(perturbed(), noise())
    assert len(recordings) == 2 and set(by_triton) == {4}
    same(perturbed(**MODERN), noise())
    assert len(recordings) == 2 + 8, "rotary positions need a recording for each prefix"


def test_kernels_that_fail_are_left_with_one_warning(by_triton, recordings, monkeypatch):
    def broken(*_):
        raise RuntimeError("PTX is too new")

    monkeypatch.setattr(graphed, "triton_program", lambda rows, parts=None: broken)
    flow = perturbed()
    with pytest.warns(
        UserWarning, match="token_triton does not work here .PTX is too new.; going on with torch's"
    ) as seen:
        same(flow, noise())
        same(flow, noise(1), Y[:1])
    assert len(seen) == 1 and len(recordings) == 4
