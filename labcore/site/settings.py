"""The settings of a run as Markdown: each field of a configuration with its type, default and meaning.

The meaning is the comment on the field's lines in `labcore/config`, or the string below the field.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Callable
from functools import partial
from typing import Any

from labcore import config
from labcore.markdown import table
from labcore.strict import Config

NAME = re.compile(r"\w+")
WORDS = {
    **dict.fromkeys(("Pixels", "Count", "Width", "PositiveInt"), "int"),
    "PositiveFloat": "float > 0",
    "NonNegativeFloat": "float >= 0",
    "None": "null",
}
"""Names in annotations -> the values that they allow."""


def settings(kind: type[Config]) -> str:
    """Write a table of the fields of a configuration, inherited ones first."""
    meanings: dict[str, str] = {}
    types: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if issubclass(each, Config) and each is not Config:
            for name, (annotation, meaning) in _fields(each).items():
                types[name], meanings[name] = annotation, meaning
    lines = [
        [f"`{name}`", f"`{types.get(name, '')}`", _default(field), meanings.get(name, "").replace("None:", "null:")]
        for name, field in kind.model_fields.items()
    ]
    return table(["setting", "type", "default", "meaning"], lines)


def _fields(kind: type[Config]) -> dict[str, tuple[str, str]]:
    """Return {name: (annotation, meaning)} of the fields that a class itself declares."""
    source = inspect.getsource(kind)
    comments = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    body = ast.parse(source).body[0].body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            meaning = " ".join(comments[n] for n in range(statement.lineno, statement.end_lineno + 1) if n in comments)
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                meaning = " ".join(str(after.value.value).split())
            found[statement.target.id] = (_short(statement.annotation), meaning)
    return found


def _short(annotation: ast.expr) -> str:
    """Shorten an annotation for readers: Annotated[int, ...] becomes int, and Literal["a", "b"] becomes "a", "b"."""
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        inner = annotation.slice
        if annotation.value.id == "Literal":
            values = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return ", ".join(ast.unparse(value).replace("'", '"') for value in values)
        if annotation.value.id == "Annotated" and isinstance(inner, ast.Tuple):
            return _short(inner.elts[0])
    if isinstance(annotation, ast.BinOp):
        return f"{_short(annotation.left)} or {_short(annotation.right)}"
    return NAME.sub(lambda found: WORDS.get(found[0], found[0]), ast.unparse(annotation))


def _default(field: Any) -> str:
    """Return the default as a user types it; "required" without one."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    words = {None: "null", True: "true", False: "false"}
    return f"`{words[value] if value is None or isinstance(value, bool) else value}`"


BLOCKS: dict[str, Callable[[], str]] = {
    "settings-flow": partial(settings, config.TarFlowConfig),
    "settings-student-model": partial(settings, config.BackwardConfig),
    "settings-data": partial(settings, config.DataConfig),
    "settings-train": partial(settings, config.TrainConfig),
    "settings-align": partial(settings, config.AlignConfig),
    "settings-student": partial(settings, config.StudentConfig),
}
