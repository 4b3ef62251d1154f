"""Run specs: what is refused before anything starts, which runs a spec stands for, and what a smoke run may change."""

import ast
import json
from pathlib import Path

import nbformat
import pytest
import toys
import yaml
from typer.testing import CliRunner

from labcore.campaigns.parameters import SIZE, check_parameters, code_cells, read_parameters
from labcore.campaigns.spec import load_spec, resolve, run_id
from labcore.cli.app import app
from labcore.runs.configure import as_named

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SPECS = sorted((ROOT / "papermill_runs" / "specs").glob("*.yaml"))

pytestmark = pytest.mark.usefixtures("as_users_run")


@pytest.fixture
def toy(tmp_path):
    """The path of a toy notebook."""
    toys.project(tmp_path)
    return tmp_path / "notebooks" / "toy.ipynb"


def write(folder: Path, parameters: str | None, *cells: str) -> Path:
    path = folder / "some.ipynb"
    nbformat.write(toys.notebook(*cells, parameters=parameters), path)
    return path


def test_parameters_are_read_with_type_default_and_comment(toy):
    found = read_parameters(toy)
    assert list(found) == ["smoke", "seed", "run_dir", "steps", "scale", "name", "sites"]
    assert found["steps"] == ("steps", 12, "int", "how far it counts", "size")
    assert found["scale"].mark is None
    assert found["name"].annotation == "str | None"
    assert found["sites"].default == (1, 2)


def test_what_papermill_overlooks_is_seen(tmp_path):
    path = write(
        tmp_path, 'a: "str | None" = None\nb = "x=y"  # =\nc: Literal["p", "q"] = "p"\nd: Optional[int] = None\n"doc"'
    )
    found = read_parameters(path)
    assert list(found) == ["a", "b", "c", "d"]
    assert found["d"].kinds == {"int", "None"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no notebook .*some.ipynb"),
        ("no json", "is not a notebook"),
        ("[1]", "is not a notebook"),
        ('{"cells": 3}', "is not a notebook"),
        ('{"cells": []}', "0 code cells tagged parameters"),
    ],
)
def test_no_notebook(tmp_path, content, message):
    path = tmp_path / "some.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_parameters(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "0 code cells tagged parameters"),
        ("a = str(1)", "'a = str\\(1\\)', which is not a literal"),
        ("a, b = 1, 2", "it may only give names a value"),
        ("import os", "it may only give names a value"),
        ("a = = 1", "is not Python"),
        (
            "a = 1  # images [sise]",
            r"the comment on a in some.ipynb ends with \[sise\]; the marks are \[size\], \[path\], \[name or path\]",
        ),
    ],
)
def test_no_parameters(tmp_path, source, message):
    with pytest.raises(ValueError, match=message):
        read_parameters(write(tmp_path, source, "1"))


def test_two_parameter_cells(tmp_path):
    notebook = toys.notebook("b = 1", parameters="a = 1")
    notebook.cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, tmp_path / "two.ipynb")
    with pytest.raises(ValueError, match="2 code cells tagged parameters"):
        read_parameters(tmp_path / "two.ipynb")


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 3},
        {"scale": 2},
        {"scale": 2.5},
        {"name": "x"},
        {"name": None},
        {"smoke": True},
        {"sites": [1, 2, 3]},
        {},
    ],
)
def test_values_that_fit(toy, values):
    check_parameters(toy, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, r"no parameter 'step' \(did you mean 'steps'\?\); it has smoke, seed, run_dir, steps"),
        ({"zzz": 3}, "no parameter 'zzz'; it has smoke"),
        ({"steps": 3.5}, "steps was given 3.5; it takes int, like its default 12"),
        ({"steps": True}, "steps was given True; it takes int"),
        ({"steps": None}, "steps was given None"),
        ({"smoke": 1}, "smoke was given 1; it takes bool"),
        ({"scale": "1e-4"}, "write 1e-4 without quotes"),
        ({"scale": "2E3"}, "write 2E3 without quotes"),
        ({"scale": "2.5"}, "write 2.5 without quotes"),
        ({"scale": "fast"}, "it takes float"),
        ({"scale": float("nan")}, "finite"),
        ({"name": 3}, r"it takes str \| None"),
        ({"sites": 3}, "it takes tuple"),
    ],
)
def test_values_that_do_not_fit(toy, values, message):
    with pytest.raises(ValueError, match=message):
        check_parameters(toy, values)


def test_rows_seeds_and_ids(tmp_path):
    path = toys.project(tmp_path, rows={"one": {}, "two (ours)": {"scale": 2}}, seeds=[0, 3])
    runs = resolve(load_spec(path))
    assert [(run.row, run.seed) for run in runs] == [("one", 0), ("two (ours)", 0), ("one", 3), ("two (ours)", 3)]
    assert runs[1].parameters == {
        "smoke": False, "seed": 0, "steps": 6, "scale": 2.0, "name": None, "sites": [1, 2]
    }  # fmt: skip
    assert runs[1].changed == {"steps": 6, "scale": 2.0, "seed": 0}
    assert runs[1].folder(Path("x")).as_posix() == f"x/toy/two-ours-seed0-{runs[1].id}"
    assert len({run.id for run in runs}) == 4
    assert [run.row for run in resolve(load_spec(path), only=["one"])] == ["one", "one"]


def test_id_is_a_hash_of_name_and_parameters():
    assert run_id(Path("a/toy.ipynb"), {"b": 1, "a": 2.0}) == run_id(
        Path("toy.ipynb"), {"a": 2.0, "b": 1, "run_dir": "x"}
    )
    assert run_id(Path("toy.ipynb"), {"b": 1}) == "3221c786d7"
    assert run_id(Path("toy.ipynb"), {"b": 2}) != run_id(Path("toy.ipynb"), {"b": 1})


def test_grid(tmp_path):
    path = toys.project(tmp_path, grid={"scale": [1.0, 2.0], "name": ["x", None]})
    rows = ["scale=1.0,name=x", "scale=1.0,name=null", "scale=2.0,name=x", "scale=2.0,name=null"]
    assert [run.row for run in resolve(load_spec(path))] == rows


def test_smoke(tmp_path):
    path = toys.project(tmp_path, rows={"one": {"steps": 9}}, smoke={"steps": 2})
    (run,) = resolve(load_spec(path), smoke=True)
    assert run.parameters["smoke"] is True
    assert run.parameters["steps"] == 2
    assert "toy-smoke" in str(run.folder(tmp_path))


def test_precision_goes_where_there_is_such_a_parameter(tmp_path):
    path = toys.project(tmp_path, precision="auto")
    assert "precision" not in resolve(load_spec(path))[0].parameters
    nbformat.write(
        toys.notebook("1", parameters=toys.PARAMETERS + "precision = 'auto'\nprocesses = 1"),
        tmp_path / "notebooks" / "toy.ipynb",
    )
    path.write_text(yaml.safe_dump({**toys.SPEC, "precision": "bf16"}))
    assert resolve(load_spec(path))[0].parameters["precision"] == "bf16"
    assert resolve(load_spec(path))[0].parameters["processes"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(notebok="x"), r"unknown key 'notebok' \(did you mean 'notebook'\?\)"),
        (dict(notebook="nowhere.ipynb"), "neither .*nowhere.ipynb exists"),
        (dict(parameters={"stps": 3}), r"no parameter 'stps' \(did you mean 'steps'\?\)"),
        (dict(parameters={"scale": "1.5"}), "write 1.5 without quotes"),
        (dict(rows={"a": {"steps": "many"}}), "steps was given 'many'"),
        (dict(rows={"a": {}, "b": {}}), "a-seed0 and b-seed0 have the same parameters"),
        (dict(rows={"a": {}}, grid={"scale": [1.0]}), "rows or a grid, not both"),
        (dict(grid={"scale": []}), "no values"),
        (dict(seeds=[1, 1]), r"seeds contain duplicates: \[1, 1\]"),
        (dict(seeds=[]), "at least 1 item"),
        (dict(seeds=["0"]), "valid integer"),
        (dict(parameters={"seed": 1}), "list it under seeds"),
        (dict(parameters={"run_dir": "x"}), "a run's folder is chosen"),
        (
            dict(smoke={"scale": 0.5}),
            r"smoke changes scale; .*which toy.ipynb marks \[size\] in its parameters cell: steps",
        ),
        (dict(smoke={"width": 3}), "no parameter 'width'"),
        (dict(precision="bf16"), "precision to 'bf16', and toy.ipynb has no such parameter"),
        (dict(processes=2), "processes to 2, and toy.ipynb has no such parameter"),
        (dict(precision="fp8"), "'auto', 'fp32', 'bf16' or 'fp16'"),
        (dict(timeout=-1.0), "greater than 0"),
        (dict(expected={}), "cost"),
        (dict(expected={"cost": "x", "numbers": {"a": [2, 1]}}), r"\[low, high\]"),
        (dict(table={"columns": {}, "better": {"x": "higher"}}), "better names"),
        (dict(table={"baseline": "x"}), "baseline is 'x'; the rows are default"),
        (dict(parameters={"name": "2026-01-01"}, rows={"a": {"sites": {"x": 1}}}), "it takes tuple"),
    ],
)
def test_refused(tmp_path, changes, message):
    path = toys.project(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        resolve(load_spec(path))


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("1e1", 10.0), ("2E3", 2000.0), ("1_000.0", 1000.0)])
def test_numbers_in_powers_of_ten_are_numbers(tmp_path, text, value):
    path = toys.project(tmp_path)
    path.write_text(path.read_text().replace("steps: 6", f"scale: {text}"))
    assert resolve(load_spec(path))[0].parameters["scale"] == value


def test_a_number_in_quotes_is_text_and_is_told_so(tmp_path):
    path = toys.project(tmp_path)
    path.write_text(path.read_text().replace("steps: 6", "scale: '1e-4'"))
    with pytest.raises(ValueError, match=r"scale was given '1e-4'; .*write 1e-4 without quotes"):
        resolve(load_spec(path))


def test_names_of_specs(tmp_path, monkeypatch):
    toys.project(tmp_path)
    monkeypatch.chdir(tmp_path / "notebooks")
    assert load_spec("toy").about == "counts to a number"
    with pytest.raises(ValueError, match=r"no run spec 'toi' \(did you mean 'toy'\?\)"):
        load_spec("toi")
    with pytest.raises(ValueError, match=r"there is no run spec missing\.yaml"):
        load_spec("missing.yaml")
    for text in ("a: [", "- 1"):
        Path("bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.yaml"):
            load_spec("bad.yaml")


def test_unknown_row(tmp_path):
    with pytest.raises(ValueError, match=r"no row 'on' \(did you mean 'one'\?\); it has one, two"):
        resolve(load_spec(toys.project(tmp_path, rows={"one": {}, "two": {"scale": 2.0}})), only=["on"])


def test_a_wrong_spec_is_one_message_and_nothing_starts(tmp_path):
    path = toys.project(tmp_path, parameters={"scale": "1.5"})
    result = CliRunner().invoke(app, ["run", str(path)])
    assert result.exit_code == 2
    assert "write 1.5 without quotes" in result.output
    assert "Traceback" not in result.output
    result = CliRunner().invoke(app, ["run", str(toys.project(tmp_path, seeds="x"))])
    assert result.exit_code == 2
    assert "seeds" in result.output
    assert not (tmp_path / "papermill_runs" / "executed").exists()


# the specs and notebooks of this repository


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_committed_specs_resolve(path):
    spec = load_spec(path)
    full, smoke = resolve(spec), resolve(spec, smoke=True)
    full = [run for run in full if run.seed == spec.seeds[0]]
    for a, b in zip(full, smoke, strict=True):
        touched = {name for name in a.parameters if a.parameters[name] != b.parameters[name]}
        assert touched <= {"smoke", *sizes(spec.notebook_path())}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_a_spec(path):
    runs_it = [spec for spec in SPECS if load_spec(spec).notebook_path() == path.resolve()]
    assert runs_it, f"write papermill_runs/specs/{path.stem}.yaml"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_smoke_changes_only_counts_and_sizes(path):
    assert assigned_under_smoke(code_cells(path)) <= sizes(path)


def sizes(notebook: Path) -> set[str]:
    """Parameters that a notebook marks as counts and sizes."""
    return {name for name, parameter in read_parameters(notebook).items() if parameter.mark == SIZE}


def assigned_under_smoke(sources: list[str]) -> set[str]:
    """Names that cells assign inside `if smoke:`."""
    names = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.If) and any(
                isinstance(n, ast.Name) and n.id == "smoke" for n in ast.walk(node.test)
            ):
                inside = (n for statement in node.body for n in ast.walk(statement))
                names |= {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


def test_what_smoke_assigns_is_seen(toy):
    assert assigned_under_smoke(code_cells(toy)) == {"steps"}
    assert assigned_under_smoke(["if smoke:\n    a, (b, c) = 1, (2, 3)\n    for d in (1,): e: int = 2"]) == set("abcde")


def test_dry_run(tmp_path):
    result = CliRunner().invoke(app, ["run", str(toys.project(tmp_path, seeds=[0, 1])), "--dry-run"])
    assert result.exit_code == 0
    first = resolve(load_spec(tmp_path / "papermill_runs" / "specs" / "toy.yaml"))[0]
    assert f"{first.id}  start    default-seed0  steps=6 seed=0" in result.output
    assert not (tmp_path / "papermill_runs" / "executed").exists()


def test_specs_are_json_at_heart(tmp_path):
    for run in resolve(load_spec(toys.project(tmp_path))):
        assert json.loads(json.dumps(run.parameters)) == run.parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {a: {scale: 1.0}, a: {scale: 2.0}}", "'a' is there twice"),
        ("grid: {scale: [1.0, 1.0]}", "a value twice"),
        ("seeds: [-1]", "allowed are 0 to 4294967295"),
        ("seeds: [100000000000000]", "allowed are 0 to 4294967295"),
        ('rows: {"..": {}}', "a name is one line"),
        ('rows: {"a\\nb": {}}', "a name is one line"),
    ],
)
def test_what_yaml_or_a_folder_would_swallow(tmp_path, text, message):
    path = toys.project(tmp_path)
    kept = [line for line in path.read_text().splitlines() if not line.startswith("seeds")]
    path.write_text("\n".join([*kept, text]))
    with pytest.raises(ValueError, match=message):
        resolve(load_spec(path))


def test_code_is_known_by_its_cells_and_not_by_text_or_parameters(tmp_path):
    import nbformat

    from labcore.campaigns.parameters import code_hash

    path = tmp_path / "toy.ipynb"
    made = toys.notebook("a = 1", "b = 2")
    nbformat.write(made, path)
    first = code_hash(path)
    made.cells.insert(0, nbformat.v4.new_markdown_cell("# words"))
    made.cells[1].source += "\nsteps = 13  # another default"
    made.cells.append(nbformat.v4.new_code_cell("look()", metadata={"tags": ["explore"]}))
    nbformat.write(made, path)
    assert code_hash(path) == first
    made.cells[-2].source = "b = 3"
    nbformat.write(made, path)
    assert code_hash(path) != first


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_specs_numbers_are_in_its_records(path):
    """Every column is a path that some row has, in all of its seeds: a baseline has no alignment. Expected numbers are in each.

    Where a record holds several results, a column is a path into these, and not all of them have every number.
    """
    from labcore.campaigns.results import published
    from labcore.campaigns.tables import exploded, metric

    spec, found = load_spec(path), published(path.stem)
    if found is None:
        pytest.skip("nothing published yet")
    records = exploded(found.records, spec.table.each) if spec.table.each is not None else found.records
    for name in spec.table.columns.values():
        rows = {(record["row"], metric(record["metrics"], name) is not None) for record in records}
        assert len(rows) == len(dict(rows)) and any(dict(rows).values()), name
    for name in spec.expected.numbers:
        assert all(metric(record["metrics"], name) is not None for record in found.records), name


def test_rows_without_classes_are_of_the_downsampled_pictures():
    for run in resolve(load_spec("tarflow")):
        classes = as_named(run.parameters["preset"])[0].model.num_classes
        assert ("downsampled" in run.parameters["data_path"]) is (classes == 0)
