"""A page of a notebook with widgets loads nothing from the net, and shows what the widgets showed last."""

import base64
import re

import nbformat
import pytest

from labcore.campaigns.pages import web_page, without_net
from labcore.campaigns.stills import STATE, VIEW, still

LOADED = re.compile(
    r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["']?(?:https?:)?//|unpkg\.com|cdnjs|jsdelivr|widget-state|widget-view"""
)
PNG = base64.b64encode(b"\x89PNG a picture").decode()


def widget(kind: str, buffers: tuple = (), **state) -> dict:
    return {"model_name": f"{kind}Model", "state": state, "buffers": list(buffers)}


WIDGETS = {
    "box": widget("VBox", children=["IPY_MODEL_slider", "IPY_MODEL_choice", "IPY_MODEL_out", "IPY_MODEL_image"]),
    "slider": widget("IntSlider", description="shade", value=3, layout="IPY_MODEL_layout"),
    "choice": widget("Dropdown", description="class", index=1, _options_labels=["bag", "<shirt>"]),
    "out": widget(
        "Output",
        outputs=[
            {"output_type": "display_data", "data": {"image/png": PNG, "text/plain": "'the last picture'"}},
            {"output_type": "stream", "name": "stdout", "text": "3 < 4"},
        ],
    ),
    "image": widget("Image", [{"path": ["value"], "encoding": "base64", "data": PNG}], format="png"),
    "layout": widget("Layout", width=None),
    "loop": widget("VBox", children=["IPY_MODEL_loop"]),
}


def test_a_page_with_widgets_loads_nothing_and_shows_their_last_state(tmp_path):
    view = nbformat.v4.new_output("display_data", data={VIEW: {"model_id": "box"}, "text/plain": "VBox(children=...)"})
    formula = nbformat.v4.new_output("display_data", data={"text/latex": "$\\displaystyle \\frac{a}{b}$"})
    plot = nbformat.v4.new_output(
        "display_data", data={"text/html": "<script src='https://cdn.plot.ly/p.js'></script>"}
    )
    cells = [nbformat.v4.new_code_cell("interact(f)", outputs=[view, formula, plot])]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["widgets"] = {STATE: {"state": WIDGETS, "version_major": 2, "version_minor": 0}}
    nbformat.write(notebook, tmp_path / "n.ipynb")
    page = web_page(tmp_path / "n.ipynb").read_text()
    assert not LOADED.search(page), LOADED.search(page)
    assert page.count(f"data:image/png;base64,{PNG}") == 2 and 'alt="the last picture"' in page
    assert "shade: 3" in page and "class: &lt;shirt&gt;" in page and "3 &lt; 4" in page
    assert "VBox(children" not in page and "<mfrac>" in page


@pytest.mark.parametrize("name", ["missing", "loop", "layout"])
def test_nothing_to_show_is_nothing(name):
    assert still(name, WIDGETS) == ""


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("<script src='//unpkg.com/a.js'></script>b", "b"),
        ('<SCRIPT type="module">import x from "https://a.org/x.mjs"</SCRIPT>b', "b"),
        ('<script>const a = "https://a.org"</script>', '<script>const a = "https://a.org"</script>'),
        ('<link rel="stylesheet" href="https://a.org/a.css">b', "b"),
        ('<link href="a.css">', '<link href="a.css">'),
        ("<style>@import url('https://a.org/f.css'); p {color: red}</style>", "<style> p {color: red}</style>"),
        ("<style>p {background: url(https://a.org/b.png)}</style>", "<style>p {background: }</style>"),
        ('<img alt="x" src="https://a.org/a.png">', '<a href="https://a.org/a.png">https://a.org/a.png</a>'),
        ('<img src="data:image/png;base64,AA//">', '<img src="data:image/png;base64,AA//">'),
        ('<a href="https://a.org">a</a>', '<a href="https://a.org">a</a>'),
        ("<pre>&lt;script src='https://a.org'&gt;</pre>", "<pre>&lt;script src='https://a.org'&gt;</pre>"),
    ],
)
def test_what_a_page_would_load_is_left_out(given, left):
    assert without_net(given) == left
