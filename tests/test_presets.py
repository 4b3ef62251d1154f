"""Presets: all can be built, the paper's rows say what the paper says, and each runs at its smoke size."""

from statistics import fmean

import pytest
import torch
from in_turn import once
from test_smoke import RECIPES, smoke_key
from typer.testing import CliRunner

from labcore import TarFlow
from labcore.biflow.distill import check_strategy
from labcore.biflow.model import BackwardModel
from labcore.campaigns import results, tables
from labcore.cli.app import app
from labcore.config import RunConfig, StudentRunConfig
from labcore.kinds import FLOW, STUDENT
from labcore.presets import PAPER, PRESETS, REPORTED, STUDENTS, about, biflow
from labcore.presets.tarflow import denoising
from labcore.runs.configure import configure
from labcore.runs.train import run_training
from labcore.train import checkpoint
from labcore.train.distillation import SAME


def config_of(name: str) -> RunConfig:
    return RunConfig(**PRESETS[name])


def distillation_of(name: str) -> StudentRunConfig:
    return StudentRunConfig(**STUDENTS[name])


def parameters(model_class, config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in model_class(config).parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_built(name):
    config = config_of(name)
    count = parameters(TarFlow, config.model)
    if name in PAPER:
        assert 450e6 < count < 850e6
        assert (config.model.grid, config.train.batch_size, config.train.lr) == (16, 256, 1e-4)
        assert (config.train.ema_decay, config.train.weight_decay, config.data.flip) == (0.9999, 1e-4, True)
    command, cost, expected = about(name)
    assert name in command and cost and expected


def test_numbers_of_learned_inverses_are_those_of_the_campaign():
    ways = tables.exploded(results.published("04_learned_vs_analytic_inverse").records, "ways")
    told = {"no-denoiser": "no-denoiser, score", "guided": "guided, 1 evaluation"}
    ran = [row for row in biflow.ROWS if row.name.startswith("biflow-16") and row.expected != "unknown"]
    assert len(ran) == 8
    for row in ran:
        of_row = [record["metrics"] for record in ways if record["row"] == told.get(row.arm.name, row.arm.name)]
        fid, share = (fmean(m[name] for m in of_row) for name in ("fid_efflite0", "recognised"))
        assert len(of_row) == 5 and row.expected == f"FID {fid:.1f} (efflite0), {share:.0%} recognised"


@pytest.mark.parametrize("name", STUDENTS)
def test_every_learned_inverse_can_be_built(name):
    """It fits the flow that it names, whose preset is there, and a teacher's checkpoint is one that its run keeps."""
    config = distillation_of(name)
    _, flow, *stopped = config.flow.split("/", 2)
    teacher = config_of(flow)
    assert all(getattr(teacher.model, key) == getattr(config.model, key) for key in SAME)
    check_strategy(config.student.strategy, config.model.handover)
    if stopped:
        step = int(stopped[0].rsplit("-", 1)[1])
        assert (
            step % teacher.train.save_every == 0
            and teacher.train.steps <= teacher.train.keep * teacher.train.save_every
        )
    assert parameters(BackwardModel, config.model) > 0
    command, cost, expected = about(name)
    assert f"--preset {name} --invert {config.flow}" in command and cost and expected


def test_biflows_sizes_are_the_papers():
    """120M and 690M of its flows, 133M of BiFlow-B, within 4%."""
    for size, paper in (("b", 120e6), ("xl", 690e6)):
        assert parameters(TarFlow, config_of(f"itarflow-256-{size}").model) == pytest.approx(paper, rel=0.04)
    final = distillation_of("biflow-256-b-guided-lpips-convnext")
    assert parameters(BackwardModel, final.model) == pytest.approx(133e6, rel=0.04)
    assert (final.model.tokens, final.model.token_dim, final.model.num_states) == (256, 16, 9)
    assert final.train.steps * final.train.batch_size == pytest.approx(160 * 1_281_167, rel=1e-3)
    assert (
        about("biflow-256-b-final")[2] == "FID 2.39, IS 303.0, with guidance, NFE 1, trained for longer than 160 epochs"
    )


def test_the_norm_control_rows_have_no_adaptive_weight():
    found = {}
    for name in ("norm-none", "norm-clamp", "norm-normalise", "norm-both"):
        config = distillation_of(f"biflow-256-b-{name}")
        assert config.student.adaptive_power == 0
        clamp = config_of(config.flow.removeprefix("runs/")).model.affine_clamp
        found[name] = (clamp is not None, config.student.normalise != "none")
    assert list(found.values()) == [(False, False), (True, False), (False, True), (True, True)]


def test_the_papers_best_row_and_its_sites():
    best = min((row for row in PAPER.values() if row.thousands == 400), key=lambda row: row.paper.fid)
    assert best.name == "flowback-64-reverse-7-8-l6" and best.paper.fid == 11.71
    config = config_of(best.name)
    assert config.align.sites == ((7, 6), (8, 6)) and config.align.encoder == "dinov2-b" and config.align.weight == 0.1
    assert config.train.steps == 400_000 and config.align.image_size == 256
    assert config_of("flowback-64-reverse-7-8-l6-1000k").train.steps == 1_000_000
    both = "Table 2: FID 11.76, accuracy 39.97%, with guidance; Table 3: FID 4.21, sFID 5.34, with guidance"
    assert about("flowback-64-baseline-1000k")[2] == both
    numbers = "FID 11.71, sFID 33.68, IS 44.31, accuracy 57.35%"
    assert about(best.name)[2] == f"Tables 1, 2 and 8: {numbers}, with guidance, Table 2: 57.76%"
    assert config_of("flowback-64-baseline").align is None
    assert len(config_of("flowback-64-forward-all-l2").align.sites) == 8
    assert len({str(config_of(name)) for name in PAPER}) == len(PAPER)


def test_each_number_of_a_paper_is_in_one_place():
    told = [(p.fid, p.sfid, p.inception, p.bits) for papers in REPORTED.values() for p in papers if p.numbers()]
    assert len(told) == len(set(told)) > 50


def test_one_arm_holds_a_series():
    """BiFlow's scaling, B to XL: with and without perceptual distances; both are guided."""
    for arm in ("guided", "guided-lpips-convnext"):
        configs = [distillation_of(f"biflow-256-{size}-{arm}") for size in ("b", "l", "xl")]
        assert len({str((c.student, c.train, c.model.max_guidance)) for c in configs}) == 1
        assert all(REPORTED[f"biflow-256-{size}-{arm}"][0].guidance == "chosen" for size in ("b", "xl"))


def test_denoising_multipliers():
    """ml-tarflow's step is lr noise_std^2: lr 1.4 of 0.07 is the step of 0.0828."""
    for multiplier, noise_std, found in ((1.4, 0.07, 0.0828), (0.97, 0.15, 0.1477), (0.9, 0.05, 0.0474)):
        assert found**2 == pytest.approx(multiplier * noise_std**2, rel=2e-3)
        assert denoising(noise_std, multiplier) == found


def test_patch_1_has_fewer_parameters_than_the_literature_says():
    name = "flowback-256-reverse-p1-1000k"
    count = parameters(TarFlow, config_of(name).model)
    assert f"{count / 1e6:.1f}M parameters here" in about(name)[2] and "831M" in about(name)[2]


def test_a_row_weighs_states_and_image_as_equation_2_is_printed():
    """L = sum over i of D(x^i, phi_i(h^i)): every state once, and the image, whose phi is the identity, once."""
    config = distillation_of("biflow-256-b-sum")
    assert config.student.align_weight / (config.model.num_states - 1) == config.student.image_weight == 1
    assert config.replace(student={}) == distillation_of("biflow-256-b-hidden-alignment")


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
    assert all(name in listed for name in (*PRESETS, *STUDENTS)) and "FID 11.71" in listed and "2.5 days" in listed
    one = CliRunner().invoke(app, ["presets", "flowback-64-reverse-7-8-l6"]).output
    assert "--data IMAGE_FOLDER" in one and "direction: reverse" in one


@pytest.mark.parametrize("name", PRESETS)
def test_a_smoke_size_keeps_blocks_and_alignment(name):
    config, full = FLOW.smoke(config_of(name)), config_of(name)
    assert (config.model.num_blocks, config.model.layers_per_block) == (
        full.model.num_blocks,
        full.model.layers_per_block,
    )
    assert (config.align is None) == (full.align is None)
    if full.align:
        assert config.align.sites == full.align.sites and config.align.direction == full.align.direction


@pytest.mark.slow
@pytest.mark.parametrize("name", once(PRESETS, smoke_key, elsewhere=RECIPES))
def test_two_steps_at_smoke_size(name, tmp_path, own_cache):
    """Each smoke size once: rows that differ in nothing else have the same, and test_smoke.py runs some."""
    assert run_training(FLOW.smoke(config_of(name)), tmp_path, previews=False).finished
    assert checkpoint.latest(tmp_path).step == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", once({smoke_key(name): name for name in STUDENTS}.values(), smoke_key, RECIPES))
def test_two_steps_of_a_learned_inverse_at_smoke_size(name, tmp_path, own_cache):
    """Each smoke size once: rows of two widths have the same."""
    full = distillation_of(name)
    teacher = FLOW.smoke(config_of(full.flow.split("/")[1]))
    flow = TarFlow(teacher.model).save_pretrained(tmp_path / "flow")
    config = STUDENT.smoke(full, str(flow))
    assert run_training(config, tmp_path / "run", previews=False).finished
    assert checkpoint.latest(tmp_path / "run").step == 2
    assert (config.model.num_states, config.model.handover) == (full.model.num_states, full.model.handover)
    assert config.student.strategy == full.student.strategy and config.model.max_guidance == full.model.max_guidance
