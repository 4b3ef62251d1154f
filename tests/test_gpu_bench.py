"""`benchmarks.gpu`: all rows at their toy size, the record after every row, the deadline, rows that fail or hang, the table."""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from conftest import perturbed

from benchmarks.gpu import measure, rows, supervise, table, warm
from benchmarks.gpu import setting as settings
from benchmarks.gpu.bounds import (
    Bounds,
    cache_bytes,
    forward_flops,
    linear_weights,
    pass_flops,
    products_of,
    weight_bytes,
)
from benchmarks.gpu.record import Check, Record, file_name
from benchmarks.gpu.rows import ROWS, Broken, Row
from benchmarks.gpu.setting import FULL, TOY, Setting, entry, twin
from labcore import BackwardConfig, BackwardModel, TarFlow, TarFlowConfig, timing
from labcore.evaluate.flops import count_flops
from labcore.inverse import compiled

REFERENCE = '''
"""ml-tarflow's interface over the lab's own model."""
import torch
from labcore import TarFlow, invert

class Block(torch.nn.Module):
    attn_blocks = ()

class Model(torch.nn.Module):
    def __init__(self, img_size, patch_size, **sizes):
        super().__init__()
        self.sizes, self.blocks = (img_size, patch_size), [Block()]

    def load_state_dict(self, weights):
        self.flow = TarFlow.from_apple(weights, *self.sizes)

    def forward(self, x, y):
        out = self.flow(x, y)
        return out.z, [], out.log_det / self.flow.config.dims

    def get_loss(self, z, log_det):
        return 0.5 * z.pow(2).mean() - log_det.mean()

    def reverse(self, z, y, guidance):
        return invert(self.flow, z * self.flow.prior_var.sqrt(), y, guidance, compiled=False).x
'''


@pytest.fixture
def reference(tmp_path) -> Path:
    """A folder as a clone of ml-tarflow would be."""
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "transformer_flow.py").write_text(REFERENCE)
    return folder


@pytest.fixture
def uncompiled(monkeypatch):
    """Without torch's compiler, which takes seconds to import, and with what is remembered of it put back."""
    monkeypatch.setattr(compiled, "_WORKS", {})
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    compiled.program.cache_clear()
    yield
    compiled.program.cache_clear()


@pytest.fixture
def record(tmp_path) -> Record:
    return Record.new(tmp_path / "gpu-toy.json", {"device": "toy", "torch": "0", "revision": None, "toy": True})


@pytest.fixture
def like_full(record) -> Setting:
    """A setting whose rows are estimated and judged as at full size."""
    return Setting(record, sizes=TOY._replace())


@pytest.mark.slow
def test_all_rows_run_at_the_toy_size_and_are_saved_one_by_one(record, reference, uncompiled, monkeypatch):
    monkeypatch.setattr(Record, "write", counted(Record.write))
    rows.run(Setting(record, reference), time.time() + 600)
    saved = Record.read(record.path)
    assert saved.values["finished"] and saved.values["running"] is None
    assert {row.n for row in ROWS} == saved.done == set(range(1, 32))
    assert {row["n"]: row["reason"] for row in saved.values["not_run"]} == {20: "needs CUDA"}
    reasons = {row["case"]: row["reason"] for row in saved.values["rows"] if "reason" in row}
    assert set(reasons.values()) == {"needs CUDA"} and all("Triton" in case for case in reasons)
    assert {target["reached"] for row in saved.values["rows"] for target in row["targets"]} == {None}
    for n in (*range(5, 10), *range(11, 20), 23, 24, 27, 28):
        assert saved.entry(n)["floor_s"] > 0
    for n in (5, 6, *range(11, 20)):
        assert saved.seconds(n, of="theirs") > 0
    errors = {row["n"]: row["error"] for row in saved.values["rows"] if "error" in row}
    assert errors.keys() == set(range(11, 20))
    for n, error in errors.items():
        assert error < 1e-5 if saved.entry(n)["precision"] == "fp32" else 0 < error < 0.1
    assert record.path.with_name("gpu-profile.txt").read_text().count("Self CPU time total:") == 3
    assert len(writes) >= len(saved.values["rows"]) + len(ROWS)
    assert "toy size" in table.table(saved.values)


writes: list[int] = []


def counted(write):
    def written(self):
        writes.append(1)
        write(self)

    return written


def test_every_task_of_warm_runs_at_the_toy_size(reference, uncompiled):
    for task in warm.TASKS:
        warm.compile_one(task, reference)
    assert warm.warm_one("step", Path("nowhere")) == 0  # needs no reference
    assert warm.warm_one("their-step", Path("nowhere")) == 1
    with pytest.raises(ValueError, match="--task was 'stepp'; allowed are step, "):
        warm.warm_one("stepp", None)


def test_warm_starts_so_many_processes_and_goes_on_after_a_failure(monkeypatch, capfd):
    program = "import sys; sys.exit(sys.argv[1] == 'b')"
    monkeypatch.setattr(warm, "command", lambda task, reference: [sys.executable, "-S", "-c", program, task])
    assert warm.warm(2, None, ["a", "b", "c"]) == 1
    said = capfd.readouterr().out
    assert "a: compiled" in said and "b: failed with status 1" in said and "c: compiled" in said
    with pytest.raises(ValueError, match="--processes was 0; give at least 1"):
        warm.warm(0, None)


def measured(seconds: float = 1.0) -> measure.Measured:
    return measure.Measured(seconds, 0.0, 3)


def row(n: int, expected: float = 0.0, run=lambda s: [entry("a", measured())]) -> Row:
    return Row(n, f"row {n}", expected or 1e-3, run)


def test_a_row_that_fails_keeps_what_it_had_and_does_not_end_the_run(like_full):
    def fails(s):
        yield entry("first", measured())
        saved = Record.read(s.record.path)
        assert saved.entry(2, "first") and saved.entry(1) and saved.values["running"]["n"] == 2
        raise ValueError("no luck\nat all")

    rows.run(like_full, time.time() + 60, [row(1), row(2, run=fails), row(3)])
    saved = Record.read(like_full.record.path).values
    assert [(each["n"], each["case"]) for each in saved["rows"]] == [(1, "a"), (2, "first"), (3, "a")]
    assert saved["not_run"] == [{"n": 2, "name": "row 2", "reason": "ValueError: no luck"}]


def test_rows_that_would_pass_the_deadline_are_left_out_and_shorter_ones_are_not(like_full):
    rows.run(like_full, time.time() + 5, [row(1), row(2, expected=100), row(3)])
    saved = Record.read(like_full.record.path).values
    assert [each["n"] for each in saved["rows"]] == [1, 3] and saved["finished"]
    assert saved["not_run"][0]["reason"] == "time: the deadline would pass"


def test_after_the_deadline_nothing_runs(record):
    rows.run(Setting(record), time.time() - 1, [row(1), row(2)])
    assert [each["reason"][:4] for each in record.values["not_run"]] == ["time"] * 2


def test_rows_in_the_record_are_not_run_again(like_full):
    rows.run(like_full, time.time() + 60, [row(1)])
    rows.run(like_full, time.time() + 60, [row(1), row(2)])
    assert [each["n"] for each in like_full.record.values["rows"]] == [1, 2]


def test_an_error_that_breaks_the_device_ends_the_process_with_its_row_recorded(like_full):
    def breaks(s):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(Broken):
        rows.run(like_full, time.time() + 60, [row(1, run=breaks), row(2)])
    saved = Record.read(like_full.record.path)
    assert saved.done == {1} and not saved.values["finished"] and "CUDA error" in saved.values["not_run"][0]["reason"]


def test_warnings_of_a_row_are_in_its_entry(like_full):
    def warns(s):
        warnings.warn("recording does not work here\nat all", stacklevel=1)
        return [entry("a", measured())]

    rows.run(like_full, time.time() + 60, [row(1, run=warns)])
    assert like_full.record.entry(1)["warnings"] == ["recording does not work here"]


def test_what_a_row_may_take_is_what_it_needs_and_its_part_of_half_of_the_rest():
    assert rows.share({1: 10.0, 2: 30.0}, 1, 100.0) == 10 + 30 * 0.25
    assert rows.share({1: 10.0, 2: 30.0}, 1, 20.0) == 10
    assert rows.slowness([9.0] * 4) == 1 and rows.slowness([2.0] * 5) == 2
    assert rows.slowness([99.0] * 5) == 4 and rows.slowness([0.0] * 5) == 0.5


def test_targets_are_judged_at_full_size(like_full):
    checks = (Check("at most 2", 1.0, high=2.0), Check("at least 2", 1.0, low=2.0), Check("known", None, high=1.0))
    rows.run(like_full, time.time() + 60, [row(1, run=lambda s: [entry("a", measured(), checks=checks)])])
    assert [each["reached"] for each in like_full.record.entry(1)["targets"]] == [True, False, False]
    assert not Check("", float("nan"), low=0.0).reached


WORKER = """
import sys, time
from pathlib import Path
from benchmarks.gpu.record import Record
path = Path(sys.argv[1])
first = not path.exists()
record = Record.new(path, {"planned": [[1, "a"], [2, "b"], [3, "c"]]}) if first else Record.read(path)
for n, name in record.values["planned"]:
    if n not in record.done:
        record.begin(n, name, 0.2 if n == 2 else 60)
        if n == 2:
            %s
        record.add(n, [])
        record.values["rows"].append({"n": n, "case": "a"})
        record.end()
record.values["finished"] = True
record.write()
"""


@pytest.mark.parametrize(
    ("does", "reason"), [("time.sleep(60)", "longer than its limit"), ("sys.exit(7)", "ended with status 7")]
)
def test_a_row_that_hangs_or_takes_its_process_along_is_left_out_and_the_next_runs(tmp_path, monkeypatch, does, reason):
    monkeypatch.setattr(supervise, "WORTH", 0)
    path = tmp_path / "record.json"
    assert supervise.supervise([sys.executable, "-c", WORKER % does, str(path)], path, time.time() + 30, 0.02)
    saved = Record.read(path).values
    assert [each["n"] for each in saved["rows"]] == [1, 3]
    assert [each["n"] for each in saved["not_run"]] == [2] and reason in saved["not_run"][0]["reason"]


def test_the_deadline_ends_the_process_and_names_what_was_not_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "AFTER", 0)
    path, worker = tmp_path / "record.json", (WORKER % "time.sleep(60)").replace("0.2 if", "60 if")
    assert not supervise.supervise([sys.executable, "-c", worker, str(path)], path, time.time() + 1.0, 0.02)
    left_out = {each["n"]: each["reason"] for each in Record.read(path).values["not_run"]}
    assert left_out.keys() == {2, 3} and left_out[2].startswith("time") and left_out[3].startswith("not reached")


def test_a_process_that_dies_at_its_start_is_not_started_for_ever(tmp_path, capfd):
    path = tmp_path / "record.json"
    assert not supervise.supervise([sys.executable, "-S", "-c", "raise SystemExit(3)"], path, time.time() + 99, 0.02)
    assert "no record was written: its process ended with status 3" in capfd.readouterr().err


def test_bad_input_and_an_earlier_record(tmp_path, reference, monkeypatch):
    monkeypatch.setattr(supervise, "card", lambda: None)
    with pytest.raises(ValueError, match=r"--reference was .*; give the folder of a clone"):
        supervise.gpu(tmp_path, 1.0, tmp_path, True)
    with pytest.raises(ValueError, match=r"--save without a CUDA device.*give --results FOLDER"):
        supervise.gpu(reference, 1.0, None, True)
    monkeypatch.setattr(supervise, "card", lambda: {"name": "NVIDIA H100 80GB HBM3"})
    monkeypatch.setattr(supervise, "supervise", lambda words, path, deadline: path.write_text("{}") == 2)
    for _ in range(2):
        assert supervise.gpu(None, 1.0, tmp_path / "new", True) == 0
    name = file_name("gpu", "NVIDIA H100 80GB HBM3")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [name, name.replace(".json", ".previous.json")]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where a way says so."""
    now = [0.0]
    monkeypatch.setattr(timing, "_now", lambda: now[0])

    def takes(*durations):
        left = list(durations)

        def way():
            now[0] += left.pop(0) if len(left) > 1 else left[0]

        return way

    return takes


def test_repeats_go_on_while_they_fit_the_budget(clock):
    assert measure.one(clock(5.0, 1.0), 10.0) == (1.0, 0.0, 5, 5.0, pytest.approx(0, abs=2**26))
    assert measure.one(clock(5.0, 1.0), 0.0).n == measure.LEAST
    assert measure.one(clock(0.001), 10.0).n == measure.MOST
    assert measure.one(clock(5.0), 7.0, least=0)[:3] == (5.0, 0.0, 1)
    spread = measure.one(clock(1.0, 1.0, 2.0, 3.0, 4.0, 5.0), 16.0, least=5)
    assert spread.seconds == 3.0 and spread.n == 5 and spread.spread == pytest.approx(2 / 3)


def test_a_way_beside_ours_may_fail_and_ours_may_not(clock):
    def fails():
        raise RuntimeError("out of memory")

    found = measure.in_turn({"ours": clock(1.0), "theirs": fails}, 0.0)
    assert found["ours"].n == 2 and found["theirs"].reason == "RuntimeError: out of memory"
    assert entry("a", found["ours"], theirs=found["theirs"])["theirs"] == "RuntimeError: out of memory"
    with pytest.raises(RuntimeError, match="out of memory"):
        measure.in_turn({"ours": fails, "theirs": clock(1.0)}, 0.0)


def test_a_twin_has_the_same_weights_and_is_compiled_alone(uncompiled):
    flow = perturbed()
    other = twin(flow)
    assert all(a is b for a, b in zip(flow.parameters(), other.parameters(), strict=True))
    other.blocks[0].compile()
    assert flow.blocks[0]._compiled_call_impl is None and other.blocks[0] is not flow.blocks[0]


def test_arithmetic_is_torchs_count_with_half_of_causal_attention():
    flow = perturbed(num_blocks=2, width=16)
    c = flow.config
    x, y = torch.randn(1, *c.image_shape, dtype=flow.dtype), torch.tensor([1])
    attention = c.num_blocks * c.layers_per_block * 2 * c.tokens**2 * c.width
    assert count_flops(lambda: flow(x, y)) == forward_flops(flow) + attention == products_of(flow) + 2 * attention
    student = BackwardModel(BackwardConfig(**{**TOY.student, "width": 16, "head_dim": 8}, max_guidance=1.0))
    z, scale = torch.randn(1, student.config.tokens, student.config.token_dim), torch.ones(1)
    embedding = len(student.blocks) * count_flops(lambda: student.guidance_embedding(scale))
    assert count_flops(lambda: student(z, y, 0.5)) == pass_flops(student) + embedding


def test_traffic_of_an_inverse_token_by_token():
    flow = perturbed()
    c, size = flow.config, 4
    layers = sum(m.weight.numel() for m in flow.modules() if isinstance(m, torch.nn.Linear))
    keys = sum(2 * i * c.width * c.num_blocks * c.layers_per_block for i in range(1, c.tokens))
    assert weight_bytes(flow, "fp32") == (c.tokens - 1) * layers * size and cache_bytes(c, "fp32") == keys * size
    bounds = Bounds({"copy": 10.0, "fp32": 1e30})
    assert bounds.inverse(flow, 3, True, "fp32") == pytest.approx(((c.tokens - 1) * layers + 6 * keys) * size / 10)
    assert Bounds({"copy": 10.0}).inverse(flow, 3, True, "fp32") is None


def test_the_full_size_has_the_plans_parameters_and_bounds():
    def parts(layers: int) -> tuple[int, int]:
        with torch.device("meta"):
            flow = TarFlow(TarFlowConfig(**{**FULL.flow, "num_blocks": 1, "layers_per_block": layers}))
        return sum(p.numel() for p in flow.parameters()), linear_weights(flow)

    one, two = parts(1), parts(2)
    parameters, weights = (8 * (a + 7 * (b - a)) for a, b in zip(one, two, strict=True))
    assert round(parameters / 1e6, 1) == 817.6
    assert round(1000 * 255 * weights * 4 / 3e12, -1) == 270  # ms of one image in float32, without the cache


def test_tf32_is_put_back():
    before = settings.tf32_state()
    with settings.tf32(True):
        assert settings.tf32_state() != before
    assert settings.tf32_state() == before


def example(**changes) -> dict:
    """A record with a row that has reached its target, one that has missed it, and one that was not run."""
    ours, theirs = measured(0.5)._asdict(), measured(1.5)._asdict()
    good = {"says": "s at most 1", "found": 0.5, "reached": True}
    bad = {"says": "times at least 5", "found": 3.0, "reached": False}
    first = {"n": 12, "name": "inverse", "case": "graph", "floor_s": 0.25, "ours": ours, "theirs": theirs}
    first |= {"theirs / ours": 3.0, "ours / floor": 2.0, "targets": [good, bad]}
    second = {"n": 2, "name": "product", "case": "bf16", "floor_s": None, "ours": ours, "targets": []}
    left_out = [{"n": 13, "name": "other", "reason": "time: the deadline would pass"}]
    about = {"device": "NVIDIA H100", "torch": "2.11", "revision": "abc", "toy": False}
    return {**about, "rows": [first, second], "not_run": left_out, **changes}


def test_the_table_of_a_record():
    shown = table.table(example()).splitlines()
    assert shown[0] == "NVIDIA H100, torch 2.11, revision abc."
    assert shown[4] == "| 2. product: bf16 | - | 500 ms | 0% | 3 | - | - | - | - |"
    assert shown[5] == (
        "| 12. inverse: graph | 250 ms | 500 ms | 0% | 3 | 1.5 s | 3 | 2 | "
        "s at most 1: 0.5, reached; times at least 5: 3, missed |"
    )
    assert shown[-1] == "Not run: other (time: the deadline would pass)."


def test_without_a_record_the_table_says_so_and_a_toy_is_none(tmp_path):
    assert table.committed(tmp_path) == table.NONE
    (tmp_path / "gpu-a.json").write_text(json.dumps(example(toy=True)))
    (tmp_path / "gpu-b.previous.json").write_text(json.dumps(example()))
    assert table.committed(tmp_path) == table.NONE
    (tmp_path / "gpu-b.json").write_text(json.dumps(example()))
    assert table.committed(tmp_path) == table.table(example())


@pytest.mark.slow
def test_the_command_from_end_to_end(tmp_path, reference):
    words = [
        "--only",
        "gpu",
        "--reference",
        str(reference),
        "--seconds",
        "300",
        "--results",
        str(tmp_path / "out"),
        "--save",
    ]
    done = subprocess.run([sys.executable, "-m", "benchmarks.run", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "out").glob("gpu-*.json")
    saved = Record.read(path)
    assert saved.values["toy"] and saved.values["finished"] and saved.done == set(range(1, 32))
    assert "toy size" in done.stdout and f"record in {path}" in done.stdout
