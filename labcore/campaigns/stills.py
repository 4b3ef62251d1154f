"""The last state of a notebook's widgets as HTML without scripts: their pictures, texts and values.

Browsers show a saved widget only with a renderer, which pages load from the net. A notebook that was executed, or saved with
its widgets, holds their state in its metadata; this module converts that state to what a person saw last.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
CHILD = "IPY_MODEL_"


def widget_states(notebook: Any) -> dict[str, Any]:
    """Return the widgets that the notebook's metadata holds, by their ids; empty where it holds none."""
    return dict(notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {}))


def still(name: str, widgets: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> str:
    """Return a widget and all that it contains as HTML; empty where there is nothing to show, or the state is missing."""
    if name not in widgets or name in seen:
        return ""
    model, seen = widgets[name], seen | {name}
    kind, state = model.get("model_name", ""), model.get("state", {})
    if children := state.get("children"):
        return "".join(still(child.removeprefix(CHILD), widgets, seen) for child in children)
    if kind == "OutputModel":
        return "".join(map(output_html, state.get("outputs", [])))
    if kind == "ImageModel":
        return _image_widget(model, state)
    if kind in ("HTMLModel", "HTMLMathModel"):
        return f"<div>{state.get('value', '')}</div>"
    return _value(state)


def picture(kind: str, source: str, words: str) -> str:
    """Return a picture of a type like "png", in base64, as HTML with an alternative text."""
    return f'<img src="data:image/{kind};base64,{source.strip()}" alt="{html.escape(words)}">'


def output_html(output: Mapping[str, Any]) -> str:
    """Return the output of a cell or an Output widget in the richest form that needs no script."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items() if isinstance(text, (str, list))}
    words = data.get("text/plain", "").strip("'\"")
    for kind in ("png", "jpeg"):
        if source := data.get(f"image/{kind}"):
            return picture(kind, source, words)
    if rich := data.get("image/svg+xml") or data.get("text/html"):
        return rich
    text = words or "".join(output.get("text", ""))
    return f"<pre>{html.escape(text)}</pre>" if text else ""


def _image_widget(model: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    buffers = [
        b["data"] for b in model.get("buffers", []) if b.get("path") == ["value"] and b.get("encoding") == "base64"
    ]
    return picture(state.get("format") or "png", buffers[0], "a picture of a widget") if buffers else ""


def _value(state: Mapping[str, Any]) -> str:
    """Return a control's name and value; "" for a widget without a value, such as a button or a layout."""
    labels, index = state.get("_options_labels"), state.get("index")
    if labels is not None:
        if index is None:
            chosen = []
        else:
            chosen = index if isinstance(index, (list, tuple)) else [index]
        value = ", ".join(str(labels[i]) for i in chosen)
    elif state.get("value") is not None:
        value = state["value"]
    else:
        return ""
    name = state.get("description") or ""
    return f"<p>{html.escape(f'{name}: {value}' if name else str(value))}</p>"
