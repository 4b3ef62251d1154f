"""`lab bench`: rows for every case, errors that are measured, ways that are too slow run once; timing in turn."""

import json

import pytest
import torch
from conftest import perturbed
from typer.testing import CliRunner

from labcore import timing
from labcore.cli.app import app
from labcore.experiments import bench as module
from labcore.experiments.bench import COMPILED, FORWARD, INVERSE, OURS, STEP, WAYS, Cases, bench, described
from labcore.memory import peak_of


@pytest.fixture
def clock(monkeypatch):
    """Seconds pass only where a test says so."""

    class Clock:
        now = 0.0

        def takes(self, seconds):
            def way():
                self.now += seconds

            return way

    it = Clock()
    monkeypatch.setattr(timing, "_now", lambda: it.now)
    return it


def test_timing_is_the_median_and_spread_after_the_warm_up(clock):
    durations = iter([10.0, 1.0, 2.0, 3.0])
    found = timing.alternate({"a": lambda: clock.takes(next(durations))()}, repeats=3, warmup=1)
    assert found["a"] == timing.Timing(seconds=2.0, spread=1.0)


def test_ways_run_in_turn():
    seen = []
    timing.alternate({name: lambda name=name: seen.append(name) for name in "ab"}, repeats=2, warmup=1)
    assert "".join(seen) == "ababab"


# A generous limit: on a busy machine an inverse takes so long that the default would leave "calibrated" out.
@pytest.mark.slow
def test_rows_of_every_case_with_measured_errors():
    flow = perturbed(dtype=torch.float32)
    seen = []
    rows = bench(
        flow,
        Cases((1, 3), (0.0, 1.0), ways=(OURS, "jacobi", "calibrated")),
        repeats=1,
        limit=1e4,
        progress=seen.append,
    )
    assert seen == rows
    cases = [(r.task, r.way, r.batch, r.guidance) for r in rows]
    assert len(set(cases)) == len(cases)
    for batch in (1, 3):
        assert (FORWARD, OURS, batch, 0.0) in cases and (STEP, OURS, batch, 0.0) in cases
        for g in (0.0, 1.0):
            assert {(INVERSE, way, batch, g) for way in (OURS, "jacobi", "calibrated")} <= set(cases)
    for row in rows:
        assert row.ms > 0 and row.tokens == 16 and row.blocks == 3
        if row.task == INVERSE:
            floor = next(r for r in rows if (r.task, r.batch) == (FORWARD, row.batch))
            assert row.floor == pytest.approx(row.ms / floor.ms)
            assert 0 < row.error < 1e-4  # float32 against float64
        else:
            assert row.error is None
    assert flow.dtype == torch.float32 and all(p.grad is None for p in flow.parameters())
    table = described(rows)
    assert table.count("\n") == len(rows) + 2 and "speed-up over sequential" in table


def test_a_flow_is_left_as_it_was():
    flow = perturbed(dtype=torch.float32, volume_preserving=True).train().requires_grad_(False)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    bench(flow, Cases((2,), ways=(OURS,)), repeats=1)
    assert flow.training and not any(p.requires_grad for p in flow.parameters())
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_a_compiled_training_step_is_a_row_where_it_can_be_compiled(monkeypatch):
    monkeypatch.setattr(module, "fits", lambda rows, device: False)  # of inverses
    for works in (True, False):
        monkeypatch.setattr(module, "try_compile", lambda blocks, step, works=works: works)
        rows = bench(perturbed(dtype=torch.float32), Cases((2,), ways=(OURS, COMPILED)), repeats=1)
        assert [row.way for row in rows if row.task == STEP] == [OURS, COMPILED][: 1 + works]


def test_memory_at_the_peak_is_what_a_call_takes_beyond_what_is_held():
    held = torch.ones(2**24)  # 64 MB
    assert 60e6 < peak_of(lambda: held + 1) < 110e6
    assert peak_of(lambda: None) < 40e6
    rows = bench(perturbed(dtype=torch.float32), Cases((1,), ways=(OURS,)), repeats=1)
    assert all(row.mb is not None and row.mb >= 0 for row in rows)


def test_no_calibration_of_slow_inverses(monkeypatch):
    monkeypatch.setattr(module, "calibrate", None)
    bench(perturbed(dtype=torch.float32), Cases((1,), ways=(OURS, "calibrated")), repeats=1, limit=1e-6)


def test_what_is_too_slow_is_not_run_with_more_images(monkeypatch):
    flow = perturbed(dtype=torch.float32)
    monkeypatch.setattr(module._Bench, "too_slow", lambda self, way, seconds: way == "jacobi")
    rows = bench(flow, Cases((1, 2), ways=(OURS, "jacobi", "gs-jacobi")), repeats=1)
    assert [(r.batch, r.spread, r.error) for r in rows if r.way == "jacobi"] == [(1, None, None)]
    assert [r.batch for r in rows if r.way == "gs-jacobi"] == [1, 2]


def test_what_too_slow_is():
    it = module._Bench(perturbed(), None, 1, 20.0, lambda row: None)
    assert it.too_slow("jacobi", 21.0) and not it.too_slow("jacobi", 19.0)
    assert not it.too_slow("compiled", 60.0)
    it.slow[INVERSE, "jacobi", 0.0, "fp32"] = 8
    assert [it.is_slow(INVERSE, "jacobi", 0.0, "fp32", batch) for batch in (4, 8, 16)] == [False, True, True]


def test_bf16_is_autocast_and_inverts_with_its_own_error():
    flow = perturbed(dtype=torch.float32)
    rows = bench(flow, Cases((2,), precisions=("bf16",), ways=[way for way in WAYS if way != COMPILED]), repeats=1)
    (inverse,) = [r for r in rows if r.task == INVERSE]
    assert inverse.way == OURS and 1e-5 < inverse.error < 1.0


def test_a_reference_must_be_a_clone_and_the_flow_one_that_it_can_be(tmp_path):
    wide = perturbed(dtype=torch.float32, width=64, head_dim=32)
    with pytest.raises(ValueError, match=r"no .*transformer_flow\.py.* clone of github\.com/apple/ml-tarflow"):
        bench(wide, reference=tmp_path)
    (tmp_path / "transformer_flow.py").write_text("")
    with pytest.raises(ValueError, match="has no Model"):
        bench(wide, reference=tmp_path)
    with pytest.raises(ValueError, match="the flow's width is 16, and ml-tarflow's widths are multiples of 64"):
        bench(perturbed(dtype=torch.float32), reference=tmp_path)


@pytest.mark.slow
def test_the_command(tmp_path):
    words = ["bench", "--batch", "1", "--way", "sequential", "--repeats", "1", "--out", str(tmp_path / "b.json")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "b.json").read_text())
    assert [row["way"] for row in found["rows"] if row["task"] == INVERSE] == ["sequential"]
    assert "time / lower bound" in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--way", "warp"], "'warp' is none of the ways"),
        (["--precision", "fp8"], "'fp8' is none of"),
        (["--batch", "0"], "at least 1"),
        (["--reference", "nowhere"], "clone of"),
        (["--way", "ml-tarflow"], "needs --reference"),
        (["--guidance", "nan"], "give numbers"),
        (["--out", "."], "is a folder"),
    ],
)
def test_bad_input(words, says):
    done = CliRunner().invoke(app, ["bench", *words])
    assert done.exit_code != 0 and says in done.output
