"""Figures are drawn, hold what they were given, and refuse what does not fit."""

from io import BytesIO

import pytest
import torch
from PIL import Image

from labcore.viz import figures
from labcore.viz.training import training


def rendered(figure) -> Image.Image:
    return Image.open(BytesIO(figure._repr_png_())).convert("L")


X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

DRAWN = {
    "image_grid": lambda x: figures.image_grid(x, 3, row_names=("a", "b"), column_names="xyz"),
    "beside": lambda x: figures.beside({"one": x, "two": -x}, 3, ("a", "b")),
    "guidance_grid": lambda x: figures.guidance_grid(x.unflatten(0, (2, 3)), ("a", "b"), (0.0, 1.0, 2.0)),
    "trajectory": lambda x: figures.trajectory(x, [x, 2 * x, 3 * x]),
    "inversion": lambda x: figures.inversion(x, x + 1e-5 * torch.rand_like(x)),
}


@pytest.mark.parametrize("name", list(DRAWN))
def test_pictures_show_their_images(name):
    picture, other = rendered(DRAWN[name](X)), rendered(DRAWN[name](X.flip(0)))
    assert min(picture.size) > 100
    assert len(set(picture.tobytes())) > 50
    assert picture.tobytes() != other.tobytes()


def test_rms_is_written_under_the_states():
    figure = figures.trajectory(X, [2 * X])
    texts = [t.get_text() for t in figure.axes[0].child_axes[0].get_xticklabels()]
    rms = float(X.square().mean().sqrt())
    assert texts == [f"{rms:.2f}", f"{2 * rms:.2f}"]


def test_the_largest_difference_is_written():
    back = X.clone()
    back[3, 0, 2, 2] += 0.25
    assert "2.5e-01" in figures.inversion(X, back).axes[0].get_title()


def test_the_curve_has_both_lines_and_named_axes():
    records = [
        {"step": i, "nats_per_dim": 1 - 0.1 * i, **({"test_nats_per_dim": 0.5} if i == 4 else {})} for i in range(1, 5)
    ]
    axes = training(records).axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3, 4], [4]]
    assert axes.get_xlabel() == "optimizer steps" and axes.get_ylabel() == "nats/dim"


def test_a_learned_inverse_has_a_curve_for_each_distance_and_its_loss_before_there_is_one():
    first = {"step": 1, "loss": 3.0}
    (line,) = training([first]).axes[0].lines
    assert line.get_label() == "loss, mean since the last record"
    lines = training([first, {"step": 2, "loss": 2.0, "test_image": 0.5, "test_state-0": 0.25}]).axes[0].lines
    assert [(line.get_label(), list(line.get_ydata())) for line in lines] == [("image", [0.5]), ("state 0", [0.25])]


def test_the_samples_beside_the_curve_are_the_preview(tmp_path):
    preview = tmp_path / "step-00000040.png"
    Image.new("L", (30, 20), 7).save(preview)
    _, samples = training([{"step": 40, "nats_per_dim": 1.0}], preview).axes
    assert samples.get_title() == "samples, step 40" and (samples.images[0].get_array() == 7).all()
    preview.write_bytes(preview.read_bytes()[:40])  # as while it is being written
    assert len(training([{"step": 40, "nats_per_dim": 1.0}], preview).axes) == 1


def test_margins_count_right_and_wrong():
    scores = torch.tensor([[3.0, 1.0], [0.0, 5.0], [2.0, 1.0]])
    legend = figures.margins(scores, torch.tensor([0, 0, 0])).axes[0].get_legend_handles_labels()[1]
    assert legend == ["right: 2 of 3", "wrong: 1 of 3"]


def test_names_must_fit():
    with pytest.raises(ValueError, match="one name for each"):
        figures.image_grid(X, 3, row_names=("a",))
    with pytest.raises(ValueError, match="one image for each pair"):
        figures.guidance_grid(X.unflatten(0, (2, 3)), ("a",), (0.0, 1.0, 2.0))
