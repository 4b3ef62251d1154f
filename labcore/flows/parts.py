"""Selection of a state dict in a checkpoint: names without wrappers, and parts such as "model" and "ema".

Other people's training scripts save a bare state dict, one under a key such as "model" or "state_dict", or several of
them. Names contain what DDP, FSDP, torch.compile and activation checkpointing add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labcore.tensors import WRAPPERS

FIRST = "blocks.0.proj_in.weight"
"""A key that every ml-tarflow state dict has."""
DEEPEST = 8
"""Largest number of nested dictionaries in a checkpoint."""


def flatten(values: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Return {dotted name without wrappers: value} for dictionaries of dictionaries.

    Raises ValueError for keys that are not text, for too many levels, and if two values get one name.
    """
    if not values and not depth:
        raise ValueError("the checkpoint is empty; an ml-tarflow checkpoint is a non-empty dictionary of tensors")
    if depth > DEEPEST:
        raise ValueError(f"dictionaries are nested more than {DEEPEST} levels deep: not an ml-tarflow checkpoint")
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            if depth:
                continue  # a number of a parameter, in an optimizer's state
            raise ValueError(f"{key!r} is no name of a tensor: not an ml-tarflow checkpoint")
        name = _plain(f"{prefix}{key}")
        if isinstance(value, Mapping):
            inner = flatten(value, f"{name}." if name else "", depth + 1)
        else:
            inner = {name: value}
        if repeated := sorted(inner.keys() & flat.keys()):
            raise ValueError(
                f"two tensors have the name {repeated[0]} once wrappers are taken off; leave one of them out of the checkpoint"
            )
        flat |= inner
    return flat


def choose_part(flat: dict[str, Any], part: str | None) -> dict[str, Any]:
    """Return the state dict under the prefix `part`, or the only one there is; its names without the prefix.

    Raises ValueError if there are several and none is chosen, and for a part that does not exist.
    """
    parts = [name.removesuffix(FIRST).removesuffix(".") for name in flat if name.endswith(FIRST)]
    if part is None:
        if len(parts) > 1:
            raise ValueError(
                f"the checkpoint holds several models: {', '.join(map(repr, sorted(parts)))}; choose one with part "
                "(--part on the command line)"
            )
        part = parts[0] if parts else ""
    elif part not in parts:
        names = ", ".join(map(repr, sorted(parts))) or "none"
        raise ValueError(f"part was {part!r}; models in the checkpoint are: {names}")
    if not part:
        other_parts = tuple(f"{other}." for other in parts if other)
        return {name: value for name, value in flat.items() if not name.startswith(other_parts)}
    return {name.removeprefix(f"{part}."): value for name, value in flat.items() if name.startswith(f"{part}.")}


def _plain(name: str) -> str:
    """Return a name without the additions of DDP ("module") and of the wrappers in `WRAPPERS`."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS | {"module"})
