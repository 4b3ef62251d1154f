"""One panel for any run: its checkpoints, classes, guidance and seed, and a button that saves the picture."""

import pytest
import torch
from conftest import perturbed

import labcore
from labcore.runs.explore import EACH, FINISHED, NO_CLASS, checkpoints, explore
from labcore.train import checkpoint


@pytest.fixture
def run(tmp_path):
    """A run's folder with two checkpoints and a finished model, all different."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step, seed in ((10, 1), (2000, 2)):
        flow = perturbed(seed=seed, dtype=torch.float32)
        checkpoint.save(folder, step, {"model": flow, "ema": flow}, {}, {"precision": "fp32", "run": {}}, 5)
    perturbed(seed=3, dtype=torch.float32).save_pretrained(folder / "model")
    return folder


def test_every_control_moves_the_picture(run, tmp_path):
    panel = labcore.explore(run, images=5, save_to=tmp_path / "kept")
    assert list(panel.values) == ["place", "kind", "guidance", "seed"] and not panel.controls["seed"].continuous_update
    assert [label for label, _ in panel.controls["place"].options] == [FINISHED, "step 2,000", "step 10"]
    seen = {panel.png}
    for name, label in (("place", "step 10"), ("kind", "class 1"), ("kind", NO_CLASS), ("kind", EACH)):
        panel.controls[name].label = label
        assert "drawn in" in panel.status.value
        seen.add(panel.png)
    panel.controls["seed"].value = 7
    seen.add(panel.png)
    panel.controls["guidance"].value = 1.5
    seen.add(panel.png)
    assert len(seen) == 6  # EACH gives the picture of step 10 again
    assert "checkpoint step 10, class one of each in turn, guidance 1.5, seed 7" in panel.described()
    file = panel.save()
    assert file.parent == tmp_path / "kept" and file.read_bytes() == panel.png
    assert panel.save() == file and len(list(file.parent.iterdir())) == 1  # the same picture again
    file.write_bytes(b"something else")
    assert panel.save() != file and file.read_bytes() == b"something else"


def test_what_a_source_has(run, tmp_path):
    assert list(checkpoints(run)) == [FINISHED, "step 2,000", "step 10"]
    assert checkpoints("fashion-biflow") == {"fashion-biflow": "fashion-biflow"}
    assert list(checkpoints(run / "checkpoints" / "step-00000010")) == ["step-00000010"]


def test_a_shipped_student_draws_while_a_slider_moves():
    panel = explore("fashion-biflow", images=4)
    assert panel.controls["seed"].continuous_update and "in one pass" in panel.caption
    assert panel.controls["guidance"].max == labcore.zoo.load("fashion-biflow").config.max_guidance
    assert "Ankle boot" in [label for label, _ in panel.controls["kind"].options]


def test_errors_come_early(as_users_run):
    with pytest.raises(ValueError, match="images was 0; give 1 or more"):
        explore("fashion-biflow", images=0)
    with pytest.raises(FileNotFoundError, match="no shipped model of that name"):
        explore("fashion-biflo")
