"""Runs of toy notebooks: states, locks, faults, several runners, records and tables.

The toy counts with a checkpoint at every step. After every fault the same command must end with the result.json and the
table of an undisturbed run.
"""

import json
import math
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import toys
from typer.testing import CliRunner

from labcore.campaigns import execute, results, runner, state, tables
from labcore.campaigns.interval import Interval, holm, mean_interval, paired, t_quantile
from labcore.campaigns.notebook import Stop, explain, write_figures
from labcore.campaigns.publishing import publish
from labcore.campaigns.records import collect
from labcore.campaigns.spec import TableSpec, load_spec, resolve
from labcore.cli.app import app

pytestmark = pytest.mark.usefixtures("as_users_run")
RESULTS = sorted((Path(__file__).parent.parent / "papermill_runs" / "results").glob("*/table.json"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "papermill_runs" / "executed"


def toy_runs(folder: Path, *cells: str, **changes):
    """Runs of a toy project."""
    return resolve(load_spec(toys.project(folder, cells or (toys.START, toys.COUNT, toys.RESULT), **changes)))


def finished(run, root: Path, total: float = 1.0, seconds: float = 2.0) -> Path:
    """A folder as a finished run leaves it, without running anything."""
    folder = state.prepare_run_folder(run, root).folder
    attempt = {"status": "done", "seconds": seconds, "error": None, "revision": "abc", "device": "CPU", "ended": "now"}
    values = state.read(folder).values | {"status": "done", "attempts": [attempt]}
    state.save(state.State(folder, values))
    (folder / "result.json").write_text(json.dumps({"total": total, "deep": {"list": [1, total]}}))
    (folder / "log.txt").write_text("read /some/where/data.bin\nstep 1 of http://host/a/b done\n")
    return folder


def expected(run) -> dict:
    """The toy's result.json by hand."""
    total = 0.0
    for done in range(run.parameters["steps"]):
        total += run.parameters["scale"] * random.Random(f"{run.seed} {done}").random()
    return {"total": total, "steps": run.parameters["steps"], "deep": {"list": [1.5, 2.5]}}


def result(run, root: Path) -> dict:
    return json.loads((run.folder(root) / "result.json").read_text())


def command(run, root: Path) -> list[str]:
    return [sys.executable, "-m", "labcore.campaigns.execute", str(run.folder(root))]


def execute_once(run, root: Path, **options) -> subprocess.CompletedProcess:
    """One attempt in a process of its own."""
    state.prepare_run_folder(run, root)
    return subprocess.run(command(run, root), capture_output=True, text=True, timeout=300, **options)


# states and locks


def test_run_json_is_made_once(tmp_path, root):
    (run,) = toy_runs(tmp_path)
    first = state.prepare_run_folder(run, root)
    assert first.status == "new"
    assert first.values["parameters"] == run.parameters
    assert str(tmp_path) not in (first.folder / "run.json").read_text()
    state.save(state.State(first.folder, first.values | {"status": "failed"}))
    assert state.prepare_run_folder(run, root).status == "failed"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 1}', '{"status": "done"', "\x00\x00"])
def test_a_damaged_run_json_is_set_aside(tmp_path, root, content, capsys):
    (run,) = toy_runs(tmp_path)
    folder = state.prepare_run_folder(run, root).folder
    (folder / "count.json").write_text("[3, 1.5]")
    (folder / "run.json").write_text(content)
    assert runner.finished(run, root) is None
    assert state.prepare_run_folder(run, root).status == "new"
    assert "run.json was damaged and is now run-damaged-1.json" in capsys.readouterr().out
    assert (folder / "run-damaged-1.json").read_text() == content
    assert (folder / "count.json").read_text() == "[3, 1.5]"


def test_writing_is_atomic(tmp_path, root, monkeypatch):
    (run,) = toy_runs(tmp_path)
    prepared = state.prepare_run_folder(run, root)
    before = (prepared.folder / "run.json").read_text()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        state.save(state.State(prepared.folder, prepared.values | {"status": "done"}))
    assert (prepared.folder / "run.json").read_text() == before


def test_a_claim_ends_with_its_process(tmp_path):
    code = (
        f"import time, pathlib; from labcore.campaigns import state\nwith state.lock_folder(pathlib.Path({str(tmp_path)!r})):"
        "\n    print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    assert f"pid {child.pid} on" in state.holder(tmp_path)
    with pytest.raises(state.Busy, match=f"pid {child.pid}"), state.lock_folder(tmp_path, wait=0.1):
        pass
    child.kill()
    child.wait()
    assert state.holder(tmp_path) is None
    with state.lock_folder(tmp_path, wait=0.1):
        pass


def test_running_with_a_free_lock_was_killed(tmp_path, root):
    (run,) = toy_runs(tmp_path)
    prepared = state.prepare_run_folder(run, root)
    state.save(state.State(prepared.folder, prepared.values | {"status": "running"}))
    found = state.read(prepared.folder)
    assert state.status_of(found) == "killed"
    assert (
        CliRunner()
        .invoke(app, ["run", str(tmp_path / "papermill_runs/specs/toy.yaml"), "--dry-run"])
        .output.count("resume")
        == 1
    )


def test_what_cannot_be_written_is_said(tmp_path):
    (run,) = toy_runs(tmp_path)
    with pytest.raises(OSError, match=r"cannot write to /proc/.*--root"):
        state.prepare_run_folder(run, Path("/proc/nothing"))
    (tmp_path / "file").write_text("")
    answer = CliRunner().invoke(
        app, ["run", str(tmp_path / "papermill_runs/specs/toy.yaml"), "--root", str(tmp_path / "file")]
    )
    assert answer.exit_code == 2
    assert "cannot write to" in answer.output


def test_200_finished_runs_are_skipped_at_once(tmp_path, root):
    runs = toy_runs(tmp_path, seeds=list(range(200)))
    for run in runs:
        finished(run, root)
    code = (
        "import sys, time; t = time.perf_counter()\nfrom labcore.cli.app import app\n"
        f"try: app(['run', {str(tmp_path / 'papermill_runs/specs/toy.yaml')!r}])\nexcept SystemExit as e: assert not e.code\n"
        "print('took', time.perf_counter() - t); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "200 of 200 runs are done already" in done.stdout, done.stderr
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(done.stdout.splitlines()[-1], cpu.ru_utime)


# a notebook's outputs


def test_result_json_must_be_finite(tmp_path):
    path = tmp_path / "result.json"
    for text, message in (
        ('{"a": NaN}', "not finite: a"),
        ('{"a": [1, {"b": 1e999}]}', r"not finite: a\[1\].b"),
        ("{", "not JSON"),
        ("[1]", "holds a list"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            execute.read_result(path)
    path.unlink()
    with pytest.raises(ValueError, match="without writing"):
        execute.read_result(path)


def test_figures_are_written(tmp_path):
    made = toys.notebook("1")
    data = {"image/png": "iVBORw0KGgo=", "text/plain": "x"}
    made.cells[1].outputs = [nbformat.v4.new_output("display_data", data=data)] * 2
    nbformat.write(made, tmp_path / "n.ipynb")
    assert [p.name for p in write_figures(tmp_path / "n.ipynb", tmp_path / "figures")] == ["01.png", "02.png"]
    assert (tmp_path / "figures" / "02.png").read_bytes() == b"\x89PNG\r\n\x1a\n"


def test_a_stop_is_no_error_of_the_notebook():
    assert explain(ValueError("x")) == "ValueError: x"
    stop = Stop()
    stop.starts(None, 0)
    stop.wish()
    with pytest.raises(Exception, match="stopped before its end"):
        stop.starts(None, 1)


# one run, for real


@pytest.mark.slow
def test_a_run_from_start_to_skip(tmp_path, root, capfd):
    (run,) = toy_runs(tmp_path)
    assert runner.run_spec([run], root, live=False) == 0
    said = capfd.readouterr().out
    assert "default-seed0: running\n" in said
    assert "[default-seed0] step 6/6\n" in said
    assert "default-seed0: done after" in said
    assert result(run, root) == expected(run)
    folder = run.folder(root)
    for name in ("notebook.ipynb", "notebook.html", "environment.txt", "log.txt", "run.json"):
        assert (folder / name).stat().st_size > 0
    assert str(tmp_path) not in (folder / "notebook.ipynb").read_text()
    assert 'run_dir = "."' in (folder / "notebook.ipynb").read_text().replace('\\"', '"')
    assert "papermill==" in (folder / "environment.txt").read_text()
    (attempt,) = state.read(folder).values["attempts"]
    assert attempt["status"] == "done"
    assert 0.3 < attempt["seconds"] < 300
    before = (folder / "run.json").stat().st_mtime_ns
    assert runner.run_spec([run], root, live=False) == 0
    assert (folder / "run.json").stat().st_mtime_ns == before
    assert execute_once(run, root).returncode == 0


# statistics and tables


@pytest.mark.parametrize(
    ("p", "freedom", "value"),
    [(0.975, 1, 12.7062047), (0.975, 2, 4.30265273), (0.975, 9, 2.26215716), (0.975, 30, 2.04227246),
     (0.95, 4, 2.13184679), (0.995, 5, 4.03214298), (0.975, 1000, 1.96233908), (0.025, 2, -4.30265273), (0.5, 3, 0.0)],
)  # fmt: skip
def test_t_quantiles(p, freedom, value):
    assert t_quantile(p, freedom) == pytest.approx(value, abs=1e-7)


def test_intervals():
    assert mean_interval([2.0]) == Interval(2.0, None, 1)
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.30265273 / math.sqrt(3))
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 5.0, 1: 7.0, 2: 1e9}, {0: 1.0, 1: 3.0}) == Interval(4.0, 0.0, 2)
    assert not mean_interval([1.0]).excludes_zero
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
    with pytest.raises(ValueError, match="p lies between"):
        t_quantile(1.0, 2)


def test_p_values():
    """1, 2, 3: t = 2 sqrt(3) with 2 degrees of freedom, whose distribution is 1/2 + t / (2 sqrt(2 + t^2))."""
    assert mean_interval([1.0, 2.0, 3.0]).p_value == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-9)
    assert mean_interval([-1.0, -2.0, -3.0]).p_value == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-9)
    edge = Interval(1.0, 1.0, 5)  # an interval that ends at 0
    assert edge.p_value == pytest.approx(0.05, rel=1e-9)
    assert (Interval(1.0, None, 1).p_value, Interval(1.0, 0.0, 2).p_value, Interval(0.0, 0.0, 2).p_value) == (
        None,
        0,
        1,
    )


def test_holms_correction():
    """By hand, m = 4: 4 x .01, 3 x .02 = .06, then 2 x .03 = .06 and .04, which may not be below .06."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_a_detectable_difference_is_detected_four_times_in_five(n):
    """P(T > t(.975)) by quadrature over the chi distribution of the standard deviation; T = (Z + c) / sqrt(V / df)."""
    from scipy.integrate import quad
    from scipy.stats import chi2, norm

    df, quantile = n - 1, t_quantile(0.975, n - 1)
    sd = 2.0
    c = Interval(0.0, quantile * sd / math.sqrt(n), n).detectable(0.8) / sd * math.sqrt(n)
    found = quad(lambda v: norm.sf(quantile * math.sqrt(v / df) - c) * chi2.pdf(v, df), 0, math.inf)[0]
    assert found == pytest.approx(0.8, abs=1e-4)
    assert Interval(0.0, None, 1).detectable() is None


def records(values: dict[str, dict[int, float]]) -> list[dict]:
    return [
        dict(id=f"{row}{seed}", row=row, seed=seed, parameters={"a": row}, metrics={"x": {"y": value}})
        for row, seeds in values.items()
        for seed, value in seeds.items()
    ]


@pytest.mark.parametrize(
    ("interval", "plain", "signed"),
    [
        (Interval(0.84214, 0.0032, 3), "0.8421 ± 0.0032", "+0.8421 ± 0.0032"),
        (Interval(-4.4e-17, 0.018, 5), "0.000 ± 0.018", "+0.000 ± 0.018"),
        (Interval(-14.96, 1.1, 5), "-15.0 ± 1.1", "-15.0 ± 1.1"),
        (Interval(-26.0, 19.3, 5), "-26 ± 19", "-26 ± 19"),
        (Interval(2.0, None, 1), "2", "+2"),
        (Interval(2.0, 1e-12, 3), "2 ± 0", "+2 ± 0"),
    ],
)
def test_an_interval_is_written_to_two_digits_of_its_half_width(interval, plain, signed):
    assert (interval.text(), interval.text(signed=True)) == (plain, signed)


def test_a_table_says_mean_interval_and_n():
    layout = TableSpec(columns={"score": "x.y", "none": "x.z"}, baseline="a", better={"score": "higher"})
    made = tables.tables(
        records({"b": {0: 1.5, 1: 2.5, 2: 3.6}, "a": {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}}), layout, ["a", "b", "c", "d"]
    )
    assert made["table.md"].endswith(" Not run: c; d.\n") and "c" not in {row[0] for row in made["table.csv"].split()}
    lines = made["table.md"].splitlines()
    assert lines[0] == "| row | score | difference from a | none | difference from a |"
    assert lines[2] == "| a | 2.5 ± 2.1 (n=4) | - | - | - |"
    assert lines[3] == "| b | 2.5 ± 2.6 (n=3) | +0.53 ± 0.14 (n=3)* | - | - |"  # other seeds: none is the best
    assert "b,score,2.533333333,2.609" in made["table.csv"]
    assert "a,none,,,,,," in made["table.csv"]
    layout = layout.replace(better={"score": "lower"})
    once = tables.tables(records({"b": {0: 1.0}, "a": {0: 2.0}}), layout)
    assert "| b | 1 (n=1) | -1 (n=1) |" in once["table.md"] and "Bold" not in once["table.md"]
    twice = tables.tables(records({"b": {0: 1.0, 1: 1.0}, "a": {0: 2.0, 1: 2.0}}), layout)
    assert "| b | **1 ± 0 (n=2)** |" in twice["table.md"] and "Bold" in twice["table.md"]
    assert "Not run" not in twice["table.md"]
    equal = tables.tables(
        records({"b": {0: 0.1 + 0.2, 1: 0.3}, "a": {0: 0.0, 1: 0.0}}), layout
    )  # equal but for rounding
    assert "| +0.3 ± 0 (n=2)* |" in equal["table.md"]


def test_numbers_by_dotted_path():
    found = {"a": {"b": [1, {"c": 2.5}]}, "t": True, "s": "x"}
    assert tables.metric(found, "a.b.1.c") == 2.5
    assert [tables.metric(found, path) for path in ("a.b.2", "a.c", "t", "s", "a.b.x")] == [None] * 5


def test_records_accumulate_and_tables_come_from_them_alone(tmp_path, root):
    changes = dict(rows={"one": {}, "two": {"scale": 2.0}}, table=dict(columns={"total": "total"}, baseline="one"))
    for seeds in ([0, 1], [0, 1, 2]):  # a campaign of two days
        runs = toy_runs(tmp_path, seeds=seeds, **changes)
        for run in runs:
            finished(run, root, total=run.seed + run.parameters["scale"])
        spec = load_spec(tmp_path / "papermill_runs" / "specs" / "toy.yaml")
        folder = publish(spec, runs, root).folder
    assert folder == tmp_path / "papermill_runs" / "results" / "toy"
    assert len(list((folder / "records").glob("*.json"))) == 6
    assert "| two | 3.0 ± 2.5 (n=3) | +1 ± 0 (n=3)* |" in (folder / "table.md").read_text()
    assert {name: (folder / name).read_text() for name in ("table.md", "table.csv")} == results.rebuild(folder)
    record = json.loads(next((folder / "records").glob("*.json")).read_text())
    assert record.keys() >= {"id", "row", "seed", "parameters", "metrics", "seconds", "revision", "device", "log"}
    assert record["log"] == ["read data.bin", "step 1 of http://host/a/b done"]


def test_smoke_numbers_are_not_published(tmp_path, root):
    spec = load_spec(toys.project(tmp_path))
    with pytest.raises(ValueError, match="smoke"):
        publish(spec, resolve(spec, smoke=True), root)
    with pytest.raises(ValueError, match="no finished runs"):
        publish(spec, resolve(spec), root)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_committed_tables_come_from_committed_records(path):
    for name, text in results.rebuild(path.parent).items():
        assert (path.parent / name).read_text() == text


def test_lab_runs_lists_filters_and_compares(tmp_path, root):
    runs = toy_runs(tmp_path, rows={"one": {}, "two": {"scale": 2.0}}, seeds=[0, 1])
    for run in runs[1:]:
        finished(run, root, total=run.seed + 0.5)
    state.prepare_run_folder(runs[0], root)

    def lines(*words: str) -> list[list[str]]:
        answer = CliRunner().invoke(app, ["runs", *words, "--root", str(root)])
        assert answer.exit_code == 0, answer.output
        return [line.split() for line in answer.output.splitlines()]

    assert lines()[0] == ["id", "spec", "row", "seed", "status", "seconds"]
    assert len(lines()) == 5
    assert lines("--status", "new")[1:] == [[runs[0].id, "toy", "one", "0", "new", "0.0"]]
    assert [line[2:4] for line in lines("--where", "scale=2.0", "--where", "seed=1")[1:]] == [["two", "1"]]
    assert lines("--compare", "deep.list.1", "--where", "row=one", "--status", "done")[1][-1] == "1.5"
    assert CliRunner().invoke(app, ["runs", "--status", "odd", "--root", str(root)]).exit_code == 2
    assert CliRunner().invoke(app, ["runs", "--where", "odd", "--root", str(root)]).exit_code == 2


def test_done_without_numbers_is_not_done(tmp_path, root):
    (run,) = toy_runs(tmp_path)
    folder = finished(run, root)
    assert runner.finished(run, root) is not None
    (folder / "result.json").unlink()
    assert runner.finished(run, root) is None
    assert collect([run], root) == []
    project = tmp_path / "papermill_runs" / "specs" / "toy.yaml"
    planned = CliRunner().invoke(app, ["run", str(project), "--dry-run", "--root", str(root)])
    assert f"{run.id}  resume " in planned.output, planned.output


def test_another_version_of_the_notebook_is_noticed(tmp_path, root, capsys):
    """Done runs of other code are told of, and their records are not averaged with new ones."""
    spec = load_spec(toys.project(tmp_path, seeds=[0, 1]))
    first, second = resolve(spec)
    for run, total, code in ((first, 1.0, first.code), (second, 2.0, "f" * 16)):
        folder = finished(run, root, total)
        found = state.read(folder)
        found.values["attempts"][-1]["code"] = code
        state.save(found)
    assert runner.run_spec([first, second], root, live=False) == 0
    said = capsys.readouterr().out
    assert "1 of them (default-seed1) ran another version of toy.ipynb" in said
    with pytest.raises(ValueError, match="different versions of the notebook's code"):
        publish(spec, [first, second], root)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_is_named(tmp_path, root, content):
    spec = load_spec(toys.project(tmp_path))
    (run,) = resolve(spec)
    finished(run, root)
    folder = publish(spec, [run], root).folder
    (folder / "records" / "broken.json").write_text(content)
    with pytest.raises(ValueError, match=r"broken\.json is not a record"):
        results.rebuild(folder)


def test_lab_runs_refuses_what_no_run_has(tmp_path, root):
    (run,) = toy_runs(tmp_path)
    folder = finished(run, root)

    def says(*words: str) -> str:
        return CliRunner().invoke(app, ["runs", "--root", str(root), *words]).output

    assert "names 'stepps' (did you mean 'steps'?), which no run here has" in says("--where", "stepps=6")
    assert "no result.json here has a number there" in says("--compare", "totl")
    assert run.id in says("--where", "scale=1e0") and run.id not in says("--where", "scale=1e-3")
    assert run.id not in says("--where", "name=[")
    assert "there are no such runs" in CliRunner().invoke(app, ["runs", "--root", str(tmp_path / "none")]).output
    (folder / "run.json").write_text("{")
    finished(toy_runs(tmp_path, seeds=[1])[0], root)
    assert "damaged" in says()


@pytest.mark.slow
def test_defaults_reach_the_notebook_as_they_are_written(tmp_path, root):
    """Only what the spec sets is given: a tuple stays a tuple, and a key a number."""
    path = toys.project(tmp_path, parameters={})
    parameters = 'smoke = False\nseed = 0\nrun_dir = "."\nweights = {1: 0.5}\nsite = (1, 2)'
    check = "import json\nfrom pathlib import Path\nassert weights[1] == 0.5 and site == (1, 2)\n"
    made = toys.notebook(
        check + 'Path(run_dir, "result.json").write_text(json.dumps({"total": 1}))', parameters=parameters
    )
    nbformat.write(made, tmp_path / "notebooks" / "toy.ipynb")
    (run,) = resolve(load_spec(path))
    done = execute_once(run, root)
    assert done.returncode == 0, state.read(run.folder(root)).error


def with_processes(runs, count: int) -> list:
    return [run._replace(parameters={**run.parameters, "processes": count}) for run in runs]


def test_a_run_gets_as_many_devices_as_it_has_processes(tmp_path, root):
    runs = toy_runs(tmp_path, rows={"a": {"steps": 1}, "b": {"steps": 2}, "c": {"steps": 3}})
    board, eight = runner.ProgressTable([run.name for run in runs], False), [str(i) for i in range(8)]
    made = {n: runner._Runner(with_processes(runs, n), root, board, None, eight) for n in (1, 3, 4, 8)}
    assert {n: one.jobs for n, one in made.items()} == {1: 8, 3: 2, 4: 2, 8: 1}
    four = made[4]
    assert four._free_devices(4) == ["0", "1", "2", "3"]
    four.children.append(type("Child", (), {"devices": ["0", "1", "2", "3"]})())
    assert four._free_devices(4) == ["4", "5", "6", "7"]
    assert runner._Runner(with_processes(runs, 8), root, board, None, [])._free_devices(8) == []
    with pytest.raises(ValueError, match=r"takes 8 devices.*there are 4 here; give --set processes=4"):
        runner.run_spec(with_processes(runs, 8), root, devices=["0", "1", "2", "3"], live=False)
    small = [run._replace(smoke=True) for run in with_processes(runs, 8)]
    assert runner._Runner(small, root, board, None, ["0"]).jobs == 1
    board.close()


def test_a_child_sees_its_devices_alone(tmp_path, root, monkeypatch):
    (run,) = with_processes(toy_runs(tmp_path), 2)
    seen = {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **_: seen.update(env))
    runner._Child(run, state.prepare_run_folder(run, root).folder, ["2", "5"], 1)
    assert seen["CUDA_VISIBLE_DEVICES"] == "2,5"


def test_parameters_from_the_command_line_have_the_last_word(tmp_path):
    spec = toys.project(tmp_path, rows={"a": {"steps": 1}, "b": {"steps": 2}})
    words = ["run", str(spec), "--dry-run", "--set", "scale=2", "--set", "name=some text"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and done.output.count("scale=2.0 name='some text'") == 2, done.output
    for given, message in (
        ("scal=2", "no parameter 'scal'"),
        ("steps", "write NAME=VALUE"),
        ("seed=3", "seed cannot be set here: list it under seeds"),
        ("steps=[1", "write NAME=VALUE"),
        ("steps=many", "steps was given 'many'"),
    ):
        wrong = CliRunner().invoke(app, ["run", str(spec), "--dry-run", "--set", given])
        assert wrong.exit_code == 2 and message in " ".join(wrong.output.split()), wrong.output


def test_a_path_in_a_spec_is_seen_from_the_project(tmp_path, monkeypatch):
    project = toys.project(tmp_path, parameters={})
    own = toys.notebook(
        "1", parameters="data_path = None  # a folder [path]\nother = None\nsmoke = False\nseed = 0\nrun_dir = 'x'"
    )
    nbformat.write(own, tmp_path / "notebooks" / "toy.ipynb")
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    (run,) = resolve(load_spec(project), forced={"data_path": "pictures"})
    assert run.parameters["data_path"] == str(tmp_path / "pictures")
    (unmarked,) = resolve(load_spec(project), forced={"other": "pictures"})
    assert unmarked.parameters["other"] == "pictures"
    (other,) = resolve(load_spec(project), forced={"data_path": "nowhere"})
    assert other.parameters["data_path"] == "nowhere"


def test_runs_without_numbers_are_listed(tmp_path, root, monkeypatch):
    """Columns that a spec's table has and a user did not ask for are no reason to list nothing."""
    table = {"columns": {"total": "nowhere.to.be.found"}}
    (run,) = toy_runs(tmp_path, table=table)
    finished(run, root)
    monkeypatch.chdir(tmp_path)
    listed = CliRunner().invoke(app, ["runs", "toy"])
    assert listed.exit_code == 0 and "done" in listed.output, listed.output
