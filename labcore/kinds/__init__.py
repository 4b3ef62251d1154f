"""The kinds of training run: a flow's and a student's. Each has one class, which contains all differences between them.

`kind_of` returns the kind of a configuration, `kind_of_sections` that of a file or preset. All other code asks the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labcore.config import BaseRunConfig
from labcore.kinds.flow import FlowKind
from labcore.kinds.kind import Kind, Parts
from labcore.kinds.student import StudentKind

__all__ = ["FLOW", "KINDS", "STUDENT", "Kind", "Parts", "kind_of", "kind_of_sections"]

FLOW, STUDENT = FlowKind(), StudentKind()
KINDS: tuple[Kind, ...] = (FLOW, STUDENT)


def kind_of(config: BaseRunConfig) -> Kind:
    """Return the kind of a run's configuration."""
    return next(kind for kind in KINDS if type(config) is kind.config)


def kind_of_sections(values: Mapping[str, Any]) -> Kind:
    """Return the kind of a file or preset: one that has a key that no other kind has, else the kind of flows."""
    return next((kind for kind in reversed(KINDS) if kind.own_keys & values.keys()), FLOW)
