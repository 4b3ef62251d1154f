"""Reading of users' YAML: one safe loader with limits, for files and for values on the command line.

Numbers are read as in YAML 1.2 and Python: 1e-4 is a number, and 12:30:00 is text. Three things are errors: equal keys;
integers with a leading zero, whose value depends on the version of YAML (010 is 8 or 10); and aliases that expand to too many
values.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

MOST_CHARACTERS = 2**20
MOST_VALUES = 100_000
"""Largest number of values in a document after its aliases are expanded."""
MOST_DIGITS = 20
INT, FLOAT, MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "merge"))


def parse_yaml(text: str) -> Any:
    """Return the values in YAML text: dictionaries, lists, texts, numbers, dates, true, false and null.

    Raises ValueError for text that is not YAML, and for text outside the limits above.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text)} characters; YAML is read up to {MOST_CHARACTERS}")
    loader = None
    try:
        loader = _Loader(text)  # reads the first characters
        return loader.get_single_data()
    except RecursionError:
        raise ValueError("it is nested too deeply; write it with fewer levels") from None
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(str(error)) from None
    finally:
        if loader is not None:
            loader.dispose()


def parse_value(text: str) -> Any:
    """Read the VALUE of NAME=VALUE as YAML, in which a text such as #ff0000 is no comment. Raises as `parse_yaml`."""
    return text.strip() if text.strip().startswith("#") else parse_yaml(text)


def read_yaml(path: Path) -> Any:
    """Return the values in a YAML file in UTF-8. Raises OSError, or ValueError that names the file, if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_yaml(file.read(MOST_CHARACTERS + 1))
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ValueError(f"{path} is not YAML that can be read: {error}; correct it") from None


def dump_yaml(values: Any) -> str:
    """Return YAML text that `parse_yaml` reads as the same values; keys keep their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with errors for equal keys and too many aliases, which PyYAML accepts."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own name and kind)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (INT, FLOAT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES} values; write out what is meant")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in getattr(node, "value", ()):
            if key_node.tag == MERGE or not isinstance(key_node, yaml.ScalarNode):
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        digits = node.value.lstrip("+-").replace("_", "")
        if len(digits) > MOST_DIGITS:
            raise ValueError(f"an integer has {len(digits)} digits; at most {MOST_DIGITS} are allowed")
        if re.fullmatch(r"0[0-9]+", digits):
            raise ValueError(
                f"{node.value} is ambiguous (some readers of YAML take it as octal); write {digits.lstrip('0') or '0'}, "
                f'or "{node.value}" in quotes where it is text'
            )
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: Any) -> float:
        number = super().construct_yaml_float(node)
        if math.isinf(number) and "inf" not in node.value.lower():
            raise ValueError(f"{node.value[:40]} is too large for a number")
        return number

    def construct_yaml_timestamp(self, node: Any) -> Any:
        try:
            return super().construct_yaml_timestamp(node)
        except ValueError as error:
            raise ValueError(f"{node.value} is no date ({error}); put it in quotes where it is text") from None


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, with quotes around a text such as 1e5, which PyYAML writes without."""


_Loader.add_implicit_resolver(
    INT, re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
_Dumper.yaml_implicit_resolvers = {  # texts that either reader takes for something else are written in quotes
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()), *_Loader.yaml_implicit_resolvers.get(first, ())]
    for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | _Loader.yaml_implicit_resolvers.keys()
}
for _kind in ("int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", getattr(_Loader, f"construct_yaml_{_kind}"))


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, each as often as aliases repeat it."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # as long as it is counted: one that contains itself has no end
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]
