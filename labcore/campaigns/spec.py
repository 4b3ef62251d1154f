"""Run specs: a notebook, its parameters, rows and seeds in a YAML file, all of it checked before anything starts.

    notebook: notebooks/00_quickstart.ipynb       # relative to the folder that has papermill_runs/, or to the spec
    about: one line on what this shows
    parameters: {steps: 700}                      # for every run; the notebook's defaults for all others
    rows: {wide: {width: 128}, narrow: {width: 64}}      # or grid: {width: [64, 128]}, every combination is a row
    seeds: [0, 1, 2]                              # each row is run with each seed
    smoke: {steps: 10}                            # counts and sizes of `lab run --smoke`
    expected: {cost: 5 minutes on two cores, numbers: {accuracy: [0.80, 0.85]}}
    table: {columns: {accuracy: bayes.accuracy}, baseline: narrow, better: {accuracy: higher}}

A run is named by a hash of its notebook's name and all its parameters, so that the same run has the same name everywhere; a
path among them counts by its contents (`labcore.campaigns.named_paths`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from labcore.campaigns.named_paths import contents, located
from labcore.campaigns.parameters import SIZE, Parameter, check_parameters, code_hash, read_parameters
from labcore.campaigns.project import FOLDER, project_folders
from labcore.hints import nearest
from labcore.strict import Config
from labcore.yamlfile import read_yaml

SEEDS = 2**32  # seeds are below it
RESERVED = {
    "seed": "list it under seeds",
    "run_dir": "a run's folder is chosen for it",
    "smoke": "it is set by --smoke",
    "processes": "it is a key of the spec itself",
    "precision": "it is a key of the spec itself",
}
_STRICT = ConfigDict(strict=True)


class Expected(Config):
    """Measurements of the spec's author. cost: in words. numbers: dotted path into result.json -> value, or [low, high]."""

    model_config = _STRICT
    cost: str
    numbers: dict[str, float | list[float]] = Field(default={})


class TableSpec(Config):
    """The table of a campaign.

    Attributes:
        each: a key of result.json with several results by name. Each of these becomes a row, and columns are paths into it.
        columns: title -> dotted path into result.json.
        baseline: the row that all others are compared with.
        better: title -> "higher" or "lower".
    """

    model_config = _STRICT
    each: str | None = None
    columns: dict[str, str] = Field(default={})
    baseline: str | None = None
    better: dict[str, Literal["higher", "lower"]] = Field(default={})

    @model_validator(mode="after")
    def _titles(self) -> TableSpec:
        if unknown := self.better.keys() - self.columns.keys():
            raise ValueError(f"better names {sorted(unknown)}; the columns are {', '.join(self.columns) or 'none'}")
        return self


class RunSpec(Config):
    """A validated spec of a campaign, with the keys that the module describes, and these:

    Attributes:
        processes: devices of one training.
        precision: number format of the training.
        threads: OMP_NUM_THREADS of a run; None: an equal share of the cores.
        timeout: seconds that a cell may take; None: no limit.
        name: name of the spec, from its file.
        path: path of the spec's file.
    """

    model_config = _STRICT
    notebook: str
    about: str
    parameters: dict[str, Any] = Field(default={})
    rows: dict[str, dict[str, Any]] = Field(default={})
    grid: dict[str, list[Any]] = Field(default={})
    seeds: list[int] = Field(default=[0], min_length=1)
    processes: PositiveInt = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: PositiveInt | None = None
    timeout: PositiveFloat | None = None
    smoke: dict[str, Any] = Field(default={})
    expected: Expected
    table: TableSpec = TableSpec()
    name: str = ""
    path: Path = Path()

    @model_validator(mode="after")
    def _check(self) -> RunSpec:
        self._check_expected()
        self._check_seeds()
        self._check_rows()
        self._check_reserved()
        self._check_baseline()
        return self

    def _check_expected(self) -> None:
        for path, value in self.expected.numbers.items():
            if isinstance(value, list) and (len(value) != 2 or value[0] > value[1]):
                raise ValueError(f"expected {path} is {value}; write a number, or [low, high]")

    def _check_seeds(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds contain duplicates: {self.seeds}; give each once")
        if wrong := [seed for seed in self.seeds if not 0 <= seed < SEEDS]:
            raise ValueError(f"seeds contain {wrong}; allowed are 0 to {SEEDS - 1}")

    def _check_rows(self) -> None:
        if self.rows and self.grid:
            raise ValueError("a spec has rows or a grid, not both; write the grid's combinations as rows")
        if empty := [name for name, values in self.grid.items() if not values]:
            raise ValueError(f"grid gives {empty} no values; give at least one")
        if repeated := [name for name, values in self.grid.items() if _has_duplicates(values)]:
            raise ValueError(f"grid gives {repeated} a value twice; give each once")
        if wrong := [row for row in self.rows if not row.strip(" .") or not row.isprintable()]:
            raise ValueError(f"rows are named {wrong}; a name is one line of letters, digits and the like")

    def _check_reserved(self) -> None:
        for parameters in (self.parameters, self.grid, self.smoke, *self.rows.values()):
            for name in parameters.keys() & RESERVED.keys():
                raise ValueError(f"{name} cannot be among the parameters: {RESERVED[name]}")

    def _check_baseline(self) -> None:
        rows = self.row_parameters()
        if self.table.each is None and self.table.baseline not in (None, *rows):
            raise ValueError(f"baseline is {self.table.baseline!r}; the rows are {', '.join(rows)}")

    @property
    def project(self) -> Path:
        """The folder that has papermill_runs/, or else the spec's own."""
        return next((p.parent for p in self.path.parents if p.name == FOLDER), self.path.parent)

    @property
    def results(self) -> Path:
        """The folder of the published records and tables of this spec."""
        return self.project / FOLDER / "results" / self.name

    def notebook_path(self) -> Path:
        """Find the notebook: relative to the project, or else to the spec. Raises ValueError if neither exists."""
        places = [self.project / self.notebook, self.path.parent / self.notebook]
        for place in places:
            if place.is_file():
                return place.resolve()
        raise ValueError(f"{self.path.name} runs {self.notebook}, and neither {places[0]} nor {places[1]} exists")

    def row_parameters(self) -> dict[str, dict[str, Any]]:
        """Return the rows' own parameters by name; one row `default` if there are neither rows nor a grid."""
        if self.grid:
            rows = {}
            for values in itertools.product(*self.grid.values()):
                row = dict(zip(self.grid, values, strict=True))
                rows[",".join(f"{name}={_plain(value)}" for name, value in row.items())] = row
            return rows
        return self.rows or {"default": {}}


class Run(NamedTuple):
    """One run of a spec.

    parameters: all of them but run_dir. changed: those that the spec or the command line set, without the notebook's
    defaults. code: hash of the code in the notebook's other cells.
    """

    spec: str
    row: str
    seed: int
    parameters: dict[str, Any]
    id: str
    notebook: Path
    changed: dict[str, Any]
    smoke: bool = False
    timeout: float | None = None
    threads: int | None = None
    code: str | None = None
    contents: Mapping[str, str] = {}  # name of a parameter that is a path -> hash of its contents

    @property
    def name(self) -> str:
        """The name for people: row and seed."""
        return f"{self.row}-seed{self.seed}"

    def folder(self, root: Path) -> Path:
        """Return root/<spec>[-smoke]/<row>-seed<k>-<id>."""
        row = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", self.row)[:60].strip("-")
        return root / (self.spec + ("-smoke" if self.smoke else "")) / f"{row}-seed{self.seed}-{self.id}"


class Filled(NamedTuple):
    """All parameters of a run, its id, and the hashes of its paths' contents."""

    values: dict[str, Any]
    id: str
    contents: dict[str, str]


Digest = Callable[[Path], str]


def load_spec(name: str | Path) -> RunSpec:
    """Read a spec by path, or by name from papermill_runs/specs here, in a folder above, or in labcore's checkout.

    Raises ValueError (pydantic's for wrong keys and types) for a missing file and for contents that do not fit.
    """
    path = _find(name)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}; a run spec has keys: notebook, about, expected, ...")
    if given := {"name", "path"} & values.keys():
        raise ValueError(f"{path} sets {sorted(given)}; a spec is named by its file")
    if unknown := [key for key in values if key not in RunSpec.model_fields]:
        keys = {key: None for key in RunSpec.model_fields if key not in ("name", "path")}
        raise ValueError(
            f"{path.name} has an unknown key {unknown[0]!r}{nearest(str(unknown[0]), keys)}; a spec has {', '.join(keys)}"
        )
    return RunSpec(**values, name=path.stem, path=path.resolve())


def resolve(
    spec: RunSpec, smoke: bool = False, only: Sequence[str] = (), forced: Mapping[str, Any] | None = None
) -> list[Run]:
    """Make the runs of a spec, and check every parameter.

    The order is all rows with the first seed, then all rows with the next, so that a campaign that is stopped half-way can
    be compared. A smoke run takes the first seed only. only: rows to return; empty means all. forced: parameters of all
    runs, which override those of the spec.

    Raises ValueError for everything that does not fit.
    """
    forced = dict(forced or {})
    for name in forced.keys() & (RESERVED.keys() - {"processes", "precision"}):
        raise ValueError(f"{name} cannot be set here: {RESERVED[name]}")
    notebook = spec.notebook_path()
    known = read_parameters(notebook)
    _check_notebook(spec, notebook, known, smoke)
    _check_row_names(spec, only)

    shared = spec.parameters | _operational(spec, known, notebook)
    code = code_hash(notebook)
    digest = functools.cache(contents)  # each file or folder is read once for all runs
    runs = []
    for seed in spec.seeds[:1] if smoke else spec.seeds:
        for row, own in spec.row_parameters().items():
            changed = shared | own | forced | {"seed": seed}
            if smoke:
                changed |= spec.smoke | {"smoke": True}
            filled = _complete(spec, notebook, known, changed, digest)
            runs.append(
                Run(
                    spec=spec.name,
                    row=row,
                    seed=seed,
                    parameters=filled.values,
                    id=filled.id,
                    notebook=notebook,
                    changed={name: filled.values[name] for name in changed},
                    smoke=smoke,
                    timeout=spec.timeout,
                    threads=spec.threads,
                    code=code,
                    contents=filled.contents,
                )
            )
    _check_distinct(spec, runs)
    return [run for run in runs if not only or run.row in only]


def _check_notebook(spec: RunSpec, notebook: Path, known: dict[str, Parameter], smoke: bool) -> None:
    """Check that the notebook has the parameters that every run needs, and that the smoke block changes sizes only."""
    needed = {"seed", "run_dir", "smoke"} if smoke else {"seed", "run_dir"}
    if missing := needed - known.keys():
        raise ValueError(f"{notebook.name} has no parameters {sorted(missing)}; every notebook that is run needs them")
    check_parameters(notebook, spec.smoke, known)
    sizes = [name for name, parameter in known.items() if parameter.mark == SIZE]
    if others := sorted(spec.smoke.keys() - set(sizes)):
        raise ValueError(
            f"smoke changes {', '.join(others)}; it may change only counts and sizes, which {notebook.name} marks [{SIZE}] "
            f"in its parameters cell: {', '.join(sizes) or 'none'}"
        )


def _check_row_names(spec: RunSpec, only: Sequence[str]) -> None:
    rows = spec.row_parameters()
    for row in only:
        if row not in rows:
            raise ValueError(f"{spec.name} has no row {row!r}{nearest(row, rows)}; it has {', '.join(rows)}")


def _complete(
    spec: RunSpec, notebook: Path, known: dict[str, Parameter], changed: dict[str, Any], digest: Digest
) -> Filled:
    """Check the changed parameters, add the notebook's defaults, and find what names the run."""
    check_parameters(notebook, changed, known)
    defaults = {name: parameter.default for name, parameter in known.items() if name != "run_dir"}
    values = {name: _canonical(value, known[name]) for name, value in (defaults | changed).items()}
    in_id: dict[str, Any] = {}  # a path counts by its contents
    path_contents: dict[str, str] = {}
    for name, value in changed.items():
        place = located(known[name], value, spec.project)
        if place is not None:
            values[name] = str(place)
            path_contents[name] = digest(place)
            in_id[name] = {"contents": path_contents[name]}
    return Filled(values, run_id(notebook, values | in_id), path_contents)


def _check_distinct(spec: RunSpec, runs: Sequence[Run]) -> None:
    """Raises ValueError if two runs have the same parameters."""
    by_id: dict[str, Run] = {}
    for run in runs:
        if run.id in by_id:
            raise ValueError(
                f"{spec.name}: {by_id[run.id].name} and {run.name} have the same parameters; "
                "remove one of the rows, or give it a parameter that differs"
            )
        by_id[run.id] = run


def run_id(notebook: Path, parameters: dict[str, Any]) -> str:
    """Name a run by 10 hex digits: the sha256 of the notebook's name and its parameters without run_dir."""
    values = {name: value for name, value in parameters.items() if name != "run_dir"}
    text = json.dumps([notebook.name, values], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _operational(spec: RunSpec, known: dict[str, Parameter], notebook: Path) -> dict[str, Any]:
    """Return `processes` and `precision` if the spec sets them and the notebook has such parameters."""
    values = {}
    for name in {"processes", "precision"} & spec.model_fields_set:
        if name in known:
            values[name] = getattr(spec, name)
        elif getattr(spec, name) != RunSpec.model_fields[name].default:
            raise ValueError(
                f"{spec.name} sets {name} to {getattr(spec, name)!r}, and {notebook.name} has no such parameter; "
                f"remove {name} from the spec, or add it to the notebook's parameters"
            )
    return values


def _canonical(value: Any, parameter: Parameter) -> Any:
    """Return a value as JSON stores it: a list for a tuple, 1.0 for 1 if the parameter is a float.

    Raises ValueError for values that JSON does not have, such as dates.
    """
    try:
        if isinstance(value, int) and not isinstance(value, bool) and parameter.kinds <= {"float", "None"}:
            return float(value)
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{parameter.name} was given {value!r}; allowed are numbers, texts, true, false, null and lists or "
            "mappings of them: quote a date"
        ) from None


def _has_duplicates(values: list[Any]) -> bool:
    return any(values.count(value) > 1 for value in values)  # values may be lists, which have no hash


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _find(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ValueError(f"there is no run spec {path}; give the path of a .yaml file, or the name of one that exists")
    folders = [folder / "specs" for folder in project_folders()]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    found = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    if not found:
        raise ValueError(
            f"there is no run spec {str(name)!r}: no folder {FOLDER}/specs is here or above; `lab init FOLDER` makes a folder "
            "with all specs, start in that"
        )
    raise ValueError(
        f"there is no run spec {str(name)!r}{nearest(str(name), dict.fromkeys(found))}; there are {', '.join(found)}"
    )
