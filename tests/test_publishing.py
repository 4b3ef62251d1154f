"""Publishing a campaign: what counts as finished, what is added, what is replaced, and what is said of it."""

import json
import os
from pathlib import Path

import pytest
import toys
from test_runs import finished
from typer.testing import CliRunner

from labcore.campaigns import publishing, results, state
from labcore.campaigns.publishing import publish
from labcore.campaigns.spec import load_spec, resolve
from labcore.cli.app import app

pytestmark = pytest.mark.usefixtures("as_users_run")
ROWS = {"one": {}, "two": {"scale": 2.0}}
TABLE = {"columns": {"total": "total"}, "baseline": "one"}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "papermill_runs" / "executed"


def campaign(folder: Path, **changes):
    """The spec of a toy campaign, by default of two rows and two seeds."""
    return load_spec(toys.project(folder, **{"rows": ROWS, "seeds": [0, 1], "table": TABLE, **changes}))


def done(run, root: Path, total: float = 1.0, code: str | None = None) -> Path:
    """A run as finished by the notebook's present code, or by other code."""
    folder = finished(run, root, total)
    found = state.read(folder)
    found.values["attempts"][-1]["code"] = code or run.code
    state.save(found)
    return folder


def failed(run, root: Path) -> None:
    found = state.prepare_run_folder(run, root)
    attempt = {"status": "failed", "seconds": 1.0, "error": "no such flow"}
    state.save(found._replace(values=found.values | {"status": "failed", "attempts": [attempt]}))


def by_name(spec) -> dict:
    return {run.name: run for run in resolve(spec)}


def totals(spec) -> dict[str, float]:
    """Published totals by the run's name."""
    found = [json.loads(path.read_text()) for path in (spec.results / "records").glob("*.json")]
    return {f"{record['row']}-seed{record['seed']}": record["metrics"]["total"] for record in found}


def lab(*words: str | Path):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_fresh_clone_does_not_run_what_is_published(tmp_path, root, monkeypatch):
    spec = campaign(tmp_path)
    for run in resolve(spec):
        done(run, root, total=3.5)
    publish(spec, resolve(spec), root)
    other = tmp_path / "elsewhere"  # nothing has run there
    dry = lab("run", spec.path, "--dry-run", "--root", other)
    assert dry.output.count("skip") == dry.output.count("(published)") == 4
    assert lab("run", spec.path, "--dry-run", "--root", other, "--again").output.count("start") == 4
    answer = lab("run", spec.path, "--root", other)
    assert answer.exit_code == 0 and "4 of 4 runs are published in" in answer.output, answer.output
    assert "3.5 ± 0 (n=2)" in answer.output
    assert not other.exists()

    monkeypatch.chdir(tmp_path)
    listed = lab("runs", "toy", "--root", other).output.splitlines()
    assert len(listed) == 5 and all(line.split()[4] == "published" for line in listed[1:]), listed
    assert listed[1].split()[-1] == "3.5"
    state.prepare_run_folder(resolve(spec)[0], other)
    assert lab("runs", "toy", "--root", other, "--status", "published").output.count("published") == 4
    assert lab("runs", "toy", "--status", "done").output.count("done") == 4
    assert lab("runs", "--root", other).output.count("published") == 0  # runs of a folder, of whichever spec


def test_a_record_of_other_code_or_parameters_is_no_finished_run(tmp_path, root):
    spec = campaign(tmp_path)
    runs = resolve(spec)
    for run in runs:
        done(run, root, code="f" * 16)
    publish(spec, runs, root)
    assert results.published_records(spec, runs) == {}
    changed = campaign(tmp_path, parameters={"steps": 7})
    assert results.published_records(changed, resolve(changed)) == {}
    assert lab("run", spec.path, "--dry-run", "--root", tmp_path / "x").output.count("start") == 4


def test_finished_runs_are_published_although_others_failed(tmp_path, root, monkeypatch):
    spec = campaign(tmp_path)
    runs = by_name(spec)
    for name in ("one-seed0", "one-seed1", "two-seed0"):
        done(runs[name], root)
    failed(runs["two-seed1"], root)
    monkeypatch.setattr("labcore.campaigns.runner.run_spec", lambda *_: 1)
    answer = lab("run", spec.path, "--publish")
    assert answer.exit_code == 1
    assert "3 new records, 0 replaced" in answer.output
    assert "not finished, so without a record: two-seed1; give the same line again" in answer.output
    assert totals(spec).keys() == {"one-seed0", "one-seed1", "two-seed0"}
    monkeypatch.setattr("labcore.campaigns.runner.run_spec", lambda *_: 143)
    assert "stopped by a signal: nothing is published" in lab("run", spec.path, "--publish").output


def test_a_campaign_without_a_finished_run_says_so_and_has_failed(tmp_path, root, monkeypatch):
    spec = campaign(tmp_path)
    monkeypatch.setattr("labcore.campaigns.runner.run_spec", lambda *_: 1)
    answer = lab("run", spec.path, "--publish")
    assert answer.exit_code == 1 and "nothing is published: toy has no finished runs" in answer.output


def test_rows_are_published_one_by_one_from_folders_of_their_own(tmp_path):
    spec = campaign(tmp_path)
    for row, total in (("one", 1.0), ("two", 3.0)):
        root = tmp_path / f"root-{row}"
        for run in resolve(spec, only=[row]):
            done(run, root, total)
        answer = lab("run", spec.path, "--only", row, "--root", root, "--publish")
        assert answer.exit_code == 0 and "2 new records, 0 replaced" in answer.output, answer.output
        answer = lab("run", spec.path, "--only", row, "--root", root, "--publish")
        assert "0 new records, 0 replaced" in answer.output
    assert totals(spec) == {"one-seed0": 1.0, "one-seed1": 1.0, "two-seed0": 3.0, "two-seed1": 3.0}
    assert "| two | 3 ± 0 (n=2) | +2 ± 0 (n=2)* |" in (spec.results / "table.md").read_text()
    assert "Not run" not in (spec.results / "table.md").read_text()


@pytest.mark.parametrize("steps", [6, 7], ids=["other code", "other parameters"])
def test_old_records_of_a_row_are_replaced_once_all_new_ones_are_there(tmp_path, root, steps):
    spec = campaign(tmp_path)
    for run in resolve(spec):
        done(run, root, 1.0, code="f" * 16)
    publish(spec, resolve(spec), root)

    spec, again = campaign(tmp_path, parameters={"steps": steps}), tmp_path / "again"
    runs = by_name(spec)
    for name in ("one-seed0", "one-seed1", "two-seed0"):
        done(runs[name], again, 2.0)
    outcome = publish(spec, list(runs.values()), again)
    assert totals(spec) == {"one-seed0": 2.0, "one-seed1": 2.0, "two-seed0": 1.0, "two-seed1": 1.0}
    assert [line.split()[0] for line in outcome.replaced] == ["one-seed0", "one-seed1"]
    assert outcome.missing == ["two-seed1"]
    (reason,) = outcome.waiting
    assert "'two' keeps its published records" in reason and "finished are 1 of 2" in reason

    done(runs["two-seed1"], again, 2.0)
    answer = lab("run", spec.path, "--root", again, "--publish")
    assert answer.output.count("replaced: two-seed") == 2 and ", of now)" in answer.output, answer.output
    assert set(totals(spec).values()) == {2.0} and len(totals(spec)) == 4
    assert len(list((spec.results / "records").glob("*.json"))) == 4


def test_records_of_other_seeds_are_replaced_by_new_ones_only(tmp_path, root):
    spec = campaign(tmp_path, seeds=[0, 1, 2])
    for run in resolve(spec):
        done(run, root)
    publish(spec, resolve(spec), root)
    spec = campaign(tmp_path, seeds=[1, 2])
    assert publish(spec, resolve(spec), root).replaced == []
    assert len(totals(spec)) == 6  # nothing is new, so nothing is removed
    spec = campaign(tmp_path, seeds=[1, 2, 3])
    for run in resolve(spec, only=["one"]):
        done(run, root)
    outcome = publish(spec, resolve(spec), root)
    assert [line.split()[0] for line in outcome.replaced] == ["one-seed0"]
    assert {name for name in totals(spec) if "one" in name} == {"one-seed1", "one-seed2", "one-seed3"}
    assert {name for name in totals(spec) if "two" in name} == {"two-seed0", "two-seed1", "two-seed2"}


def test_a_published_record_is_replaced_by_the_same_run_with_again_alone(tmp_path, root):
    spec = campaign(tmp_path)
    for run in resolve(spec):
        done(run, root, 1.0)
    publish(spec, resolve(spec), root)
    for run in resolve(spec):
        done(run, root, 2.0)
    assert publish(spec, resolve(spec), root).replaced == []
    assert set(totals(spec).values()) == {1.0}
    for run in resolve(spec, only=["two"]):
        done(run, root, 3.0, code="f" * 16)  # an older version of the notebook left these
    outcome = publish(spec, resolve(spec), root, again=True)
    assert len(outcome.replaced) == 2 and set(totals(spec).values()) == {1.0, 2.0}


def test_a_row_that_was_renamed_takes_its_records_along(tmp_path, root):
    spec = campaign(tmp_path)
    for run in resolve(spec):
        done(run, root)
    publish(spec, resolve(spec), root)
    spec = campaign(tmp_path, rows={"first": {}, "two": {"scale": 2.0}}, table={"columns": {"total": "total"}})
    assert len(results.published_records(spec, resolve(spec))) == 4
    publish(spec, resolve(spec), tmp_path / "elsewhere")
    assert totals(spec).keys() == {"first-seed0", "first-seed1", "two-seed0", "two-seed1"}


def test_one_bad_row_does_not_keep_others_from_being_published(tmp_path, root):
    spec = campaign(tmp_path)
    runs = by_name(spec)
    for name, code in (("one-seed0", None), ("one-seed1", None), ("two-seed0", None), ("two-seed1", "f" * 16)):
        done(runs[name], root, code=code)
    outcome = publish(spec, list(runs.values()), root)
    assert totals(spec).keys() == {"one-seed0", "one-seed1"}
    assert "of row 'two' come from different versions of the notebook's code" in outcome.waiting[0]


@pytest.mark.parametrize("step", ["write_json", "unlink"])
def test_a_kill_while_publishing_loses_nothing(tmp_path, root, monkeypatch, step):
    """Publishing dies at its second write or its first removal; the same call again ends as an undisturbed one."""
    spec = campaign(tmp_path)
    for run in resolve(spec):
        done(run, root, 1.0)
    publish(spec, resolve(spec), root)
    spec, again = campaign(tmp_path, parameters={"steps": 7}), tmp_path / "again"
    for run in resolve(spec):
        done(run, again, 2.0)
    with monkeypatch.context() as patched:
        place = (publishing, "write_json") if step == "write_json" else (Path, "unlink")
        whole, calls = getattr(*place), []

        def dies(path, *arguments, **options) -> None:
            if not str(path).endswith(".tmp"):  # the removal of a temporary name is a part of each write
                calls.append(path)
                if len(calls) == (2 if step == "write_json" else 1):
                    raise KeyboardInterrupt
            whole(path, *arguments, **options)

        patched.setattr(*place, dies)
        with pytest.raises(KeyboardInterrupt):
            publish(spec, resolve(spec), again)
    assert len(os.listdir(spec.results / "records")) >= 5
    publish(spec, resolve(spec), again)
    assert set(totals(spec).values()) == {2.0} and len(os.listdir(spec.results / "records")) == 4
    assert results.rebuild(spec.results)["table.md"] == (spec.results / "table.md").read_text()


def test_a_table_says_which_rows_are_of_other_code_than_the_baseline(tmp_path, root):
    spec = campaign(tmp_path)
    for run in resolve(spec):
        done(run, root, code="f" * 16 if run.row == "two" else None)
    publish(spec, resolve(spec), root)
    note = (spec.results / "table.md").read_text().splitlines()[-1]
    assert note.endswith("Run with another version of the notebook's code than the other rows: two.")
    for run in resolve(spec):
        done(run, tmp_path / "again")
    publish(spec, resolve(spec), tmp_path / "again")
    assert "another version" not in (spec.results / "table.md").read_text()
