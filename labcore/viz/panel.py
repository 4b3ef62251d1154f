"""Panels: controls and one picture that depends on their values. All interactive pictures of the notebooks are panels.

A panel is one tree of widgets, built once. Its picture is the PNG of one image widget, so it does not flicker, and no old
output stays in the cell. A quick drawing follows a slider while it moves; a slow one waits for its release, and shows that it
is drawing. In a notebook that runs without a browser, and on an exported page, the picture is shown without controls, with the
values that it was drawn for. A notebook that is saved and opened again shows its last picture in the same way.

A picture is dimmed while it does not match the controls and the notebook's variables.
"""

from __future__ import annotations

import asyncio
import html
import logging
import re
import time
import weakref
from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labcore.files import make_folder, write_atomic
from labcore.live import in_live_notebook
from labcore.viz import dependencies, panel_page
from labcore.viz.words import DESCRIPTION, described, described_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = 128
"""Number of pictures that a panel keeps in memory."""
SETTLED = 1.0
"""Seconds without a new picture after which the cell's saved picture is replaced; our choice."""
OLD = "lab-old"
"""Class of a panel whose picture is older than the values that it depends on."""

Drawing = Callable[..., "bytes | Figure"]
"""Function of the controls' values, by name, that returns a PNG or a figure. Equal values must give equal pictures."""


class Panel:
    """Controls with a picture below them. Errors of later drawings are shown below the controls, and the last picture stays.

    The picture is drawn again for values that were drawn before if a variable has changed that `draw` reads.

    Args:
        draw: function of the controls' values that returns the picture.
        controls: {name: widget of ipywidgets}.
        live: True (default) draws while a control moves; False draws on its release.
        play: name of an integer slider that a play button moves through its range; default None.
        caption: description of the picture, also for readers who cannot see it.
        save_to: folder for a button that saves the picture; default None, no button.

    Raises:
        ValueError: a control has no usable value, or `play` is not an integer slider. Errors of the first drawing are passed
            on.
    """

    def __init__(
        self,
        draw: Drawing,
        controls: Mapping[str, Any],
        live: bool = True,
        play: str | None = None,
        caption: str = "",
        save_to: str | Path | None = None,
    ):
        from ipywidgets import HTML, HBox, Image, Layout, VBox

        _check(controls, play)
        self.controls, self.caption, self.save_to = dict(controls), caption, save_to
        self._function = draw
        self._draw = lru_cache(KEPT)(lambda values: png_of(draw(**dict(values))))
        self._read: dependencies.State = {}
        self._different: list[str] = []
        self._drawings, self._saved, self._timer = 0, None, None
        self.image = Image(format="png", layout=Layout(max_width="calc(100% - 4px)", width="fit-content"))
        self.image.add_class("lab-picture")
        self.status, self.under = HTML(), HTML()
        self.status.add_class("lab-status")
        self.under.add_class("lab-caption")
        dressed = [_dressed(name, control, live) for name, control in self.controls.items()]
        across = HBox(dressed)
        across.add_class("lab-controls")
        below = [*([_player(controls[play])] if play else []), *([self._saving()] if save_to else []), self.status]
        self.widget = VBox()
        self._name = f"lab-still-{self.widget.model_id}"
        page = HTML(panel_page.live_part(self._name))
        self.widget.children = (across, HBox(below), page, self.image, self.under)
        self.widget.add_class("lab-panel")
        self._show(self._values())
        for control in self.controls.values():
            control.observe(self._changed, "value")

    @property
    def values(self) -> dict[str, Any]:
        """Current values of the controls, by name."""
        return dict(self._values())

    @property
    def png(self) -> bytes:
        """The PNG of the current picture."""
        return bytes(self.image.value)

    def _ipython_display_(self) -> None:
        """Show the widgets, and below them the picture that a saved notebook shows."""
        if not in_live_notebook():
            raise NotImplementedError  # IPython then takes _repr_mimebundle_
        from IPython.display import display

        display({**self.widget._repr_mimebundle_(), "text/plain": self.described()}, raw=True)
        self._saved = display(self._still(), raw=True, display_id=True)
        _watch(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Return the picture with its values, for a notebook that is not interactive."""
        return self._still("")

    def described(self) -> str:
        """Describe the picture in words: the caption, the values, and the picture's own description."""
        own = described_png(self.png)
        return f"{self._with_values()}: {own}" if own else self._with_values()

    def save(self) -> Path:
        """Write the picture to the panel's folder, named for its values, and return the file. No file is overwritten.

        Raises ValueError for a panel without a folder.
        """
        if not self.save_to:
            raise ValueError("this panel has no folder for pictures; give save_to")
        folder, name = Path(self.save_to), re.sub(r"[^\w.]+", "-", self._told).strip("-")[:120] or "picture"
        make_folder(folder)
        number, file = 1, folder / f"{name}.png"
        while file.exists() and file.read_bytes() != self.png:
            number += 1
            file = folder / f"{name}-{number}.png"
        write_atomic(file, self.png)
        return file

    def compare(self) -> list[str]:
        """Return the names that the drawing reads and that changed after it; mark the picture as old if there are any."""
        names = dependencies.changed(self._read, dependencies.state_of(self._function))
        if names != self._different:
            self._different = names
            if names:
                listed = ", ".join(map(html.escape, names))
                self._mark_old(
                    f"<b>Old picture</b>: {listed} changed after it was drawn. Move a control to draw it again."
                )
            else:
                self.widget.remove_class(OLD)
                self._tell("the variables have the picture's values again")
        return names

    def _still(self, name: str | None = None) -> dict[str, Any]:
        """Return the picture as it is saved. name: class of the figure; default the class of this panel's saved picture."""
        words, name = self.described(), self._name if name is None else name
        data = {"text/html": panel_page.figure(self.png, words, self._with_values(), name)}
        return data | {"image/png": panel_page.base64_of(self.png), "text/plain": words}

    def _keep_still(self) -> None:
        """Replace the cell's saved picture once no other picture follows."""
        if self._saved is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        update = lambda: self._saved.update(self._still(), raw=True)  # noqa: E731
        try:
            self._timer = asyncio.get_running_loop().call_later(SETTLED, update)
        except RuntimeError:
            update()

    def _with_values(self) -> str:
        return f"{self.caption} ({self._told})" if self.caption else self._told

    def _values(self) -> tuple[tuple[str, Any], ...]:
        return tuple((name, _value(control)) for name, control in self.controls.items())

    def _saving(self) -> Any:
        """Make the button that saves the picture, and tells where."""
        from ipywidgets import Button

        def clicked(_: Any) -> None:
            try:
                self._tell(f"saved as {html.escape(str(self.save()))}")
            except OSError as error:
                self._tell(f"<b>not saved</b>: {html.escape(str(error))}")

        button = Button(description="Save the picture", icon="download", tooltip="Save the picture as a PNG")
        button.add_class("lab-save")
        button.on_click(clicked)
        return button

    def _changed(self, change: Any) -> None:
        self._tell("<i>drawing …</i>", drawing=True)
        try:
            self._show(self._values())
        except Exception as error:
            logging.getLogger(__name__).exception("a panel could not draw %s", self.values)
            self._mark_old(f"<b>{type(error).__name__}</b>: {html.escape(str(error))}")
        self._keep_still()

    def _show(self, values: tuple[tuple[str, Any], ...]) -> None:
        started = time.perf_counter()
        if dependencies.changed(self._read, dependencies.state_of(self._function)):
            self._draw.cache_clear()
        self.image.value = self._draw(values)
        self._read, self._different = dependencies.state_of(self._function), []
        self._told = ", ".join(f"{_called(c, name)} {_said(c)}" for name, c in self.controls.items())
        self.under.value = html.escape(self._with_values())
        self.widget.remove_class(OLD)
        self._tell(f"drawn in {time.perf_counter() - started:.2f} s")

    def _tell(self, text: str, drawing: bool = False) -> None:
        """Show a status. The page's script reads from the attribute whether the kernel has answered."""
        self._drawings += 1
        self.status.value = f'<span data-drawing="{"now" if drawing else self._drawings}">{text}</span>'

    def _mark_old(self, text: str) -> None:
        self.widget.add_class(OLD)
        self._tell(text)


_WATCHED: weakref.WeakSet[Panel] = weakref.WeakSet()
"""Panels in this notebook, whose variables are compared after each cell."""


def _watch(panel: Panel) -> None:
    """Compare the panel's variables after each cell from now on."""
    from IPython import get_ipython

    if not _WATCHED:
        get_ipython().events.register("post_run_cell", _compare_all)
    _WATCHED.add(panel)


def _compare_all(result: Any = None) -> None:
    for panel in list(_WATCHED):
        panel.compare()


def png_of(picture: bytes | Figure) -> bytes:
    """Return PNG bytes unchanged, or draw a figure as a PNG of its full size, so that all pictures have the same size.

    Raises TypeError for anything else.
    """
    if isinstance(picture, bytes) and picture.startswith(b"\x89PNG"):
        return picture
    if not hasattr(picture, "savefig"):
        raise TypeError(
            f"a drawing returned {type(picture).__name__}; it must return the bytes of a PNG, or a matplotlib figure"
        )
    out = BytesIO()
    picture.savefig(out, format="png", dpi=picture.dpi, metadata={DESCRIPTION: described(picture)})
    return out.getvalue()


def _check(controls: Mapping[str, Any], play: str | None) -> None:
    """Raise ValueError for controls without a usable value, and if `play` is not an integer slider."""
    from ipywidgets import IntSlider

    for name, control in controls.items():
        try:
            hash(control.value)
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"{name} is a {type(control).__name__}; a control is a widget whose value is a number, a text or a tuple, such "
                "as a slider, a menu or a checkbox"
            ) from error
    if play is not None and not isinstance(controls.get(play), IntSlider):
        sliders = [name for name, control in controls.items() if isinstance(control, IntSlider)]
        raise ValueError(f"play was {play!r}; sliders over whole numbers are {', '.join(sliders) or 'none'}")


def _dressed(name: str, control: Any, live: bool) -> Any:
    """Set the size and class of a control, and whether it sends values while it moves."""
    if "continuous_update" in control.traits():
        control.continuous_update = live
    if _upright(control):
        control.layout.height = "12em"
    else:
        control.style.description_width, control.layout.width, control.layout.max_width = "9em", "34em", "100%"
    control.add_class(f"lab-control-{name}")
    return control


def _upright(control: Any) -> bool:
    return getattr(control, "orientation", "horizontal") == "vertical"


def _player(slider: Any) -> Any:
    """Make a play button that moves an integer slider through its range, twice a second."""
    from ipywidgets import Play, jslink

    play = Play(min=slider.min, max=slider.max, step=slider.step, value=slider.value, interval=500)
    play.add_class("lab-play")
    jslink((play, "value"), (slider, "value"))
    return play


def _called(control: Any, name: str) -> str:
    return control.description or name


def _said(control: Any) -> str:
    """Return the value as text: the label of a menu's option, or the value."""
    return str(getattr(control, "label", None) or _value(control))


def _value(control: Any) -> Any:
    """Return a control's value without the rounding error that the browser's steps add, as in 1.0000000000000002."""
    value = control.value
    return float(f"{value:.12g}") if isinstance(value, float) else value
