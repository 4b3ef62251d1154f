"""What a training shows: one output of a notebook's cell, lines in a script, one line for a run that is finished or another."""

import json
from pathlib import Path

import nbformat
import pytest
import test_training
from test_training import run_config

from labcore.campaigns.notebook import execute_notebook
from labcore.runs import watching
from labcore.runs.background import train_streamed
from labcore.train.log import Lines, read_log, training_seconds
from labcore.train.same_run import AnotherRun

folder = test_training.folder
one_thread = test_training.one_thread

MANY = dict(steps=20, batch_size=4, accumulation=1, log_every=1, save_every=20, eval_every=20)
SHORT = dict(batch_size=4, accumulation=1, warmup_steps=2, save_every=4, eval_every=4)


@pytest.fixture
def cell(monkeypatch):
    """A cell of a notebook: bundles that it displayed, the last state of each."""
    import IPython.display

    outputs = []

    class Handle:
        def __init__(self, bundle):
            self.place = len(outputs)
            outputs.append(bundle)

        def update(self, bundle, raw):
            outputs[self.place] = bundle

    monkeypatch.setattr(watching, "in_kernel", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw, display_id: Handle(bundle))
    return outputs


def test_a_script_prints_a_line_a_tenth(folder, tmp_path, capsys):
    config = run_config(folder, **MANY)
    train_streamed(config, tmp_path, previews=False)
    assert len(read_log(tmp_path)) == 20
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("precision fp32")
    assert [int(line.split("/")[0].removeprefix("step ")) for line in lines[1:]] == [1, *range(2, 21, 2)]
    train_streamed(config, tmp_path, previews=False)
    assert capsys.readouterr().out.splitlines() == [f"found in {tmp_path}, nothing trained: 20 steps"]


def test_a_function_is_given_every_line_of_a_training_in_place(folder, tmp_path, capsys):
    lines = []
    train_streamed(run_config(folder, **MANY), tmp_path, previews=False, show=lines.append)
    assert len(lines) == 21 and lines[1].startswith("step 1/20  ") and capsys.readouterr().out == ""


def test_a_cell_has_one_output_with_a_line_and_a_picture(folder, tmp_path, cell, monkeypatch, capsys):
    progress = tmp_path / "progress"
    monkeypatch.setenv("LABCORE_PROGRESS", str(progress))
    config, run = run_config(folder, **MANY), tmp_path / "run"
    train_streamed(config, run)
    (shown,) = cell
    assert set(shown) == {"text/plain", "text/html", "image/png"}
    first, second, words = shown["text/plain"].splitlines()
    assert first.startswith("20 steps in ") and "test_nats_per_dim" in first and len(first) < 100
    assert second.startswith("precision fp32") and "samples, step 20" in words and "optimizer steps" in words
    assert shown["text/html"].count("<img") == 1 and shown["image/png"] in shown["text/html"]
    assert len(progress.read_text().splitlines()) == 12 and capsys.readouterr().out == ""
    train_streamed(config, run)
    assert len(cell) == 2
    line, *words = cell[1]["text/plain"].splitlines()
    assert line == f"found in {run}, nothing trained: 20 steps" and len(words) == 1


def test_another_parameter_is_one_line_and_shows_no_old_run(folder, tmp_path, cell):
    config = run_config(folder, steps=4, **SHORT)
    train_streamed(config, tmp_path, previews=False)
    cell.clear()
    with pytest.raises(AnotherRun) as error:
        train_streamed(run_config(folder, steps=6, **SHORT), tmp_path, previews=False)
    assert cell == []
    (line,) = error.value._render_traceback_()
    assert "holds step 4 of another run (train.steps was 4, now 6)" in line and "\n" not in line
    assert "another folder" in line


def test_what_other_processes_write_is_a_record_or_a_message():
    lines, seen = [], []
    reporter = watching.Tenths(lines.append)
    for step in range(1, 101):
        watching.report_line(reporter, f"step {step}/100  loss {step}")
    assert lines == [f"step {step}/100  loss {step}" for step in (1, *range(10, 101, 10))]
    watching.report_line(Lines(seen.append), "step by step, 1/2")
    assert seen == ["step by step, 1/2"]


def test_a_stopped_run_is_not_called_finished(tmp_path, cell):
    shown = watching.Cell(tmp_path)
    shown.advance(0, 10)
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 5, "loss": 1.0, "seconds_per_step": 60.0}) + "\n")
    shown.record(5, 10, "")
    assert cell[0]["text/plain"] == "step 5 of 10, 5.0 min to go; loss 1"
    shown.close()
    assert cell[0]["text/plain"].startswith("not finished: step 5 of 10; loss 1\n")


def test_the_time_of_a_log():
    assert training_seconds([{"step": 2, "seconds_per_step": 3.0}, {"step": 10, "seconds_per_step": 0.5}]) == 10.0


@pytest.mark.slow
def test_papermill_stores_the_last_state_and_shows_lines(folder, tmp_path, capsys):
    config = json.dumps(run_config(folder, **MANY).model_dump(mode="json"))
    code = (
        f"import json\nfrom labcore.config import RunConfig\nfrom labcore.runs.background import train_streamed\n"
        f"config = RunConfig(**json.loads({config!r}))\nresult = train_streamed(config, 'run')"
    )
    changed = "from labcore.runs.background import train_streamed\ntrain = config.train.replace(lr=1e-5).model_dump()\n"
    changed += "train_streamed(config.replace(train=train), 'run')"
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["parameters"]})]
    notebook.cells += [nbformat.v4.new_code_cell(code), nbformat.v4.new_code_cell(changed)]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    log = tmp_path / "log.txt"
    with pytest.raises(Exception, match="holds step 20 of another run"):
        execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {}, log=log)
    cells = [cell for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells if cell.cell_type == "code"]
    (shown,) = cells[-2].outputs
    assert shown.data["text/plain"].startswith("20 steps in") and "image/png" in shown.data
    (error,) = cells[-1].outputs
    assert len(error.traceback) == 1 and "train.lr was 0.003, now 1e-05" in error.traceback[0]
    for lines in (log.read_text(), capsys.readouterr().out):
        assert [line[:8] for line in lines.splitlines()[:3]] == ["precisio", "step 1/2", "step 2/2"]
        assert lines.count("\n") == 12
    assert Path(tmp_path / "run" / "previews").is_dir()
