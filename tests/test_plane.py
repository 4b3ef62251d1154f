"""Figures of two-pixel pictures show the points, values and moves that they were given, to one scale."""

import pytest
import torch

from labcore.viz import plane

POINTS = torch.tensor([[0.0, 0.5], [1.0, -0.5], [0.2, 0.1]])
LABELS = torch.tensor([0, 1, 0])


def test_a_mesh_runs_through_the_square():
    mesh = plane.mesh(3, 2.0)
    assert mesh.tolist() == [[a, b] for a in (-2, 0, 2) for b in (-2, 0, 2)]


def test_heat_has_one_scale_and_the_first_value_to_the_right():
    mesh = plane.mesh(5, 1.0)
    figure = plane.heat({"a": mesh[:, 0].clamp_min(0), "b": 3 * mesh[:, 1].clamp_min(0)}, 1.0, "density")
    a, b = (axes.images[0] for axes in figure.axes[:2])
    assert a.get_clim() == b.get_clim() == (0, 3)
    assert a.get_array()[0].tolist() == [0, 0, 0, 0.5, 1] and b.get_array()[:, 0].tolist() == [0, 0, 0, 1.5, 3]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["a", "b"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == plane.PIXELS
    assert figure.axes[-1].get_ylabel() == "density"
    ringed = plane.heat({"a": mesh[:, 0].abs()}, 1.0, "error", ring=0.5)
    assert [patch.radius for patch in ringed.axes[0].patches] == [0.5]


def test_clouds_tell_classes_by_colour_and_marker():
    axes = plane.clouds({"here": (POINTS.view(-1, 1, 1, 2), LABELS)}, 1.5, ["zero", "one"]).axes[0]
    zero, one = axes.lines
    assert zero.get_xydata().tolist() == pytest.approx(POINTS[[0, 2]].numpy())
    assert one.get_xydata().tolist() == pytest.approx(POINTS[[1]].numpy())
    assert zero.get_marker() != one.get_marker() and zero.get_color() != one.get_color()
    assert (
        len(axes.texts) == 0
        and plane.clouds({"a": (POINTS, LABELS)}, 0.9, "01").axes[0].texts[0].get_text() == "1 of 3 outside"
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["zero", "one"]


def test_the_longest_arrow_sets_the_scale_of_all():
    moves = torch.tensor([[0.1, 0.0], [0.0, 0.4], [0.0, 0.0]])
    found = {"a": (POINTS, moves), "b": (POINTS, moves / 2)}
    for options, scales in (({}, (0.4, 0.4)), (dict(one_scale=False), (0.4, 0.2)), (dict(enlarged=False), (0.3, 0.3))):
        a, b = (axes.collections[0] for axes in plane.arrows(found, reach=1.0, **options).axes)
        assert (a.scale, b.scale) == pytest.approx([longest / plane.LONGEST for longest in scales])
    assert a.V.tolist() == pytest.approx([0.0, 0.4, 0.0]) and b.V.tolist() == pytest.approx([0.0, 0.2, 0.0])


def test_a_lattice_keeps_its_lines():
    mesh = plane.mesh(4, 1.0)
    axes = plane.lattices({"bent": (2 * mesh).view(-1, 2, 1)}, 4).axes[0]
    assert len(axes.lines) == 8
    assert axes.lines[0].get_xdata().tolist() == [-2] * 4  # the first value stays on a line, the second runs
    assert axes.lines[1].get_ydata().tolist() == [-2] * 4
