"""Controls and one picture that follows them: the lab's only way to move something in a notebook.

A panel is one tree of widgets, built once. Its picture is PNG bytes in one image widget, so that nothing flickers and nothing
stays behind in the cell's output. Drawings that are quick follow a slider while it moves; slow ones wait for its release, and
say meanwhile that they are at work. Where nobody can move anything (a notebook that runs headless, or an exported page), the
same picture stands there alone, with the values it was drawn for.
"""

from __future__ import annotations

import base64
import html
import logging
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from labcore.live import in_live_notebook
from labcore.viz.words import DESCRIPTION, described, described_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = 128
"""Pictures that a panel remembers."""

Drawing = Callable[..., "bytes | Figure"]
"""A function of the controls' values, by name, that gives a PNG or a figure. The same values must give the same picture."""


class Panel:
    """`draw` of the values of `controls`, widgets of ipywidgets by name, above the picture.

    live: follow a control while it moves; False: draw on its release. play: the name of an integer slider that a button
    moves through its range. caption: what the picture shows, in a sentence, for those who cannot see it too. Raises what the
    first drawing raises, and ValueError for what is no control; later errors stand under the controls, and the last
    picture stays.
    """

    def __init__(
        self, draw: Drawing, controls: Mapping[str, Any], live: bool = True, play: str | None = None, caption: str = ""
    ):
        from ipywidgets import HTML, HBox, Image, Layout, VBox

        _check(controls, play)
        self.controls, self.caption = dict(controls), caption
        self._draw = lru_cache(KEPT)(lambda values: png_of(draw(**dict(values))))
        self.image = Image(format="png", layout=Layout(max_width="100%", width="fit-content"))
        self.image.add_class("lab-picture")
        self.status = HTML()
        self.status.add_class("lab-status")
        dressed = [self._dressed(name, control, live) for name, control in self.controls.items()]
        upright = [control for control in dressed if _upright(control)]
        across = [HBox(upright, layout=Layout(overflow="visible"))] if upright else []  # or their numbers are cut off
        rows = [control for control in dressed if control not in upright] + across
        rows.append(HBox([*([_player(controls[play])] if play else []), self.status]))
        under = HTML(
            f"<span style='color: #555'>{html.escape(caption)}</span>"
        )  # an image widget has no alternative text
        self.widget = VBox([*rows, self.image, under])
        self.widget.add_class("lab-panel")
        self._show(self._values())
        for control in self.controls.values():
            control.observe(self._changed, "value")

    @property
    def values(self) -> dict[str, Any]:
        """The controls' values now, by name."""
        return dict(self._values())

    @property
    def png(self) -> bytes:
        """The picture that is shown."""
        return bytes(self.image.value)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The widgets and their picture; the picture with its values under it where nobody is there to move anything."""
        picture, words = base64.b64encode(self.png).decode(), self.described()
        still = {"image/png": picture, "text/plain": words}
        if in_live_notebook():
            return {**self.widget._repr_mimebundle_(), **still}
        alt, caption = html.escape(words), html.escape(self._with_values())
        figure = f'<figure><img src="data:image/png;base64,{picture}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'
        return {"text/html": figure, **still}

    def described(self) -> str:
        """What the picture shows, in words: the caption, the values, and the picture's own description."""
        own = described_png(self.png)
        return f"{self._with_values()}: {own}" if own else self._with_values()

    def _with_values(self) -> str:
        return f"{self.caption} ({self._told})" if self.caption else self._told

    def _values(self) -> tuple[tuple[str, Any], ...]:
        return tuple((name, control.value) for name, control in self.controls.items())

    def _dressed(self, name: str, control: Any, live: bool) -> Any:
        if "continuous_update" in control.traits():
            control.continuous_update = live
        if _upright(control):
            control.layout.height = "12em"
        else:
            control.style.description_width, control.layout.width, control.layout.max_width = "9em", "34em", "100%"
        control.add_class(f"lab-control-{name}")
        return control

    def _changed(self, change: Any) -> None:
        self.status.value = "<i>drawing …</i>"
        try:
            self._show(self._values())
        except Exception as error:
            logging.getLogger(__name__).exception("a panel could not draw %s", self.values)
            self.status.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"

    def _show(self, values: tuple[tuple[str, Any], ...]) -> None:
        started = time.perf_counter()
        self.image.value = self._draw(values)
        self._told = ", ".join(f"{_called(c, name)} {_said(c)}" for name, c in self.controls.items())
        self.status.value = f"drawn in {time.perf_counter() - started:.2f} s"


def png_of(picture: bytes | Figure) -> bytes:
    """PNG bytes as they are; a figure's in its own size, so that the page does not jump from one value to the next."""
    if isinstance(picture, bytes) and picture.startswith(b"\x89PNG"):
        return picture
    if not hasattr(picture, "savefig"):
        raise TypeError(
            f"a drawing gave {type(picture).__name__}; it has to give the bytes of a PNG, or a matplotlib figure"
        )
    out = BytesIO()
    picture.savefig(out, format="png", dpi=picture.dpi, metadata={DESCRIPTION: described(picture)})
    return out.getvalue()


def _check(controls: Mapping[str, Any], play: str | None) -> None:
    """ValueError for controls that have no value to draw by, and for a `play` that is no slider over whole numbers."""
    from ipywidgets import IntSlider

    for name, control in controls.items():
        try:
            hash(control.value)
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"{name} is a {type(control).__name__}; a control is a widget whose value is a number, a text or a tuple, as a "
                "slider, a choice, a checkbox"
            ) from error
    if play is not None and not isinstance(controls.get(play), IntSlider):
        sliders = [name for name, control in controls.items() if isinstance(control, IntSlider)]
        raise ValueError(f"play was {play!r}; sliders over whole numbers are {', '.join(sliders) or 'none'}")


def _upright(control: Any) -> bool:
    return getattr(control, "orientation", "horizontal") == "vertical"


def _player(slider: Any) -> Any:
    """A button that moves an integer slider through its range, twice a second."""
    from ipywidgets import Play, jslink

    play = Play(min=slider.min, max=slider.max, step=slider.step, value=slider.value, interval=500)
    play.add_class("lab-play")
    jslink((play, "value"), (slider, "value"))
    return play


def _called(control: Any, name: str) -> str:
    return control.description or name


def _said(control: Any) -> str:
    """A value as words: the label of a choice, else the value."""
    return str(getattr(control, "label", None) or control.value)
