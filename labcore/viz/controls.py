"""Controls of panels: widgets of ipywidgets, made with arguments in one common order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


def number(name: str, low: float, high: float, value: float, step: float = 0.1, upright: bool = False) -> Any:
    """Make a slider over numbers from low to high; with `upright`, a vertical one, which is placed next to others."""
    from ipywidgets import FloatSlider

    way = "vertical" if upright else "horizontal"
    return FloatSlider(value, min=low, max=high, step=step, description=name, readout_format=".2f", orientation=way)


def whole(name: str, low: int, high: int, value: int) -> Any:
    """Make a slider over whole numbers from low to high."""
    from ipywidgets import IntSlider

    return IntSlider(value, low, high, description=name)


def span(name: str, low: int, high: int, value: tuple[int, int]) -> Any:
    """Make a slider with two handles over whole numbers; its value is a pair."""
    from ipywidgets import IntRangeSlider

    return IntRangeSlider(value=value, min=low, max=high, description=name)


def choice(name: str, options: Mapping[str, Any] | Sequence[str], value: Any) -> Any:
    """Make a menu. options: names, or {name: value}; a value may be None."""
    from ipywidgets import Dropdown

    return _one_of(Dropdown, name, options, value)


def along(name: str, options: Mapping[str, Any], value: Any) -> Any:
    """Make a slider through ordered options {name: value}."""
    from ipywidgets import SelectionSlider

    return _one_of(SelectionSlider, name, options, value)


def _one_of(kind: Any, name: str, options: Mapping[str, Any] | Sequence[str], value: Any) -> Any:
    meant = options if isinstance(options, Mapping) else {option: option for option in options}
    return _with_none(kind)(options=list(meant.items()), index=list(meant.values()).index(value), description=name)


@cache
def _with_none(kind: Any) -> Any:
    """Return the kind of widget with None as an ordinary value. By default, ipywidgets reads None as no selection."""
    from traitlets import observe

    class WithNone(kind):
        @observe("value")
        def _propagate_value(self, change: Any) -> None:
            if change.new is None and None in self._options_values:
                self.index = self._options_values.index(None)
            else:
                super()._propagate_value(change)

    return WithNone


def switch(name: str, value: bool) -> Any:
    """Make a checkbox."""
    from ipywidgets import Checkbox

    return Checkbox(value, description=name)
