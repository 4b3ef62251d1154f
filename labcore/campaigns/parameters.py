"""The parameters of a notebook, read from its cell tagged `parameters` without running it, and the check of values for them.

papermill's own inspection is a regular expression that overlooks half of what Python can say, and what it does not know it
passes on with a warning. Here the cell is parsed, and whatever does not fit is refused before anything starts.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import math
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from labcore.hints import nearest
from labcore.jsonfile import read_json

KINDS = {"bool": bool, "int": int, "float": float, "str": str, "list": list, "tuple": tuple, "dict": dict, "None": None}
"""Annotations that are checked; any other annotation accepts every value."""

EXPLORE = "explore"
"""The tag of cells that only show something."""


class Parameter(NamedTuple):
    """One parameter: its default, what it may be ("int", "str | None", ...), and the comment beside it."""

    name: str
    default: Any
    annotation: str
    comment: str

    @property
    def kinds(self) -> set[str]:
        """Names of the types that a value may have; {"Any"} where the default None says nothing more."""
        return {part.strip().split("[")[0] for part in self.annotation.split("|")}


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Name -> parameter, in the order of the cell. ValueError for what is no notebook, or has not one such cell of literals."""
    return _parse(_tagged_cell(notebook), notebook)


def code_cells(notebook: Path) -> list[str]:
    """Sources of a notebook's code cells."""
    return [_source(cell) for cell in _cells(notebook) if cell.get("cell_type") == "code"]


def check_parameters(notebook: Path, values: Mapping[str, Any], known: dict[str, Parameter] | None = None) -> None:
    """ValueError for names that the notebook does not have and for values of another type than it takes."""
    known = read_parameters(notebook) if known is None else known
    for name, value in values.items():
        if name not in known:
            raise ValueError(
                f"{notebook.name} has no parameter {name!r}{nearest(str(name), known)}; it has {', '.join(known)}"
            )
        if problem := _mismatch(known[name], value):
            raise ValueError(f"{notebook.name}: {name} was given {value!r}; {problem}")


def code_hash(notebook: Path) -> str:
    """16 hex digits of a notebook's code: what a run did, besides labcore's own revision.

    Its parameters are left out, and the cells tagged "explore": they only show, and nothing that is recorded comes from them.
    """
    sources = [
        _source(cell).strip()
        for cell in _cells(notebook)
        if cell.get("cell_type") == "code" and not {"parameters", EXPLORE} & set(_tags(cell))
    ]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def _mismatch(parameter: Parameter, value: Any) -> str | None:
    """What is wrong with a value, and what to do; None where it fits."""
    kinds = parameter.kinds
    if kinds & {"Any"} or not kinds <= KINDS.keys():
        return None
    takes = f"it takes {parameter.annotation}, like its default {parameter.default!r}"
    if value is None:
        return None if "None" in kinds else takes
    if isinstance(value, bool):
        return None if "bool" in kinds else takes
    if isinstance(value, float) and not math.isfinite(value):
        return "it must be finite"
    if isinstance(value, int) and "float" in kinds:
        return None
    if isinstance(value, str) and "str" not in kinds and kinds & {"float", "int"}:
        return f"that is text; write {value} without quotes" if _is_finite_number(value) else takes
    if isinstance(value, list) and "tuple" in kinds:
        return None
    return None if isinstance(value, tuple(KINDS[kind] for kind in kinds if kind != "None")) else takes


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
    try:
        statements = ast.parse(source).body
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"the parameters cell of {notebook.name} is not Python ({error}); correct it") from None
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found = {}
    for statement in statements:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not isinstance(target, ast.Name):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # a text that explains
            raise ValueError(
                f"the parameters cell of {notebook.name} has {ast.unparse(statement)!r}; "
                "it may only give names a value: move everything else to another cell"
            )
        try:
            default = ast.literal_eval(statement.value)
        except (ValueError, TypeError, AttributeError):
            raise ValueError(
                f"the default of {target.id} in {notebook.name} is {ast.unparse(statement)!r}, which is not a literal; "
                "write a number, a text, True, None or a list of them, and compute in a later cell"
            ) from None
        found[target.id] = Parameter(
            target.id, default, _annotation(statement, default), comments.get(statement.end_lineno, "")
        )
    return found


def _annotation(statement: ast.stmt, default: Any) -> str:
    """The annotation as written, else the type of the default; a bare None says nothing, so that anything fits."""
    if isinstance(statement, ast.AnnAssign):
        text = statement.annotation.value if isinstance(statement.annotation, ast.Constant) else None
        text = text if isinstance(text, str) else ast.unparse(statement.annotation)
        optional = text.startswith("Optional[")
        return f"{text.removeprefix('Optional[').removesuffix(']')} | None" if optional else text
    return "Any" if default is None else type(default).__name__
