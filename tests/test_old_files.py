"""Configurations, checkpoints and records as the first versions wrote them load, one of every kind."""

import json

import pytest
import yaml

from labcore.config import BackwardConfig, RunConfig, StudentRunConfig, TarFlowConfig, with_present_names
from labcore.evaluate.record import load_record
from labcore.kinds import FLOW, STUDENT, kind_of, kind_of_sections
from labcore.runs.configure import configure_run
from labcore.train import same_run

MODEL = dict(image_size=28, channels=1, patch_size=4, width=64, num_blocks=8, layers_per_block=2, head_dim=32)
MODEL |= dict(num_classes=10, mlp_ratio=4.0)
DATA = dict(name="fashion-mnist", path=None, image_size=None, channels=None, flip=False)
TRAIN = dict(
    **dict(steps=6000, batch_size=64, accumulation=1, seed=0, lr=0.002, min_lr=1e-6, warmup_steps=200),
    **dict(betas=[0.9, 0.95], weight_decay=0.0, clip_norm=1.0, label_dropout=0.1, ema_decay=0.9995, precision="bf16"),
    **dict(compile=False, parallel="ddp", num_workers=0, log_every=50, eval_every=500, save_every=250, keep=3),
)
FLOW_MODEL = dict(
    **MODEL,
    **dict(noise="gaussian", noise_std=0.1, positions="rope", mlp="swiglu", norm="rmsnorm", affine_clamp=3.0),
    volume_preserving=False,
)
ALIGN = dict(
    **dict(direction="reverse", sites=[[7, 2], [8, 2]], weight=0.1, adjoint_sweeps=0, loss="cosine"),
    **dict(encoder="efficientnet-lite0", weights=None, stage=None, targets="cached", projectors="shared"),
)
STUDENT_MODEL = dict(MODEL, denoiser=True, handover="hidden", max_guidance=2.0, class_tokens=1, guidance_tokens=1)
INVERSION = dict(
    **dict(strategy="hidden-alignment", normalise="block", align_weight=1.0, image_weight=1.0),
    **dict(perceptual={"efflite0": 1.0}, adaptive_power=1.0, adaptive_offset=0.01),
)
RUNS = {
    "flow": dict(model=FLOW_MODEL, data=DATA, train=TRAIN, align=None),
    "aligned flow": dict(model=FLOW_MODEL, data=DATA, train=TRAIN, align=ALIGN),
    "student": dict(flow="fashion-itarflow", model=STUDENT_MODEL, data=DATA, train=TRAIN, inversion=INVERSION),
}
MODELS = {"TarFlow": (TarFlowConfig, FLOW_MODEL), "BackwardModel": (BackwardConfig, STUDENT_MODEL)}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_s_configuration(name, tmp_path):
    """As config.yaml, as a value and as what a checkpoint says of its run: the same run, with nothing changed."""
    old, file = RUNS[name], tmp_path / "config.yaml"
    kind = STUDENT if name == "student" else FLOW
    assert kind_of_sections(with_present_names(old)) is kind
    direct = kind.config(**old)
    assert kind_of(direct) is kind and type(direct) is (StudentRunConfig if kind is STUDENT else RunConfig)
    assert (direct.encoder is not None) == (name == "aligned flow")
    assert direct.distances == (("efflite0",) if kind is STUDENT else ())
    file.write_text(yaml.safe_dump(old))
    if kind is FLOW:  # a student's file reads the flow too: tests/test_distillation.py
        assert configure_run(file=file).train == direct.train
    assert same_run.changes(old, direct.model_dump(mode="json")) == []


@pytest.mark.parametrize("name", MODELS)
def test_a_model_s_configuration(name):
    config, old = MODELS[name]
    assert config(**old).model_dump(include=set(old), mode="json") == old


def test_a_file_belongs_to_the_kind_whose_section_it_has():
    assert kind_of_sections({}) is FLOW and kind_of_sections(RUNS["aligned flow"]) is FLOW
    assert kind_of_sections({"student": {}}) is STUDENT and kind_of_sections({"flow": "x"}) is STUDENT


def test_a_record_of_an_evaluation(tmp_path):
    """Its parts and values keep the names of the first version: likelihood, training_free_accuracy, fidelity, measures."""
    measure = dict(value=34.5, low=33.5, high=35.5, n=2000, floor=5.4)
    images = dict(num=2000, classes="each", guidance=1.0, guidance_schedule="constant", model="1871d93ae09f5e6c")
    old = {
        "model": "fashion-itarflow",
        "fidelity_efflite0": {
            "measures": {"fid_efflite0": measure},
            "images": images,
            "reference": {},
            "resamples": 40,
        },
        "likelihood": {"nats_per_dim": 1.0, "n": 20, "of": {"weights": "1871d93ae09f5e6c"}},
    }
    (tmp_path / "record.json").write_text(json.dumps(old))
    assert load_record(tmp_path / "record.json", {"weights": "1871d93ae09f5e6c"}) == old
