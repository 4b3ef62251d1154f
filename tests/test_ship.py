"""Which runs can ship, and what is written of them."""

import json

import numpy as np
import pytest
import torch
import yaml

from labcore import zoo
from labcore.config import RunConfig, StudentRunConfig
from labcore.data import emoji
from labcore.data.sources import SOURCES
from labcore.experiments import ship
from labcore.nn.pretrained import read_tensors
from labcore.runs import config_paths, models, own_data
from labcore.runs.configure import configure_run
from labcore.runs.train import run_training
from labcore.zoo import INVERSES, NAMES, path

MODEL = dict(image_size=28, channels=1, patch_size=4, width=32, num_blocks=1, layers_per_block=1, head_dim=32)
STUDENT = "fashion-biflow"
INVERSE = dict(flow=INVERSES[STUDENT], model={**MODEL, "num_classes": 10, "max_guidance": 2.0}, train=dict(steps=2))
FLOW = dict(model={**MODEL, "num_classes": 10}, data=dict(name="fashion-mnist"), train=dict(steps=2))


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        (RunConfig(**FLOW), 1, "has done 1 of 2 steps; finish it first"),
        (RunConfig(**{**FLOW, "model": {**MODEL, "num_classes": 5}}), 2, "with 5 classes"),
        (RunConfig(**{**FLOW, "data": dict(name="emoji-32")}), 2, "emoji-32 with 10 classes"),
        (
            RunConfig(**{**FLOW, "data": dict(name="folder", path="pictures", image_size=28)}),
            2,
            "folder with 10 classes",
        ),
        (StudentRunConfig(**{**INVERSE, "model": {**INVERSE["model"], "denoiser": False}}), 2, "denoiser is False"),
        (StudentRunConfig(**{**INVERSE, "model": {**INVERSE["model"], "max_guidance": 0.5}}), 2, "max_guidance 0.5"),
        (StudentRunConfig(**{**INVERSE, "flow": "runs/mine"}), 2, "for a student of runs/mine; labcore.zoo plans"),
    ],
)
def test_what_has_no_card_is_refused_before_anything_is_written(tmp_path, config, steps, message):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": steps}) + "\n")
    name = NAMES[0] if isinstance(config, RunConfig) else STUDENT
    before = {file: file.stat().st_mtime_ns for file in path(name).iterdir()}
    with pytest.raises(ValueError, match=message):
        ship.publish(tmp_path, name)
    assert before == {file: file.stat().st_mtime_ns for file in path(name).iterdir()}


@pytest.mark.parametrize(
    ("name", "config"), [("mine", FLOW), (STUDENT, FLOW), (NAMES[0], INVERSE), (STUDENT, {**INVERSE, "flow": NAMES[0]})]
)
def test_a_name_is_one_that_is_planned_for_such_a_model(tmp_path, name, config):
    config = (StudentRunConfig if "flow" in config else RunConfig)(**config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with pytest.raises(ValueError, match=rf"name was '{name}' for .*fashion-biflow \(a student of fashion-itarflow\)"):
        ship.publish(tmp_path, name)


def test_a_spec_is_the_run_again():
    for config in (RunConfig(**FLOW), StudentRunConfig(**INVERSE)):
        text = ship.spec(NAMES[0], config)
        assert type(config)(**yaml.safe_load(text)) == config
        assert f"--config labcore/zoo/{NAMES[0]}/spec.yaml --out runs/{NAMES[0]}" in text.splitlines()[0]
        assert ("--invert" in text.splitlines()[0]) == isinstance(config, StudentRunConfig)


@pytest.fixture
def own_zoo(tmp_path, monkeypatch):
    """An empty zoo, and few emoji: of each class the first 13 for training and two for testing. Measures are few as well."""
    folder = tmp_path / "zoo"
    for module in (zoo, ship):
        monkeypatch.setattr(module, "FOLDER", folder)
    few = {"train": 13, "test": 2}
    read = emoji.read_split

    def first(split):
        pictures, labels = read(split)
        rows = np.concatenate([np.flatnonzero(labels == k)[: few[split]] for k in range(len(emoji.CLASSES))])
        return pictures[rows], labels[rows]

    monkeypatch.setattr(emoji, "read_split", first)
    monkeypatch.setattr(ship, "METRICS", ("kid_efflite0", "precision_efflite0"))
    monkeypatch.setattr(ship, "COMPARED", 100)
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    return folder


def put_into_the_zoo(monkeypatch, *names):
    """What the next process would find."""
    for module, name in (
        (zoo, "NAMES"),
        (models, "NAMES"),
        (ship, "NAMES"),
        (own_data, "SHIPPED"),
        (config_paths, "SHIPPED"),
    ):
        monkeypatch.setattr(module, name, names)


SETTINGS = ["model.width=32", "model.num_blocks=2", "model.layers_per_block=1", "train.batch_size=9", "train.steps=2"]
SETTINGS += ["train.precision=fp32"]


@pytest.mark.slow
def test_a_flow_and_a_student_of_emoji_ship(tmp_path, own_zoo, monkeypatch):
    run_training(configure_run("emoji-32", settings=SETTINGS), tmp_path / "flow", previews=False)
    folder = ship.publish(tmp_path / "flow", "emoji-tarflow")
    assert folder == own_zoo / "emoji-tarflow"
    card, record = (folder / "README.md").read_text(), json.loads((folder / "record.json").read_text())
    assert "for 32x32 colour images of emoji in 9 classes" in card and "| on emoji of Noto | |" in card
    assert "one class a column: Smileys & Emotion, People & Body," in card and "Apache License 2.0" in card
    assert "images of\nemoji-32, all classes drawn equally often, seed 0" in card
    assert "negative log-likelihood of 18 test images" in card and "guessing reaches | 11.1% |" in card
    assert "too few held-out images for theirs" in card and "recognised" not in card and "clothes" not in card
    assert "recognised" not in record and record["largest_class"] == pytest.approx(1 / 9)
    assert {v.dtype for v in read_tensors(folder / "model.safetensors").values()} == {torch.float16}
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["fidelity_efflite0"]["reference"]["data"].startswith("emoji-32")
    assert yaml.safe_load((folder / "spec.yaml").read_text())["data"]["name"] == "emoji-32"

    put_into_the_zoo(monkeypatch, "emoji-tarflow")
    student = configure_run(invert="emoji-tarflow", settings=[*SETTINGS[2:], "model.max_guidance=2"])
    assert student.data.name == "emoji-32" and student.model.class_names == emoji.CLASSES
    run_training(student, tmp_path / "student", previews=False)
    folder = ship.publish(tmp_path / "student", "emoji-biflow")
    card, record = (folder / "README.md").read_text(), json.loads((folder / "record.json").read_text())
    assert "clean 32x32 colour image of one of 9 classes" in card and "| on emoji of Noto | |" in card
    assert "mean squared error of 18 test images" in card and record["brought_back"]["n"] == 18
    assert "lab train --invert emoji-tarflow --config labcore/zoo/emoji-biflow/spec.yaml" in card
    assert "recognised" not in record


def test_shipped_models_are_compared_with_images_that_are_in_labcore():
    grey, colour = (RunConfig(**{**FLOW, "data": dict(name=name)}) for name in ("fashion-mnist", "emoji-32"))
    model = grey.model
    assert own_data.as_shipped(grey.data, model) == own_data.Data("fashion-mnist-12k", image_size=28, channels=1)
    assert own_data.as_shipped(colour.data, model).name == "emoji-32"


def test_sources_have_the_classes_of_their_data():
    from labcore.data import load

    for name in ("fashion-mnist-12k", "emoji-32"):
        assert SOURCES[name].classes == load(name, "test").classes


def test_planned_models_that_are_not_here_are_not_named():
    assert set(NAMES) <= {*zoo.PLANNED_FLOWS, *zoo.PLANNED_INVERSES}
    assert all(flow in zoo.PLANNED_FLOWS for flow in zoo.PLANNED_INVERSES.values())
    for name in {*zoo.PLANNED_FLOWS, *zoo.PLANNED_INVERSES} - set(NAMES):
        with pytest.raises(ValueError, match="no shipped model"):
            zoo.load(name)
