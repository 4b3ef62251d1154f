"""`lab smoke`: a preset from training to measures; every recipe of full size has the same code behind it."""

import json

import pytest
from in_turn import once
from typer.testing import CliRunner

from labcore.cli.app import app
from labcore.config import RunConfig, StudentRunConfig
from labcore.experiments.smoke import run_smoke
from labcore.kinds import FLOW, STUDENT
from labcore.presets import PRESETS, STUDENTS

RECIPES = (
    *(name for name in PRESETS if name.startswith("tarflow-")),
    "flowback-64-baseline",
    "flowback-64-reverse-7-8-l6",
    "flowback-256-reverse",
    "flowback-256-reverse-p1-1000k",
    "itarflow-256-b",
    *(name for name in STUDENTS if name.startswith(("biflow-256-b-final", "biflow-256-xl-guided-lpips-convnext"))),
)


def smoke_key(name: str) -> str:
    """The same for presets whose smoke sizes are the same."""
    if name in STUDENTS:
        return str(STUDENT.smoke(StudentRunConfig(**STUDENTS[name]), "flow"))
    return str(FLOW.smoke(RunConfig(**PRESETS[name])))


pytestmark = pytest.mark.usefixtures("small_encoder")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_from_training_to_measures(tmp_path):
    done = CliRunner().invoke(app, ["smoke", "latent-small", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "trained for two steps" in done.output and "every stage of latent-small ran" in done.output
    record = json.loads((tmp_path / "out" / "measures" / "guidance-0.5-128-efflite0.json").read_text())
    assert {"likelihood", "fidelity_efflite0"} <= record.keys() and any("accuracy" in key for key in record)
    assert (tmp_path / "out" / "run" / "model" / "model.safetensors").is_file()
    again = CliRunner().invoke(app, ["smoke", "latent-small", "--out", str(tmp_path / "out")])
    assert again.exit_code == 2 and "give a new folder" in again.output


def test_an_unknown_preset_is_told(tmp_path):
    done = CliRunner().invoke(app, ["smoke", "latent-smal", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and "latent-small" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("name", once(RECIPES, smoke_key))
def test_every_recipe_goes(name, tmp_path):
    found = run_smoke(name, tmp_path / "out", lambda line: None)
    assert 0 <= found["best"]["precision_efflite0"] <= 1
