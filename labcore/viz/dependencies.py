"""The values that a function reads besides its arguments: global names and the variables of functions around it.

A panel keeps pictures by the values of its controls. If a value changes that the drawing reads, those pictures are old.
"""

from __future__ import annotations

import dis
import weakref
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import torch

MOST_ITEMS = 1000
"""Largest number of items of a list, tuple, set or dictionary that are compared one by one; our choice."""
PLAIN = (int, float, complex, str, bytes, bool, type(None), slice, range)

State = dict[str, Any]
"""Name -> a value that is equal as long as the named object is the same and has not changed."""


def state_of(function: Callable) -> State:
    """Return the state of every value that the function reads by name.

    Tensors and modules change when they are assigned again, or when their values are changed in place. Functions of the same
    notebook or module are followed. Of other objects only a new assignment is seen.
    """
    found: State = {}
    if isinstance(function, FunctionType):
        _read(function, found)
    return found


def changed(before: State, after: State) -> list[str]:
    """Return the names whose state differs, in alphabetical order."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _read(function: FunctionType, found: State) -> None:
    """Add the state of the names that a function reads, directly or through other functions of the same module."""
    names = _global_names(function.__code__) & function.__globals__.keys()
    values = {name: function.__globals__[name] for name in names}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    values |= {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    for name, value in sorted(values.items()):
        if name in found:
            continue
        follow = isinstance(value, FunctionType) and value.__globals__ is function.__globals__
        found[name] = (value.__code__, value.__defaults__) if follow else _state(value)
        if follow:
            _read(value, found)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@lru_cache(1000)
def _global_names(code: CodeType) -> frozenset[str]:
    """Return the global names that code reads, also in the functions inside it."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(names.union(*map(_global_names, inner)))


def _state(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, torch.Tensor):
        return _same(value), _version(value)
    if isinstance(value, torch.nn.Module):
        tensors = [*value.parameters(), *value.buffers()]
        return _same(value), value.training, tuple((id(one), _version(one)) for one in tensors)
    if isinstance(value, dict) and len(value) <= MOST_ITEMS:
        return dict, tuple((_state(key), _state(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)) and len(value) <= MOST_ITEMS:
        return type(value), tuple(map(_state, value))
    return _same(value)


def _version(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place; 0 for tensors of inference mode, which do not count changes."""
    return 0 if tensor.is_inference() else tensor._version


def _same(value: Any) -> Any:
    """Return a value that is equal only for the same object: a weak reference, because Python reuses ids of deleted objects."""
    try:
        return _Identity(weakref.ref(value))
    except TypeError:
        return id(value)


class _Identity:
    """Identity of an object, equal only to the identity of the same living object."""

    def __init__(self, reference: weakref.ref):
        self.reference = reference

    def __eq__(self, other: object) -> bool:
        here = self.reference()
        return here is not None and isinstance(other, _Identity) and other.reference() is here

    __hash__ = None
