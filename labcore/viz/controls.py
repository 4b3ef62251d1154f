"""Controls of panels: ipywidgets' own, with the arguments in one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def number(name: str, low: float, high: float, value: float, step: float = 0.1, upright: bool = False) -> Any:
    """A slider over numbers; upright ones stand side by side."""
    from ipywidgets import FloatSlider

    way = "vertical" if upright else "horizontal"
    return FloatSlider(value, min=low, max=high, step=step, description=name, readout_format=".2f", orientation=way)


def whole(name: str, low: int, high: int, value: int) -> Any:
    """A slider over whole numbers."""
    from ipywidgets import IntSlider

    return IntSlider(value, low, high, description=name)


def span(name: str, low: int, high: int, value: tuple[int, int]) -> Any:
    """A slider with two handles over whole numbers; its value is a pair."""
    from ipywidgets import IntRangeSlider

    return IntRangeSlider(value=value, min=low, max=high, description=name)


def choice(name: str, options: Mapping[str, Any] | Sequence[str], value: Any) -> Any:
    """One of some; a mapping gives what is shown and what is meant, which may be None."""
    from ipywidgets import Dropdown

    return _one_of(Dropdown, name, options, value)


def along(name: str, options: Mapping[str, Any], value: Any) -> Any:
    """One of some that have an order, as a slider through them."""
    from ipywidgets import SelectionSlider

    return _one_of(SelectionSlider, name, options, value)


def _one_of(kind: Any, name: str, options: Mapping[str, Any] | Sequence[str], value: Any) -> Any:
    """Chosen by its place: for ipywidgets a value of None is nothing chosen, and shows an empty box."""
    meant = options if isinstance(options, Mapping) else {option: option for option in options}
    return kind(options=list(meant.items()), index=list(meant.values()).index(value), description=name)


def switch(name: str, value: bool) -> Any:
    """On or off."""
    from ipywidgets import Checkbox

    return Checkbox(value, description=name)
