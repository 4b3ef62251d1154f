"""Grids name the classes of their images, whatever the names and sizes are, and say them in words."""

import io

import pytest
import torch
from PIL import Image

from labcore.viz import figures
from labcore.viz.class_labels import ELLIPSIS, LONGEST, by_class, class_names, length, shortened
from labcore.viz.sheet import grid_png, save_grid
from labcore.viz.words import described, described_png

NAMES = ("cat", "dog", "owl")
HOSTILE = ("\x1b[2Jcat\n\r\x00", "$\\frac{", "\u202eowl " + 40 * "very ")
X = torch.linspace(-1, 0, 6)[:, None, None, None].expand(6, 1, 8, 8)


@pytest.mark.parametrize(
    ("labels", "columns", "names"),
    [
        ([0, 1, 2, 0, 1, 2], 3, {"column_names": NAMES}),
        ([0, 1, 2, 0], 3, {"column_names": NAMES}),
        ([0, 0, 1, 1, 2], 2, {"row_names": NAMES}),
        ([1, 1, 1, 1], 2, {"row_names": ("dog", "dog")}),
        ([0, 1, 1, 2], 2, {"image_names": ("cat", "dog", "dog", "owl")}),
        ([0, 3, -1], 3, {"column_names": ("cat", "class 3", "no class")}),
    ],
)
def test_names_are_on_columns_rows_or_images(labels, columns, names):
    assert by_class(torch.tensor(labels), columns, NAMES) == names


def test_without_labels_or_names():
    assert by_class(None, 3, NAMES) == by_class(torch.rand(4, 3), 3, NAMES) == {}
    assert by_class(torch.tensor([3, 0]), 2) == {"column_names": ("class 3", "class 0")}
    assert class_names(None) == ()


def test_hostile_names_are_plain_and_short():
    names = class_names([0, 1, 2], HOSTILE)
    assert all(name.isprintable() and len(name) <= LONGEST for name in names) and names[2].endswith(ELLIPSIS)
    y = torch.tensor([0, 1, 1, 2, 0, 1])
    for columns, labels in ((3, torch.arange(6) % 3), (2, torch.arange(3).repeat_interleave(2)), (3, y)):
        named = by_class(labels, columns, HOSTILE)
        assert Image.open(io.BytesIO(grid_png(X, columns, **named))).width
        figures.image_grid(X, columns, **named)._repr_png_()
    figures.image_grid(X, 3, column_names=HOSTILE, image_names=2 * HOSTILE)._repr_png_()
    grid_png(X, 3, column_names=HOSTILE, image_names=2 * HOSTILE)


@pytest.mark.parametrize("room", [5.0, 20.0, 60.0, 500.0])
def test_a_shortened_name_fits(room):
    short = shortened("a rather long name", room, 12)
    assert length(short, 12) <= room
    assert short in ("", "a rather long name") or short.endswith(ELLIPSIS)


@pytest.mark.parametrize("size", [1, 8, 40])
def test_names_under_images_do_not_touch_each_other(size):
    """Between two names, and between an image and its name, there are white pixels."""
    png = grid_png(torch.ones(4, 1, size, size), 2, 1, image_names=["W" * 60] * 4)
    ink = torch.frombuffer(bytearray(Image.open(io.BytesIO(png)).convert("L").tobytes()), dtype=torch.uint8) < 200
    ink = ink.view(*reversed(Image.open(io.BytesIO(png)).size))
    assert ink.any() and not ink[:, ink.shape[1] // 2 - 2 : ink.shape[1] // 2 + 2].any()
    assert not ink[:size].any()


def test_rows_of_tiny_images_have_room_for_their_letters():
    picture = Image.open(io.BytesIO(grid_png(torch.zeros(100, 1, 2, 2), 1, 1, [f"class {k}" for k in range(100)])))
    assert picture.height >= 99 * 19


def test_the_images_are_as_they_were(tmp_path):
    save_grid(X, 3, tmp_path / "made" / "plain.png", 4)
    save_grid(X, 3, tmp_path / "named.png", 4, **by_class(torch.arange(6) % 3, 3, NAMES))
    plain, named = Image.open(tmp_path / "made" / "plain.png"), Image.open(tmp_path / "named.png")
    assert plain.size == (4 * 28, 4 * 18) and plain.mode == named.mode == "L"
    assert named.crop((0, named.height - plain.height, *named.size)).tobytes() == plain.tobytes()
    assert named.info["Description"] == "columns cat, dog, owl" and "Description" not in plain.info


def test_pictures_name_their_classes_in_words():
    y = torch.tensor([0, 1, 1, 2, 0, 1])
    assert described(figures.image_grid(X, 3, **by_class(y, 3, NAMES))) == "images cat, dog, owl"
    assert described_png(grid_png(X, 3, **by_class(y, 3, NAMES))) == "images cat, dog, owl"
    assert "rows cat, dog" in described(figures.trajectory(X, [X], image_names=class_names(y, NAMES)))
    assert "columns cat, dog" in described(figures.inversion(X, X + 0.1, image_names=class_names(y, NAMES)))
    with pytest.raises(ValueError, match="2 image names for 6 images"):
        figures.image_grid(X, 3, image_names=("a", "b"))


def test_a_panel_names_the_classes_of_its_picture():
    from labcore.viz.panel import Panel

    names = by_class(torch.arange(6) % 3, 3, NAMES)
    panel = Panel(lambda: grid_png(X, 3, **names), {}, caption="animals")
    shown = panel._repr_mimebundle_()["text/html"]
    assert panel.described().endswith(": columns cat, dog, owl") and f'alt="{panel.described()}"' in shown
    assert shown.count("columns cat") == 1  # not twice for those who see it
