"""`lab compare`: a page about tiny made-up runs, whose numbers are those of the logs; every damage is named in it."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from labcore.cli.app import app
from labcore.runs.comparison import comparison_page
from labcore.runs.run_record import read_run, read_runs
from labcore.viz.curve_svg import MOST, Curve, curve_svg, thinned

LOG = [
    {"step": 1, "loss": 1.75, "nats_per_dim": 1.5, "grad_norm/block_1": 0.1},
    {"step": 2, "loss": 1.25, "nats_per_dim": 1.125, "test_nats_per_dim": 1.0625, "seconds_per_step": 90.0},
]
VOID = {"meta", "img", "input", "path", "circle", "polyline", "link", "br"}


def make_run(folder: Path, records=LOG, lr=1e-3, steps=2, finished=True) -> Path:
    """A run's folder as `lab train` leaves it, without weights."""
    (folder / "previews").mkdir(parents=True)
    config = {
        "model": {"width": 8, "class_names": ["<shoe>", "bag"]},
        "train": {"lr": lr, "steps": steps},
        "align": None,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    Image.new("L", (12, 8)).save(folder / "previews" / "step-00000002.png")
    if finished:
        (folder / "model").mkdir()
    return folder


class Page(HTMLParser):
    """A page's open elements, checked to be closed in order, its attributes, and its texts."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def rows(text: str) -> dict[str, list[str]]:
    """The cells of the tables' rows by their heads."""
    found: dict[str, list[str]] = {}
    for head, cells in re.findall(r"<th scope=row>(.*?)</th>(.*?)</tr>", text):
        found.setdefault(re.sub("<svg.*</svg> ", "", head), []).extend(re.findall(r"<td>(.*?)</td>", cells))
    return found


def test_the_page_has_the_numbers_of_the_logs_and_names_what_differs(tmp_path):
    other = [{**record, "loss": record["loss"] + 0.125} for record in LOG]
    folders = [make_run(tmp_path / "a & b"), make_run(tmp_path / "<i>", other, lr=0.00100001)]
    text = comparison_page(read_runs(folders))
    page = Page(text)
    assert rows(text)["a &amp; b"] == ["2", "1.5", "1.25", "1.125", "1.0625", "0.001"]
    assert rows(text)["&lt;i&gt;"] == ["2", "1.5", "1.375", "1.125", "1.0625", "0.00100001"]
    heads = re.findall(r"<th scope=col>(.*?)</th>", text)
    assert heads == ["run", "last step", "minutes", "loss", "nats_per_dim", "test_nats_per_dim", "run", "train.lr"]
    assert rows(text)["model.class_names"] == ["&lt;shoe&gt;, bag"] and rows(text)["train.steps"] == ["2"]
    charts = [attributes["aria-label"] for attributes in page.all("svg") if "aria-label" in attributes]
    assert charts[0] == (
        "loss against optimizer steps: a & b from 1.75 at step 1 to 1.25 at step 2, lowest 1.25; "
        "<i> from 1.875 at step 1 to 1.375 at step 2, lowest 1.375"
    )
    assert "grad_norm/block_1" not in text and text.count("finished: 2 steps") == 2


def test_the_page_is_alone_and_can_be_read_and_moved_without_a_mouse(tmp_path):
    text = comparison_page(read_runs([make_run(tmp_path / name) for name in ("a", "b")]))
    page = Page(text)
    assert not re.search(r"<script|https?://|url\(|@import", text)
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in page.all("img"))
    assert [attributes["alt"] for attributes in page.all("img")] == [f"Grid of samples of {n} at step 2" for n in "ab"]
    assert all(
        attributes.get("role") == "img" or "aria-hidden" in attributes or "x" in attributes
        for attributes in page.all("svg")
    )
    assert all("tabindex" in attributes for attributes in page.all("div") if attributes.get("class") == "scrolled")
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names)) and {link["href"][1:] for link in page.all("a")} <= set(names)
    assert "prefers-color-scheme: dark" in text


def cut(folder):
    path = folder / "log.jsonl"
    path.write_text("{broken\n" + path.read_text())


def no_model(folder):
    (folder / "model").rmdir()


FAULTS = {
    "a line of the log": (cut, "log.jsonl is damaged: 1 of 3 lines are not records"),
    "not a number": (
        lambda f: (f / "log.jsonl").write_text('{"step": 1, "loss": NaN}\n'),
        "loss in log.jsonl are not finite",
    ),
    "no log": (lambda f: (f / "log.jsonl").unlink(), "there is no log.jsonl"),
    "the configuration": (lambda f: (f / "config.yaml").write_text("{"), "config.yaml cannot be read"),
    "another configuration": (lambda f: (f / "config.yaml").write_text("a: 1"), "it is not the configuration of a run"),
    "no configuration": (lambda f: (f / "config.yaml").unlink(), "its settings are unknown"),
    "a picture": (
        lambda f: (f / "previews" / "step-00000009.png").write_bytes(b"\x89PNG"),
        "step-00000009.png is damaged",
    ),
    "a picture's name": (lambda f: (f / "previews" / "step-x.png").write_bytes(b""), "step-x.png is damaged"),
    "no picture": (lambda f: (f / "previews" / "step-00000002.png").unlink(), "it has no previews"),
    "a record": (lambda f: (f / "evaluation.json").write_text("{"), "evaluation.json is damaged"),
    "a checkpoint": (lambda f: (f / "checkpoints" / "step-00000001").mkdir(parents=True), "step-00000001 is damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named_under_the_run_and_the_rest_is_shown(tmp_path, fault):
    damage, words = FAULTS[fault]
    folders = [make_run(tmp_path / name) for name in ("sound", "hurt")]
    damage(folders[1])
    sound, hurt = read_runs(folders)
    assert sound.notes == [] and any(words in note for note in hurt.notes)
    assert not any(str(tmp_path) in note for note in hurt.notes)
    text = comparison_page([sound, hurt])
    Page(text)
    legend = text[text.index("<b>hurt</b>") :].split("</ul></li>")[0]
    assert words.lower() in html.unescape(legend).lower()
    assert rows(text)["sound"][0] == "2"


def test_an_unfinished_run_has_the_settings_of_its_checkpoint(tmp_path):
    folder = make_run(tmp_path / "run", finished=False)
    (folder / "config.yaml").unlink()
    place = folder / "checkpoints" / "step-00000002"
    place.mkdir(parents=True)
    run = {"model": {"width": 4}, "train": {"steps": 5, "lr": 0.5}, "data_fingerprint": "abc"}
    state = {"step": 2, "run": run, "precision": "fp32", "files": {}}
    (place / "state.json").write_text(json.dumps(state))
    found = read_run(folder, "run")
    assert found.settings == {"model.width": 4, "train.steps": 5, "train.lr": 0.5} and found.notes == []
    assert found.status == "not finished: logged up to step 2 of 5 steps"


def test_measures_of_a_record_have_their_intervals(tmp_path):
    folder = make_run(tmp_path / "run")
    record = {
        "likelihood": {"nats_per_dim": -0.5, "low": -0.75, "high": -0.25, "nats": -400.0},
        "training_free_accuracy": {"accuracy": 0.8125, "low": None, "high": None},
        "fidelity_efflite0": {"measures": {"fid_efflite0": {"value": 31.5, "low": 30.0, "high": 33.0, "n": 2000}}},
        "model": "runs/first",
    }
    (folder / "evaluation.json").write_text(json.dumps(record))
    text = comparison_page([read_run(folder, "run")])
    assert rows(text)["run"][-3:] == ["-0.5 (-0.75 to -0.25)", "0.8125", "31.5 (30 to 33)"]


def test_the_command_names_damage_and_refuses_what_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a"), make_run(tmp_path / "b"), (tmp_path / "empty").mkdir()
    (tmp_path / "b" / "log.jsonl").unlink()
    run = lambda *words: CliRunner().invoke(app, ["compare", *words])  # noqa: E731
    found = run("a", "b")
    assert (
        found.exit_code == 0 and "b: there is no log.jsonl" in found.output and "outputs/compare.html" in found.output
    )
    Page((tmp_path / "outputs" / "compare.html").read_text())
    for words, message in (
        (["a", "empty"], "empty has no config.yaml, log.jsonl or checkpoints"),
        (["a", "gone"], "gone is not there"),
        (["a", "b/../a"], "b/../a was given more than once"),
        (["a", "--out", "b"], "b is a folder"),
    ):
        found = run(*words)
        assert found.exit_code == 2 and message in found.output, found.output


def test_names_are_as_long_as_it_takes_to_tell_runs_apart(tmp_path):
    folders = [make_run(tmp_path / name / "flow") for name in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["a/flow", "b/flow"]
    assert [run.name for run in read_runs(folders[:1])] == ["flow"]


def test_a_long_curve_keeps_its_extremes_and_a_chart_its_values():
    points = [(step, 1.0) for step in range(5000)]
    points[1234], points[4321] = (1234, 7.0), (4321, -3.0)
    kept = thinned(points)
    assert len(kept) <= MOST + 2 and {(1234, 7.0), (4321, -3.0)} <= set(kept) and kept == sorted(kept)
    svg = curve_svg("loss", [Curve("run-1", "a", [(0, 1.0), (10, 3.0)])])
    (line,) = re.findall(r'polyline class="run-1" points="([^"]+)"', svg)
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in line.split())
    inner = re.search(r'<svg x="\d+" y="\d+" width="(\d+)" height="(\d+)">', svg)
    width, height = map(float, inner.groups())
    assert (x0, x1) == (0, width) and y0 - y1 == pytest.approx(height * 2 / 2.2, abs=0.1)  # 5% of room on either side
    assert "circle" in curve_svg("loss", [Curve("run-1", "a", [(5, 1.0)]), Curve("run-2", "b", [])])
