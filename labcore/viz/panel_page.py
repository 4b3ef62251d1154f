"""The parts of a panel that are HTML: its style and script in a live notebook, and its picture in a saved notebook.

A saved notebook has no kernel, so its widgets cannot be shown. The picture is a second output of the cell. It is hidden while
the panel itself is on the page, and is shown in its place when the notebook is opened again.
"""

from __future__ import annotations

import base64
import html
from functools import cache
from importlib.resources import files

STOPPED = "The kernel has stopped, so this is an old picture. Run the cell again."
UNANSWERED = (
    "The kernel has not answered, so this picture does not show the values above. The kernel may be busy or stopped."
)
SAVED = "a saved picture; run the cell to make it interactive"


def live_part(name: str) -> str:
    """Return the style and script of a live panel as HTML, and its notices. name: class name of its saved picture."""
    hidden = f".{name} {{ display: none; }}"
    style = f'<style onload="{html.escape(_source("panel.js"))}">{_source("panel.css")}{hidden}</style>'
    notices = (("lab-stopped", STOPPED), ("lab-unanswered", UNANSWERED))
    return style + "".join(f'<span role="status" class="lab-notice {kind}">{text}</span>' for kind, text in notices)


def figure(png: bytes, words: str, caption: str, name: str = "") -> str:
    """Return a picture with its caption as HTML.

    Args:
        png: the picture.
        words: its alternative text.
        caption: text below it.
        name: class name of a picture that takes the place of a live panel; default none.
    """
    about = html.escape(caption)
    image = f'<img src="data:image/png;base64,{base64_of(png)}" alt="{html.escape(words)}">'
    if not name:
        return f"<figure>{image}<figcaption>{about}</figcaption></figure>"
    without_error = (
        f".jp-OutputArea-child:not(:has(.lab-panel)):has(+ .jp-OutputArea-child .{name}) {{ display: none; }}"
    )
    saved = f"<figcaption>{about} – {SAVED}</figcaption>"
    return f'<figure class="{name}" style="margin: 0">{image}{saved}</figure><style>{without_error}</style>'


def base64_of(png: bytes) -> str:
    """Return the picture as base64 text."""
    return base64.b64encode(png).decode()


@cache
def _source(name: str) -> str:
    return files("labcore.viz").joinpath(name).read_text(encoding="utf-8")
