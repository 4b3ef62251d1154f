"""Which runs can ship."""

import json

import pytest
import yaml

from labcore.config import RunConfig, StudentRunConfig
from labcore.experiments import ship
from labcore.zoo import NAMES, path

MODEL = dict(image_size=28, channels=1, patch_size=4, width=32, num_blocks=1, layers_per_block=1, head_dim=32)
INVERSE = dict(flow=NAMES[0], model={**MODEL, "num_classes": 10, "max_guidance": 2.0}, train=dict(steps=2))
FLOW = dict(model={**MODEL, "num_classes": 10}, data=dict(name="fashion-mnist"), train=dict(steps=2))


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        (RunConfig(**FLOW), 1, "has done 1 of 2 steps; finish it first"),
        (RunConfig(**{**FLOW, "model": {**MODEL, "num_classes": 5}}), 2, "with 5 classes"),
        (
            RunConfig(**{**FLOW, "data": dict(name="folder", path="pictures", image_size=28)}),
            2,
            "folder with 10 classes",
        ),
        (StudentRunConfig(**{**INVERSE, "model": {**INVERSE["model"], "denoiser": False}}), 2, "denoiser False"),
        (StudentRunConfig(**{**INVERSE, "model": {**INVERSE["model"], "max_guidance": 0.5}}), 2, "max_guidance 0.5"),
    ],
)
def test_what_has_no_card_is_refused_before_anything_is_written(tmp_path, config, steps, message):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": steps}) + "\n")
    before = {file: file.stat().st_mtime_ns for file in path(NAMES[0]).iterdir()}
    with pytest.raises(ValueError, match=message):
        ship.publish(tmp_path, NAMES[0])
    assert before == {file: file.stat().st_mtime_ns for file in path(NAMES[0]).iterdir()}


def test_a_spec_is_the_run_again():
    for config in (RunConfig(**FLOW), StudentRunConfig(**INVERSE)):
        text = ship.spec(NAMES[0], config)
        assert type(config)(**yaml.safe_load(text)) == config
        assert f"--config labcore/zoo/{NAMES[0]}/spec.yaml --out runs/{NAMES[0]}" in text.splitlines()[0]
        assert ("--invert" in text.splitlines()[0]) == isinstance(config, StudentRunConfig)
