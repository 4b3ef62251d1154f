"""What commands say first: data, classes, splits, model, device, folder, and how long a training will take."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from labcore import config
from labcore.cli.app import app
from labcore.cli.first_words import settings_of_run
from labcore.data.images import ImageData
from labcore.evaluate.accuracy import guessing
from labcore.jsonfile import write_json
from labcore.presets import DEFAULT
from labcore.runs import opening
from labcore.runs.configure import DataOptions, configure_run
from labcore.runs.images import pictures
from labcore.train.log import Lines

SMALL = ["model.patch_size=7", "model.num_blocks=1", "model.layers_per_block=1", "model.width=32", "train.steps=14"]
SMALL += ["train.batch_size=4", "train.warmup_steps=1", "train.precision=fp32"]


def labelled(counts: list[int]) -> ImageData:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    pixels = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    return ImageData(pixels, labels, tuple(f"c{i}" for i in range(len(counts))), "counted", "train")


@pytest.fixture
def folder(tmp_path):
    """picture_folder(parts): pictures in class folders below tmp_path, as {"train/cat": 12}."""

    def make(parts: dict[str, int]) -> Path:
        for part, count in parts.items():
            (tmp_path / "data" / part).mkdir(parents=True)
            for i in range(count):
                Image.new("RGBA", (9, 7), (20 * i, 0, 0, 128)).save(tmp_path / "data" / part / f"{i:02d}.png")
        return tmp_path / "data"

    return make


def described(data: Path, *settings: str) -> dict[str, str]:
    run = configure_run(images=DataOptions(str(data), 8), settings=["model.patch_size=4", *settings])
    return dict(opening.opening(run, Path("out"), "preset fashion-small", *pictures(run)))


def test_a_folder_without_splits(folder):
    rows = described(folder({"cat": 20, "dog": 10}), "data.crop=adm", "data.flip=true")
    assert rows["data"] == f"picture files in {folder({})}"
    assert rows["images"] == "27 for training, 3 for testing"
    assert rows["classes"] == "2, with the number of training images: cat 18, dog 9"
    assert rows["imbalance"].startswith(
        "the largest class (cat) has 2 times as many images as the smallest (dog); train."
    )
    assert rows["split"].startswith(
        "1 of 10 files of each class, evenly spread in sorted order, are for testing; data.test_share"
    )
    assert rows["pixels"].startswith("8 x 8 pixels, RGB (3 channels); of each picture resized, then the middle square")
    assert rows["pixels"].endswith(
        "mirrored with probability 1/2; smaller pictures are enlarged, the smallest from 7 pixels"
    )
    assert rows["transparency"].startswith(
        "30 of 30 pictures opened may have some; transparent pixels are laid on white"
    )
    assert rows["writes to"] == "out" and rows["settings"].startswith("preset fashion-small; it is made for small grey")


def test_a_folder_with_splits(folder):
    parts = {f"{split}/{name}": 4 for split in ("Training", "val") for name in ("cat", "dog")}
    rows = described(folder(parts), "data.channels=1", "data.limit=6")
    assert rows["images"] == "6 for training, 6 for testing (data.limit: at most 6 of each split, evenly spread)"
    assert rows["classes"] == "2 with 3 training images each: cat, dog" and "imbalance" not in rows
    assert rows["split"] == "the folder's own: Training for training, val for testing"
    assert "grey (1 channel)" in rows["pixels"]


def test_the_time_is_announced_where_enough_steps_are_left(tmp_path):
    run = configure_run(settings=SMALL)  # 14 steps
    rows = lambda: dict(opening.opening(run, tmp_path, "", labelled([600]), labelled([1])))  # noqa: E731
    assert rows()["time"] == "is estimated after 11 steps" and rows()["writes to"] == str(tmp_path)
    place = tmp_path / "checkpoints" / "step-00000003"
    place.mkdir(parents=True)
    assert rows()["time"] and "goes on" not in rows()["writes to"]  # it is no whole checkpoint
    write_json(place / "state.json", {"step": 3, "run": {}, "precision": "fp32", "files": {}})
    assert "time" not in rows() and "continues from its newest" in rows()["writes to"]


def test_arrow_files_name_their_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "is_arrow", lambda path: True)
    for name in ("train", "validation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").touch()
    data = config.DataConfig(name="folder", path=str(tmp_path), image_size=8)
    assert opening.split_rule(data) == "the files' own: train for training, validation for testing"


def test_many_classes_and_missing_ones():
    many = labelled(list(range(40, 0, -1)))
    said = opening.class_counts(many)
    assert said.startswith("40, with") and said.endswith("c0 40, c1 39, c2 38, ..., c37 3, c38 2, c39 1")
    assert opening.class_counts(labelled([2] * 40)) == "40 with 2 training images each: c0 to c39"
    assert opening.imbalance(labelled([3, 0])) == "c1 has no training image"
    assert opening.class_counts(labelled([5])) == "1: c0"


def test_colour_pictures_with_the_default_preset_get_a_hint(folder):
    parts = {"cat": 20, "dog": 10}
    assert "made for small grey pictures: --preset pictures-32-small" in described(folder(parts))["settings"]
    assert described(folder({}), "data.channels=1", "model.channels=1")["settings"] == "preset fashion-small"


def test_where_settings_come_from():
    assert settings_of_run("fashion-16", None, None, ["train.steps=3"]) == "preset fashion-16, train.steps=3"
    assert settings_of_run(None, Path("a.yaml"), None, []) == "file a.yaml"
    assert settings_of_run(None, None, "runs/a", []) == "defaults of a student"
    assert settings_of_run(None, None, None, []) == f"preset {DEFAULT}"
    assert settings_of_run("biflow-16-w64-naive", None, "runs/a", []) == "preset biflow-16-w64-naive"


def test_the_time_is_estimated_once_from_measured_steps():
    said, now = [], [0.0]
    reporter = opening.Estimating(Lines(said.append), clock=lambda: now[0])
    for step in range(200, 700):
        reporter.advance(step, 700)
        now[0] += 100.0 if step == 200 else 2.0  # what the first step prepares does not count
    assert len(said) == 1
    assert said[0].startswith("time: 16.3 minutes for the remaining 489 steps, estimated from 2 s a step over 10 steps")


@pytest.mark.parametrize("total", [1, 11])
def test_short_runs_have_no_estimate(total):
    said: list[str] = []
    reporter = opening.Estimating(Lines(said.append))
    for step in range(total + 1):
        reporter.advance(step, total)
    assert said == []


def test_train_describes_the_run_before_it_starts(tmp_path):
    words = [word for setting in SMALL for word in ("--set", setting)]
    line = ["train", "--out", str(tmp_path / "run"), "--no-previews", *words]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    names = [line.split("  ")[0] for line in lines[:12]]
    assert names[:6] == ["data", "images", "classes", "split", "pixels", "transparency"]
    assert names[6:] == ["model", "settings", "training", "device", "precision", "writes to"]
    assert "10 with 1,000 training images each: T-shirt/top" in lines[2]
    assert "flow: 1 block of 1 layer, width 32, 16 tokens an image, 10 classes" in lines[6]
    (estimate,) = (line for line in lines if line.startswith("time: "))
    assert "for the remaining 3 steps" in estimate
    again = CliRunner().invoke(app, line)
    assert "run; the run continues from its newest complete checkpoint" in again.stdout
    quiet = CliRunner().invoke(app, [*line, "--quiet"])
    assert quiet.exit_code == 0 and quiet.stdout.startswith("found in ")


def test_measuring_names_data_model_and_device(tmp_path):
    done = CliRunner().invoke(app, ["evaluate", "fashion-tarflow", "--limit", "4", "--metrics", "likelihood"])
    assert done.exit_code == 0, done.output
    data, model, device = done.stdout.splitlines()[:3]
    assert data == "data: fashion-mnist-12k, 28 pixels, at most 4 images of a split, evenly spread"
    assert model == "model: fashion-tarflow, a flow with 855,296 parameters, for 1 x 28 x 28 images"
    assert device.startswith("device: ")


def test_the_accuracy_of_guessing_is_that_of_the_most_frequent_class():
    assert str(guessing(labelled([1, 0, 3]))) == "75.0%, always c2"


def test_accuracies_stand_beside_that_of_guessing():
    done = CliRunner().invoke(app, ["evaluate", "fashion-tarflow", "--limit", "20", "--metrics", "likelihood,classify"])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[3:]] == ["likelihood", "classify", "guessing"]
