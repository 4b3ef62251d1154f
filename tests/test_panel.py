"""Panels: a picture that follows its controls, says what went wrong, and stands alone where nobody can move anything."""

import base64
import io
import re
import types
import weakref

import ipywidgets
import pytest
import torch
from conftest import perturbed
from PIL import Image

from labcore.biflow.model import BackwardModel
from labcore.config import BackwardConfig
from labcore.viz import controls, frames, panels
from labcore.viz import panel as module
from labcore.viz.panel import Panel
from labcore.viz.sheet import grid_png

WIDGETS = "application/vnd.jupyter.widget-view+json"


def pixels(png: bytes) -> torch.Tensor:
    return torch.tensor(list(Image.open(io.BytesIO(png)).convert("RGB").getdata()))


def grey(value: float) -> bytes:
    return grid_png(torch.full((1, 1, 4, 4), value), 1, scale=1)


def slider(**kwargs) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(**{"value": 0.0, "min": -1.0, "max": 1.0, "description": "shade"} | kwargs)


def test_the_picture_follows_and_is_drawn_once_a_value():
    drawn = []

    def draw(shade, on):
        drawn.append((shade, on))
        return grey(shade if on else -1.0)

    shade, on = slider(), ipywidgets.Checkbox(True)
    panel = Panel(draw, {"shade": shade, "on": on}, caption="a grey square")
    assert panel.png == grey(0.0) and panel.values == {"shade": 0.0, "on": True}
    shade.value = 0.5
    assert panel.png == grey(0.5) and "drawn in" in panel.status.value
    on.value = False
    assert panel.png == grey(-1.0)
    on.value = True
    assert panel.png == grey(0.5) and len(drawn) == 3  # the last is remembered
    assert panel.described() == "a grey square (shade 0.5, on True)"


def test_an_error_is_told_and_the_last_picture_stays():
    def draw(shade):
        if shade > 0.5:
            raise ValueError("shade <b> is too light")
        return grey(shade)

    shade = slider()
    panel = Panel(draw, {"shade": shade})
    shade.value = 0.9
    assert panel.described() == "shade 0.0"  # what the picture shows
    assert "<b>ValueError</b>: shade &lt;b&gt; is too light" in panel.status.value and panel.png == grey(0.0)
    shade.value = 0.2
    assert "drawn in" in panel.status.value and panel.png == grey(0.2)
    with pytest.raises(ValueError, match="too light"):
        Panel(draw, {"shade": slider(value=1.0)})


def test_rounding_errors_of_the_browser_draw_nothing_anew():
    drawn = []
    shade = slider(value=1.0)
    panel = Panel(lambda shade: drawn.append(shade) or grey(shade), {"shade": shade})
    drawn.clear()
    panel._read = module.dependencies.state_of(panel._function)  # `drawn` is a variable too
    shade.value = 0.9999999999999998
    assert drawn == [] and panel.described() == "shade 1.0" and panel.values == {"shade": 1.0}


def test_slow_ones_wait_for_the_release():
    quick, slow = slider(), slider()
    Panel(lambda shade: grey(shade), {"shade": quick})
    Panel(lambda shade: grey(shade), {"shade": slow}, live=False)
    assert quick.continuous_update and not slow.continuous_update


def test_a_notebook_without_a_browser_shows_the_picture_alone():
    panel = Panel(lambda shade: grey(shade), {"shade": slider()}, caption="a grey square")
    alone = panel._repr_mimebundle_()
    assert set(alone) == {"text/html", "image/png", "text/plain"}
    assert f'base64,{alone["image/png"]}" alt="a grey square (shade 0.0)"' in alone["text/html"]
    assert base64.b64decode(alone["image/png"]) == panel.png and "<style" not in alone["text/html"]
    with pytest.raises(NotImplementedError):  # IPython then takes the bundle
        panel._ipython_display_()


@pytest.fixture
def outputs(monkeypatch):
    """The outputs of a live cell, by display id, as the notebook holds them, and the callbacks after a cell."""
    import IPython

    found: dict = {}

    def display(data, raw, display_id=None):
        found["saved" if display_id else "widgets"] = data
        return types.SimpleNamespace(update=lambda data, raw: found.update(saved=data)) if display_id else None

    register = lambda event, callback: found.setdefault(event, []).append(callback)  # noqa: E731
    shell = types.SimpleNamespace(events=types.SimpleNamespace(register=register))
    monkeypatch.setattr(module, "in_live_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(module, "_WATCHED", weakref.WeakSet())
    return found


def test_a_saved_notebook_has_the_last_picture_below_the_widgets(outputs):
    shade = slider()
    panel = Panel(lambda shade: grey(shade), {"shade": shade}, caption="a grey square")
    panel._ipython_display_()
    widgets, still = outputs["widgets"], outputs["saved"]
    assert widgets[WIDGETS]["model_id"] == panel.widget.model_id and "image/png" not in widgets
    hidden = re.search(r"\.(lab-still-\w+) { display: none; }", panel.widget.children[2].value)[1]
    assert f'<figure class="{hidden}"' in still["text/html"] and "to make it interactive" in still["text/html"]
    shade.value = 0.5
    assert base64.b64decode(outputs["saved"]["image/png"]) == panel.png == grey(0.5)
    assert "a grey square (shade 0.5)" in outputs["saved"]["text/html"]


SHADE_OF = {"light": 0.5}
brightness = 0.0


def test_pictures_are_drawn_again_if_a_variable_changed(monkeypatch):
    drawn = []

    def draw(which):
        drawn.append(which)
        return grey(SHADE_OF["light"] if which else brightness)

    which = ipywidgets.Checkbox(False)
    panel = Panel(draw, {"which": which})
    drawn.clear()  # which is a variable too
    assert panel.compare() == ["drawn"] and module.OLD in panel.widget._dom_classes
    which.value = True
    assert panel.compare() == [] and module.OLD not in panel.widget._dom_classes
    which.value = False
    monkeypatch.setitem(globals(), "brightness", 0.9)
    assert panel.compare() == ["brightness"] and panel.png == grey(0.0)
    assert "brightness changed after it was drawn" in panel.status.value and module.OLD in panel.widget._dom_classes
    which.value = True
    which.value = False
    assert panel.png == grey(0.9) and panel.compare() == []  # not the picture that was kept for this value
    monkeypatch.setitem(globals(), "brightness", 0.1)
    assert panel.compare() == ["brightness"]
    monkeypatch.setitem(globals(), "brightness", 0.9)
    assert panel.compare() == [] and module.OLD not in panel.widget._dom_classes


def test_variables_are_compared_after_each_cell(outputs, monkeypatch):
    panel = Panel(lambda: grey(brightness), {})
    panel._ipython_display_()
    monkeypatch.setitem(globals(), "brightness", 0.9)
    (after_a_cell,) = outputs["post_run_cell"]
    after_a_cell(None)
    assert "Old picture" in panel.status.value


def test_the_caption_has_the_values_of_the_picture_and_a_failed_drawing_dims_it():
    def draw(shade):
        if shade > 0.5:
            raise ValueError("too light")
        return grey(shade)

    shade = slider()
    panel = Panel(draw, {"shade": shade}, caption="a <grey> square")
    assert (
        panel.under.value == "a &lt;grey&gt; square (shade 0.0)" and "#" not in panel.under.value
    )  # no colour of ours
    shade.value = 0.9
    assert panel.under.value.endswith("(shade 0.0)") and module.OLD in panel.widget._dom_classes
    shade.value = 0.2
    assert panel.under.value.endswith("(shade 0.2)") and module.OLD not in panel.widget._dom_classes


def test_every_answer_differs_so_that_the_page_sees_it():
    shade, seen = slider(), []
    panel = Panel(lambda shade: grey(shade), {"shade": shade})
    panel.status.observe(lambda change: seen.append(change.new), "value")
    for value in (0.1, 0.2, 0.1):
        shade.value = value
    answers = [re.search(r'data-drawing="(\w+)"', each)[1] for each in seen]
    assert answers[::2] == ["now"] * 3 and len(set(answers[1::2])) == 3


def test_a_picture_is_saved_by_a_button(tmp_path):
    shade = slider()
    panel = Panel(lambda shade: grey(shade), {"shade": shade}, save_to=tmp_path / "kept")
    (button,) = (one for one in panel.widget.children[1].children if isinstance(one, ipywidgets.Button))
    button.click()
    assert (tmp_path / "kept" / "shade-0.0.png").read_bytes() == panel.png and "shade-0.0.png" in panel.status.value
    (tmp_path / "kept" / "shade-0.5.png").mkdir()
    shade.value = 0.5
    button.click()
    assert "<b>not saved</b>" in panel.status.value
    with pytest.raises(ValueError, match="this panel has no folder for pictures; give save_to"):
        Panel(lambda shade: grey(shade), {"shade": slider()}).save()


def test_a_button_plays_a_slider():
    steps = ipywidgets.IntSlider(value=2, min=1, max=5, description="step")
    panel = Panel(lambda step: grey(step / 5), {"step": steps}, play="step")
    play = panel.widget.children[1].children[0]
    assert isinstance(play, ipywidgets.Play) and (play.min, play.max, play.value) == (1, 5, 2)
    with pytest.raises(ValueError, match="play was 'steps'; sliders over whole numbers are step"):
        Panel(lambda step: grey(step), {"step": steps}, play="steps")


def test_grids_hold_their_images_and_names():
    x = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 1, 5, 5)
    plain = Image.open(io.BytesIO(grid_png(x, 3, scale=4)))
    assert plain.size == (4 * (3 * 7 - 2), 4 * (2 * 7 - 2))
    assert [plain.getpixel((4 * 7 * k + 8, 8)) for k in range(3)] == [0, 51, 102]
    named = Image.open(io.BytesIO(grid_png(x, 3, 4, ["one", "two"], ["a", "b", "c"])))
    assert (
        named.crop((named.width - plain.width, named.height - plain.height, *named.size)).tobytes() == plain.tobytes()
    )
    assert named.crop((0, 0, named.width - plain.width, named.height)).getextrema()[0] < 100  # letters
    wide = Image.open(io.BytesIO(grid_png(x, 3, 4, column_names=["a long name", "b", "c"])))
    assert wide.height > named.height  # turned by 90 degrees
    with pytest.raises(ValueError, match="2 names for 3 columns: a, b; give one for each"):
        grid_png(x, 3, column_names=["a", "b"])
    assert Image.open(io.BytesIO(grid_png(torch.zeros(2, 3, 5, 5), 2))).size == (36, 15)


# panels that look into a flow


@pytest.fixture(scope="module")
def flow():
    return perturbed(dtype=torch.float32)


@pytest.mark.slow
def test_a_trajectory_is_stepped_through(flow):
    c = flow.config
    x = torch.randn(30, c.channels, c.image_size, c.image_size) / 3
    with torch.no_grad():
        states = [flow.unpatchify(state) for state in flow(x, torch.arange(30) % c.num_classes).latents]
    panel = panels.trajectory(x, states)
    shown = {}
    for block in range(len(states) + 1):
        panel.controls["block"].value = block
        assert "drawn in" in panel.status.value
        shown[block] = panel.png
    assert len(set(shown.values())) == len(states) + 1
    assert len({Image.open(io.BytesIO(png)).size for png in shown.values()}) == 1  # the page does not jump


def test_learned_states_stand_beside_the_exact_ones(flow):
    c = flow.config
    size = dict(image_size=c.image_size, channels=c.channels, patch_size=c.patch_size, num_blocks=c.num_blocks)
    model = BackwardModel(BackwardConfig(**size, width=16, layers_per_block=1, head_dim=8, num_classes=c.num_classes))
    z, y = torch.randn(4, c.tokens, c.token_dim), torch.arange(4) % c.num_classes
    with torch.no_grad():
        states = model(z, y).states
    panel = panels.learned_states(flow, states, z, y)
    assert panel.controls["state"].max == len(states) - 1 == c.num_blocks
    for number in range(len(states)):
        panel.controls["state"].value = number
        assert "drawn in" in panel.status.value


@pytest.mark.slow
def test_a_solver_is_stepped_through(flow):
    """One token is known from the start, and one more after each evaluation, the other way at least as many."""
    c = flow.config
    z, y = torch.randn(3, c.tokens, c.token_dim), torch.arange(3) % c.num_classes
    panel = panels.solver_steps(flow, z, y)
    calls = []
    real, frames.solving = frames.solving, lambda *args, **names: calls.append(args) or real(*args, **names)
    try:
        for block in range(1, c.num_blocks + 1):
            panel.controls["block"].value = block
            for step in (1, c.tokens - 1):
                panel.controls["step"].value = step
                assert "drawn in" in panel.status.value
    finally:
        frames.solving = real
    assert {sweeps for *_, (_, sweeps), _ in calls} <= set(range(c.tokens))
    for serial, parallel, (done, near), errors, (step, _), _ in calls:
        assert int(done.sum()) == (step + 1) * c.patch_size**2 and (errors[: step + 1] < 1e-4).all()
        if step == c.tokens - 1:
            assert near.all() and torch.allclose(serial, parallel, atol=1e-4)


@pytest.mark.slow
def test_a_layer_is_picked(flow):
    sites = [(block, layer) for block in (1, 2) for layer in (1, 2)]
    c = flow.config
    x = torch.randn(3, c.channels, c.image_size, c.image_size) / 3
    with torch.no_grad():
        hidden = flow(x, None, hidden_sites=sites).hiddens
    encoder = torch.randn(3, c.tokens, 7)
    panel = panels.layers(x, {"flow": hidden}, {"encoder": encoder}, (2, 1))
    assert panel.values == {"site": (2, 1), "row": c.grid // 2 + 1, "column": c.grid // 2 + 1}
    before = panel.png
    panel.controls["site"].value = (1, 2)
    assert panel.png != before and "block, layer block 1, layer 2" in panel.described()
    found = panels.cosines(encoder, 5)
    centred = encoder - encoder.mean(1, keepdim=True)
    assert torch.allclose(found[:, 5], torch.ones(3))
    assert torch.allclose(found[:, 2], torch.cosine_similarity(centred[:, 5], centred[:, 2], dim=-1), atol=1e-6)


BAD = {
    "no control": lambda: Panel(lambda a: grey(0.0), {"a": ipywidgets.Button()}),
    "unhashable": lambda: Panel(lambda a: grey(0.0), {"a": ipywidgets.TagsInput(value=["x"])}),
    "no widget": lambda: Panel(lambda a: grey(0.0), {"a": object()}),
    "play": lambda: Panel(lambda a: grey(0.0), {"a": slider()}, play="a"),
    "no states": lambda: panels.trajectory(torch.zeros(1, 1, 8, 8), []),
    "other states": lambda: panels.learned_states(perturbed(dtype=torch.float32), [], torch.zeros(1, 16, 12)),
    "oblong": lambda: panels.layers(torch.zeros(2, 1, 4, 16), {"a": {(1, 1): torch.zeros(2, 16, 3)}}),
    "no flow": lambda: panels.layers(torch.zeros(2, 1, 8, 8), {}),
    "other site": lambda: panels.layers(torch.zeros(2, 1, 8, 8), {"a": {(1, 1): torch.zeros(2, 16, 3)}}, start=(9, 9)),
    "other grid": lambda: panels.layers(
        torch.zeros(2, 1, 8, 8), {"a": {(1, 1): torch.zeros(2, 16, 3)}}, {"b": torch.zeros(2, 49, 3)}
    ),
    "other images": lambda: panels.layers(
        torch.zeros(2, 1, 8, 8), {"a": {(1, 1): torch.zeros(2, 16, 3)}}, {"b": torch.zeros(3, 16, 3)}
    ),
    "one name twice": lambda: panels.layers(
        torch.zeros(2, 1, 8, 8), {"a": {(1, 1): torch.zeros(2, 16, 3)}}, {"a": torch.zeros(2, 16, 3)}
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_shown_is_refused(what, as_users_run):
    with pytest.raises(ValueError, match=r"control|sliders|states|give|site"):
        BAD[what]()


def test_sites_may_be_lists_and_pictures_stay_on_the_screen(as_users_run):
    hidden = {(1, 1): torch.randn(1, 16, 3), (2, 1): torch.randn(1, 16, 3)}
    panel = panels.layers(torch.zeros(1, 1, 8, 8), {"a": hidden}, start=[1, 1])
    assert panel.values["site"] == (1, 1)
    assert Image.open(io.BytesIO(panel.png)).height < 1000


@pytest.mark.parametrize("picture", [None, b"hello", "a path"])
def test_a_drawing_has_to_be_a_picture(picture, as_users_run):
    with pytest.raises(TypeError, match="it must return the bytes of a PNG, or a matplotlib figure"):
        module.png_of(picture)


def test_none_can_be_chosen_and_is_shown():
    for kind in (controls.choice, controls.along):
        made = kind("class", {"any": None, "bag": 8}, None)
        assert made.label == "any" and made.value is None
        made.label = "bag"
        assert made.value == 8
        made.index = 0  # as the browser does; ipywidgets would then select nothing
        assert (made.label, made.value, made.index) == ("any", None, 0)
    assert controls.choice("schedule", ["constant", "linear"], "linear").value == "linear"
