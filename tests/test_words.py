"""A figure in words says what is written on it, and where its curves begin and end."""

import torch

from labcore.viz import alignment, figures, inverses, plane
from labcore.viz.words import described


def test_curves_have_names_axes_and_ends():
    words = described(inverses.norms({"clamped": [0.5, 2.0, 1.0], "free": [0.5, 3.25, 1.0]}, "size of each state"))
    assert words.startswith("size of each state, root mean square against state, from the noisy image to the prior")
    assert "clamped from 0.5 at 0 to 1 at 2, free from 0.5 at 0 to 1 at 2" in words
    assert not set("${}\\") & set(words)


def test_pictures_have_the_names_beside_and_above_them():
    x = torch.rand(6, 1, 8, 8) * 2 - 1
    words = described(figures.image_grid(x, 3, ("learned", "exact"), ("bag", "shirt", "boot"), "from the same noise"))
    assert words == "from the same noise, rows learned, exact, columns bag, shirt, boot"
    assert described(figures.image_grid(x, 3)) == "a picture"


def test_every_panel_is_told_once():
    mesh = plane.mesh(4, 1.0)
    words = described(plane.heat({"true": mesh[:, 0], "flow": mesh[:, 1]}, 1.0, "density"))
    assert words == "true, second pixel against first pixel; flow, first pixel; density"


def test_bars_and_points_are_named():
    assert "one" in described(inverses.by_guidance({"one": {0.0: (0.5, 0.4, 0.6), 1.0: (0.7, 0.6, 0.8)}}))
    cells = described(alignment.reach({"forward": [1.0, 0.5]}, {"forward": [(1, 1)]}))
    assert "rows forward" in cells and "norm of the gradient" in cells


def test_a_notebook_tells_its_figures():
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(inverses.norms({"free": [0.5, 3.0, 1.0]}))
    assert data["text/plain"].startswith("root mean square against state")
