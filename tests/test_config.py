"""Configurations refuse what cannot work, and say what can."""

import pytest
import torch
from conftest import SMALL
from pydantic import ValidationError

from labcore import TarFlowConfig
from labcore.config import RunConfig, TrainConfig
from labcore.runs.configure import PRESETS, configure


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(patch_size=3), "does not divide image_size 8; allowed are \\[1, 2, 4, 8\\]"),
        (dict(image_size=(4, 6), patch_size=4), "does not divide image_size \\(4, 6\\); allowed are \\[1, 2\\]"),
        (dict(image_size={4, 6}), "a set has no order"),
        (dict(image_size=(4, 0)), "greater than 0"),
        (dict(image_size=(4, 6, 8)), "at most 2 items"),
        (dict(head_dim=7), "does not divide width 16"),
        (dict(num_blocks=0), "greater than 0"),
        (dict(width=-16), "greater than 0"),
        (dict(noise_std=-0.1), "greater than or equal to 0"),
        (dict(noise_std=float("nan")), "finite"),
        (dict(affine_clamp=0.0), "greater than 0"),
        (dict(noise="uniform", noise_std=0.1), "leave it out"),
        (dict(dropout=0.1), "Extra inputs are not permitted"),
        (dict(positions="sinusoidal"), "'learned' or 'rope'"),
        (dict(positions="rope", head_dim=2), "multiple of 4"),
        (dict(num_classes=-1), "greater than or equal to 0"),
    ],
)
def test_refused_models(changes, message):
    with pytest.raises(ValidationError, match=message):
        TarFlowConfig(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=0), "greater than 0"),
        (dict(steps=10, warmup_steps=10), "below steps"),
        (dict(steps=10, batch_size=16, accumulation=3), "multiple of accumulation"),
        (dict(steps=10, label_dropout=1.5), "less than or equal to 1"),
        (dict(steps=10, lr="fast"), "valid number"),
        (dict(steps=10, learning_rate=1e-3), "Extra inputs"),
    ],
)
def test_refused_training(changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**changes)


def test_noise_defaults_follow_the_kind():
    assert TarFlowConfig(**SMALL).noise_std == 0.1
    assert TarFlowConfig(**SMALL, noise="uniform").noise_std == 0.0


def test_sizes_of_the_readme_model():
    c = TarFlowConfig(image_size=28, channels=1, patch_size=4, width=128, num_blocks=4, layers_per_block=4)
    assert (c.tokens, c.token_dim, c.dims) == (49, 16, 784)


def test_images_need_not_be_square():
    c = TarFlowConfig(**{**SMALL, "image_size": (4, 6)})
    assert (c.image_shape, c.rows_columns, c.tokens, c.dims) == ((3, 4, 6), (2, 3), 6, 72)
    assert TarFlowConfig.model_validate_json(c.model_dump_json()) == c
    with pytest.raises(ValueError, match="2 x 3 tokens have no one side"):
        c.grid  # noqa: B018
    with pytest.raises(ValueError, match="4 x 6 pixels are not square"):
        c.side  # noqa: B018
    assert TarFlowConfig(**SMALL).side == 8
    assert TarFlowConfig(**{**SMALL, "image_size": (8, 8)}) == TarFlowConfig(**SMALL)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_valid(name):
    assert isinstance(configure(name), RunConfig)


def test_settings_have_the_last_word(tmp_path):
    run = configure(settings=["train.lr=1e-4", "model.width=96", "train.clip_norm=null"])
    assert (run.train.lr, run.model.width, run.train.clip_norm) == (1e-4, 96, None)
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: {image_size: 28, channels: 1, patch_size: 7, width: 64, num_blocks: 2, layers_per_block: 1}\n"
        "train: {steps: 3}\n"
    )
    assert configure(file=file, settings=["train.steps=5"]).train.steps == 5
    small = configure(image_size=16)
    assert (small.model.image_size, small.data.image_size) == (16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(preset="huge"), "no preset 'huge'"),
        (dict(settings=["steps=3"]), "SECTION.KEY=VALUE"),
        (dict(settings=["train.stepz=3"]), "stepz"),
        (dict(settings=["train.steps=[1"]), "is not a value"),
        (dict(settings=["train.betas=[1.5, 0.9]"]), "betas were"),
        (dict(data="fashion-mnist-12k", settings=["data.image_size=abc"]), "image_size"),
        (dict(settings=["model.patch_size=5"]), "does not divide"),
        (dict(data="no-such-folder", image_size=8), "no-such-folder"),
    ],
)
def test_what_a_user_mistypes(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        configure(**arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds NoneType"),
        ("- 1", "holds list"),
        ("model: [1, 2]", "section model is"),
        ("model: abc", "section model is"),
        ("a: 1\n1: 2", "section a is"),
        ("a: {b: 1}", "unknown sections"),
        ("model: {", "is not YAML"),
    ],
)
def test_files_that_are_no_configuration(text, message, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        configure(file=tmp_path / "run.yaml")


def test_paths_of_a_run_hold_from_any_folder(tmp_path, monkeypatch):
    from conftest import perturbed

    from labcore.runs.configure import configure_student

    flow = perturbed(dtype=torch.float32)
    flow.save_pretrained(tmp_path / "flow")
    monkeypatch.chdir(tmp_path)
    run = configure_student("flow", data="fashion-mnist-12k")
    monkeypatch.chdir("/")
    assert run.flow == str(tmp_path / "flow")
    assert configure_student("fashion-tarflow").flow == "fashion-tarflow"
