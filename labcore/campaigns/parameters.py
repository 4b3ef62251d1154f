"""Parameters of a notebook: read from its cell tagged `parameters` without running it, and values checked against them.

A comment may end with a mark, which says how a campaign may treat the parameter:

    steps = 700  # optimizer steps [size]              a count or a size: a smoke run may change it, and nothing else
    data_path = None  # a folder of images [path]      a path: a relative one becomes absolute before the run starts
    flow = "small"  # a trained flow [name or path]    the same; but one word that is a folder is a name, and ./word the folder

papermill's own inspection is a regular expression that overlooks half of Python's syntax, and it passes unknown parameters
on with a warning. This module parses the cell and rejects everything that does not fit before a run starts.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import math
import re
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from labcore.hints import nearest
from labcore.jsonfile import read_json

KINDS = {"bool": bool, "int": int, "float": float, "str": str, "list": list, "tuple": tuple, "dict": dict, "None": None}
"""Annotations that are checked; any other annotation accepts every value."""

EXPLORE = "explore"
"""The tag of cells that only show something."""

SIZE, PATH, NAME_OR_PATH = MARKS = ("size", "path", "name or path")
MARK = re.compile(r"\s*\[([a-z]+(?: [a-z]+)*)\]$")
"""A mark at the end of a parameter's comment."""


class Parameter(NamedTuple):
    """One parameter: its default, its type ("int", "str | None", ...), its comment, and the mark that ended the comment."""

    name: str
    default: Any
    annotation: str
    comment: str
    mark: Literal["size", "path", "name or path"] | None = None

    @property
    def kinds(self) -> set[str]:
        """Names of the types that a value may have; {"Any"} if there is only the default None."""
        return {part.strip().split("[")[0] for part in self.annotation.split("|")}


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Read the parameters by name, in the order of the cell.

    Raises ValueError if the file is no notebook, or if it does not have exactly one such cell of literals.
    """
    return _parse(_tagged_cell(notebook), notebook)


def code_cells(notebook: Path) -> list[str]:
    """Return the sources of a notebook's code cells."""
    return [_source(cell) for cell in _cells(notebook) if cell.get("cell_type") == "code"]


def check_parameters(notebook: Path, values: Mapping[str, Any], known: dict[str, Parameter] | None = None) -> None:
    """Check the names and types of values. Raises ValueError for an unknown name and for a value of another type."""
    known = read_parameters(notebook) if known is None else known
    for name, value in values.items():
        if name not in known:
            raise ValueError(
                f"{notebook.name} has no parameter {name!r}{nearest(str(name), known)}; it has {', '.join(known)}"
            )
        if problem := _mismatch(known[name], value):
            raise ValueError(f"{notebook.name}: {name} was given {value!r}; {problem}")


def code_hash(notebook: Path) -> str:
    """Hash a notebook's code, 16 hex digits: together with labcore's revision it says what a run executed.

    The parameters cell is left out, and so are the cells tagged "explore": they only show something, and no recorded number
    comes from them.
    """
    sources = [
        _source(cell).strip()
        for cell in _cells(notebook)
        if cell.get("cell_type") == "code" and not {"parameters", EXPLORE} & set(_tags(cell))
    ]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def _mismatch(parameter: Parameter, value: Any) -> str | None:
    """Say why a value does not fit, and what to do; None if it fits."""
    kinds = parameter.kinds
    if "Any" in kinds or not kinds <= KINDS.keys():
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "it must be finite"
    if isinstance(value, str) and _numeric_only(kinds) and _is_finite_number(value):
        return f"that is text; write {value} without quotes"
    if _has_type(value, kinds):
        return None
    return f"it takes {parameter.annotation}, like its default {parameter.default!r}"


def _has_type(value: Any, kinds: set[str]) -> bool:
    """Whether a value is of one of these types. An int is also a float, a list also a tuple, but a bool is no int."""
    if value is None:
        return "None" in kinds
    if isinstance(value, bool):
        return "bool" in kinds
    if isinstance(value, int) and "float" in kinds:
        return True
    if isinstance(value, list) and "tuple" in kinds:
        return True
    return isinstance(value, tuple(KINDS[kind] for kind in kinds if kind != "None"))


def _numeric_only(kinds: set[str]) -> bool:
    return "str" not in kinds and bool(kinds & {"float", "int"})


def _is_finite_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _cells(notebook: Path) -> list[dict[str, Any]]:
    if not notebook.is_file():
        raise ValueError(f"there is no notebook {notebook}; give the path of an .ipynb file")
    try:
        content = read_json(notebook)
        cells = content["cells"]
        if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{notebook} is not a notebook (JSON with cells, format 4); open and save it in Jupyter"
        ) from None
    return cells


def _tags(cell: dict[str, Any]) -> list[str]:
    return (cell.get("metadata") or {}).get("tags") or []


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source") or ""
    return source if isinstance(source, str) else "".join(source)


def _tagged_cell(notebook: Path) -> str:
    tagged = [cell for cell in _cells(notebook) if cell.get("cell_type") == "code" and "parameters" in _tags(cell)]
    if len(tagged) != 1:
        raise ValueError(
            f"{notebook.name} has {len(tagged)} code cells tagged parameters; a notebook that is run needs exactly one "
            "(in JupyterLab: the gears at the upper right, Cell Tags)"
        )
    return _source(tagged[0])


def _parse(source: str, notebook: Path) -> dict[str, Parameter]:
    """Read the assignments of a parameters cell. Raises ValueError for any other statement."""
    try:
        statements = ast.parse(source).body
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"the parameters cell of {notebook.name} is not Python ({error}); correct it") from None
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found = {}
    for statement in statements:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a text that explains
        name = _assigned_name(statement, notebook)
        default = _default(name, statement, notebook)
        comment, mark = _split_mark(name, comments.get(statement.end_lineno, ""), notebook)
        found[name] = Parameter(name, default, _annotation(statement, default), comment, mark)
    return found


def _assigned_name(statement: ast.stmt, notebook: Path) -> str:
    """Return the name that a statement assigns. Raises ValueError if it does anything else."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
        return target.id
    raise ValueError(
        f"the parameters cell of {notebook.name} has {ast.unparse(statement)!r}; "
        "it may only give names a value: move everything else to another cell"
    )


def _default(name: str, statement: Any, notebook: Path) -> Any:
    try:
        return ast.literal_eval(statement.value)
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f"the default of {name} in {notebook.name} is {ast.unparse(statement)!r}, which is not a literal; "
            "write a number, a text, True, None or a list of them, and compute in a later cell"
        ) from None


def _split_mark(name: str, comment: str, notebook: Path) -> tuple[str, Any]:
    """Split a comment into its text and its mark, None if there is no mark. Raises ValueError for an unknown mark."""
    match = MARK.search(comment)
    if match is None:
        return comment, None
    if match[1] not in MARKS:
        raise ValueError(
            f"the comment on {name} in {notebook.name} ends with [{match[1]}]; the marks are "
            f"{', '.join(f'[{mark}]' for mark in MARKS)}: correct it, or write other words last"
        )
    return comment[: match.start()], match[1]


def _annotation(statement: ast.stmt, default: Any) -> str:
    """Return the annotation as written, else the type of the default. Any value fits a default None without annotation."""
    if isinstance(statement, ast.AnnAssign):
        text = statement.annotation.value if isinstance(statement.annotation, ast.Constant) else None
        text = text if isinstance(text, str) else ast.unparse(statement.annotation)
        optional = text.startswith("Optional[")
        return f"{text.removeprefix('Optional[').removesuffix(']')} | None" if optional else text
    return "Any" if default is None else type(default).__name__
