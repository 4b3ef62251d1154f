"""Presets: all can be built, the paper's rows say what the paper says, and each runs at its smoke size."""

import pytest
import torch
from typer.testing import CliRunner

from labcore import TarFlow
from labcore.cli import app
from labcore.config import RunConfig
from labcore.runs.configure import configure
from labcore.runs.presets import PAPER, PRESETS, about, smoke
from labcore.runs.training import run_training
from labcore.train import checkpoint


def config_of(name: str) -> RunConfig:
    return RunConfig(**PRESETS[name])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_built(name):
    config = config_of(name)
    with torch.device("meta"):
        flow = TarFlow(config.model)
    if name in PAPER:
        assert 450e6 < sum(p.numel() for p in flow.parameters()) < 850e6
        assert (config.model.grid, config.train.batch_size, config.train.lr) == (16, 256, 1e-4)
        assert (config.train.ema_decay, config.train.weight_decay, config.data.flip) == (0.9999, 1e-4, True)
    command, cost, expected = about(name)
    assert name in command and cost and expected


def test_the_papers_best_row_and_its_sites():
    best = min((row for row in PAPER.values() if row.thousands == 400), key=lambda row: row.paper.fid)
    assert best.name == "flowback-64-reverse-7-8-l6" and best.paper.fid == 11.71
    config = config_of(best.name)
    assert config.align.sites == ((7, 6), (8, 6)) and config.align.encoder == "dinov2-b" and config.align.weight == 0.1
    assert config.train.steps == 400_000
    assert config_of("flowback-64-reverse-7-8-l6-1000k").train.steps == 1_000_000
    assert about("flowback-64-baseline-1000k")[2] == "Table 2: FID 11.76, accuracy 39.97%"
    assert about(best.name)[2] == "Table 1: FID 11.71, sFID 33.68, IS 44.31, accuracy 57.35%"
    assert config_of("flowback-64-baseline").align is None
    assert len(config_of("flowback-64-forward-all-l2").align.sites) == 8
    assert len({str(config_of(name)) for name in PAPER}) == len(PAPER)


@pytest.mark.usefixtures("as_users_run")
def test_ones_own_pictures_keep_what_the_preset_says(tmp_path):
    from PIL import Image

    for k in range(2):
        (tmp_path / f"class{k}").mkdir()
        for i in range(3):
            Image.new("RGB", (70, 80), (40 * i, 0, 100 * k)).save(tmp_path / f"class{k}" / f"{i}.png")
    config = configure("flowback-64-reverse-7-8-l6", data=str(tmp_path))
    assert (config.data.path, config.data.flip, config.data.image_size) == (str(tmp_path), True, 64)
    assert (config.model.num_classes, config.model.image_size) == (2, 64)
    with pytest.raises(ValueError, match=r"did you mean 'flowback-64-reverse-7-8-l6'"):
        configure("flowback-64-reverse-7-8-16")


def test_the_command_line_lists_them():
    listed = CliRunner().invoke(app, ["presets"]).output
    assert all(name in listed for name in PRESETS) and "FID 11.71" in listed and "2.5 days" in listed
    one = CliRunner().invoke(app, ["presets", "flowback-64-reverse-7-8-l6"]).output
    assert "--data IMAGENET_FOLDER" in one and "direction: reverse" in one


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_two_steps_at_smoke_size(name, tmp_path, own_cache):
    config = smoke(config_of(name))
    assert run_training(config, tmp_path, previews=False).finished
    assert checkpoint.latest(tmp_path).step == 2
    full = config_of(name)
    assert (config.model.num_blocks, config.model.layers_per_block) == (
        full.model.num_blocks,
        full.model.layers_per_block,
    )
    assert (config.align is None) == (full.align is None)
    if full.align:
        assert config.align.sites == full.align.sites and config.align.direction == full.align.direction
