"""The notebooks keep their contract, and each runs at its smoke size through the path of the real run."""

import ast
import json
import re
import symtable
import sys
import tokenize
from io import StringIO
from pathlib import Path

import nbformat
import pytest
from in_turn import unless
from notebook_files import FOLDER, IN_BROWSER, NOTEBOOKS, check_result

from labcore.campaigns.parameters import EXPLORE
from labcore.cli import demo

LONGEST = 20  # lines of a code cell
ABSOLUTE = re.compile(
    r"""(?<![\w.:/<~])(/(home|root|tmp|mnt|data|work|usr|etc|opt|var|scratch|content|Users)/|~/|[A-Z]:\\)"""
)
DOWNLOADS = re.compile(
    r"\b(urllib|requests|wget|curl|urlretrieve|urlopen|hf_hub_download|snapshot_download|download)\b"
)
MAGIC = re.compile(r"^\s*[%!]", re.MULTILINE)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """What breaks the contract of a notebook, in words; an empty list for a good one."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("kernelspec is not python3")
    if set(notebook.metadata) - {"kernelspec", "language_info"}:
        found.append(f"metadata besides the kernelspec: {sorted(notebook.metadata)}")
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not re.match(r"# \S", first.source):
        found.append("the first cell is not markdown with a title")
    if notebook.cells[-1].cell_type != "code" or "result.json" not in code[-1].source:
        found.append("the last cell does not write result.json")
    if not any(cell.cell_type == "markdown" and "## Exercises" in cell.source for cell in notebook.cells):
        found.append("no exercises")
    asked = "".join(cell.source.partition("## Exercises")[2] for cell in notebook.cells if cell.cell_type == "markdown")
    if len(re.findall(r"^\d+\. ", asked, re.MULTILINE)) != asked.count("<details><summary>Hint"):
        found.append("exercises without a hint")
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        found.append("cells without an id of their own")
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        found.append(f"{len(tagged)} cells tagged parameters")
    else:
        found += [f"parameters: {what}" for what in parameter_problems(tagged[0].source)]
        if tagged[0] is not code[0]:
            found.append("the parameters cell is not the first code cell")
    for cell in code:
        found += [f"cell {cell.get('id')}: {what}" for what in cell_problems(cell)]
    return found + exploring_problems(code)


def exploring_problems(code: list[nbformat.NotebookNode]) -> list[str]:
    """Cells tagged explore are no part of what identifies a run, so no other cell may use what they assign."""
    explored, used, found = {}, set(), []
    for cell in code:
        if MAGIC.search(cell.source):
            continue
        nodes = list(ast.walk(ast.parse(cell.source)))
        if EXPLORE not in cell.metadata.get("tags", ()):
            used |= {node.id for node in nodes if isinstance(node, ast.Name)}
            continue
        if "raises-exception" not in cell.metadata.tags:
            found.append(f"cell {cell.get('id')}: not tagged raises-exception, so its failure would end a run")
        if not cell.metadata.get("jupyter", {}).get("source_hidden"):
            found.append(f"cell {cell.get('id')}: not folded; in JupyterLab, View, Collapse Selected Code")
        symbols = symtable.symtable(cell.source, "cell", "exec").get_symbols()
        own = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported() or s.is_namespace()}
        explored |= dict.fromkeys(own, cell.get("id"))
        stores = [n for n in nodes if isinstance(n, ast.Attribute | ast.Subscript) and isinstance(n.ctx, ast.Store)]
        named = [(n, next((m.id for m in ast.walk(n.value) if isinstance(m, ast.Name)), None)) for n in stores]
        inside = {name for _, name in named if name not in own and name not in _local_names(nodes)}
        found += [f"cell {cell.get('id')}: writes into {name!r}, which is not its own" for name in inside]
    clashes = [f"cell {explored[name]}: {name!r} is used or assigned elsewhere" for name in explored.keys() & used]
    return found + clashes


def _local_names(nodes: list[ast.AST]) -> set[str]:
    """Names assigned in the functions of a cell."""
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    names = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.Name)]
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def parameter_problems(source: str) -> list[str]:
    """Parameters are assignments of literals to names, each with a comment; smoke, seed and run_dir among them."""
    comments = {t.start[0] for t in tokenize.generate_tokens(StringIO(source).readline) if t.type == tokenize.COMMENT}
    found, values = [], {}
    for statement in ast.parse(source).body:
        text = ast.unparse(statement)
        targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not isinstance(targets[0], ast.Name):
            found.append(f"{text!r} is not an assignment to a name")
            continue
        try:
            values[targets[0].id] = ast.literal_eval(statement.value)
        except ValueError:
            found.append(f"{text!r} is not a literal")
        if statement.end_lineno not in comments:
            found.append(f"{text!r} has no comment")
    if missing := {"smoke", "seed", "run_dir"} - values.keys():
        found.append(f"no {sorted(missing)}")
    if values.get("smoke") is not False:
        found.append("smoke is not False")
    if Path(str(values.get("run_dir", ""))).is_absolute():
        found.append("run_dir is absolute")
    return found


def cell_problems(cell: nbformat.NotebookNode) -> list[str]:
    """What breaks the contract of a code cell."""
    found = []
    if cell.outputs or cell.execution_count is not None:
        found.append("has outputs; run `make format`")
    if len(cell.source.splitlines()) > LONGEST:
        found.append(f"{len(cell.source.splitlines())} lines, more than {LONGEST}")
    if match := ABSOLUTE.search(cell.source):
        found.append(f"absolute path at {match.group()!r}")
    if match := DOWNLOADS.search(cell.source):
        found.append(f"download: {match.group()!r}")
    if MAGIC.search(cell.source):
        return [*found, "magic or shell command"]
    nodes = list(ast.walk(ast.parse(cell.source)))
    if any(isinstance(node, ast.ClassDef) for node in nodes):
        found.append("defines a class")
    if any(isinstance(node, ast.Attribute) and node.attr == "backward" for node in nodes):
        found.append("trains by hand")
    return found


@pytest.fixture
def own_kernel(tmp_path, monkeypatch):
    """A kernel python3 that is this interpreter, whatever kernels the machine has."""
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("LABCORE_HEADLESS", "1")


def test_there_are_notebooks():
    assert NOTEBOOKS


@every_notebook
def test_is_in_the_readme(path):
    assert f"]({path.name})" in (FOLDER / "README.md").read_text()


@every_notebook
def test_keeps_the_contract(path):
    assert problems(nbformat.read(path, as_version=4)) == []


BREAKS = {
    "outputs": lambda nb: code_cell(nb).outputs.append(nbformat.v4.new_output("stream", text="1")),
    "kernelspec": lambda nb: nb.metadata.pop("kernelspec"),
    "title": lambda nb: nb.cells[0].update(source="no title"),
    "result.json": lambda nb: nb.cells.append(nbformat.v4.new_code_cell("1 + 1", id="extra")),
    "is used or assigned elsewhere": lambda nb: nb.cells.insert(
        5, nbformat.v4.new_code_cell("smoke = True", id="extra", metadata={"tags": ["explore", "raises-exception"]})
    ),
    "not folded": lambda nb: nb.cells.insert(
        5, nbformat.v4.new_code_cell("a = 1", id="extra", metadata={"tags": ["explore", "raises-exception"]})
    ),
    "writes into 'record'": lambda nb: nb.cells.insert(
        5, nbformat.v4.new_code_cell("record['a'] = 1", id="extra", metadata={"tags": ["explore", "raises-exception"]})
    ),
    "'smoke' is used or assigned": lambda nb: nb.cells.insert(
        5,
        nbformat.v4.new_code_cell("def smoke(): pass", id="extra", metadata={"tags": ["explore", "raises-exception"]}),
    ),
    "0 cells tagged": lambda nb: parameters_cell(nb).metadata.pop("tags"),
    "2 cells tagged": lambda nb: code_cell(nb).metadata.update(tags=["parameters"]),
    "not a literal": lambda nb: add_line(parameters_cell(nb), "where = str(1)  # computed"),
    "has no comment": lambda nb: add_line(parameters_cell(nb), "extra = 1"),
    "no ['seed']": lambda nb: parameters_cell(nb).update(
        source=re.sub(r"^seed = ", "other = ", parameters_cell(nb).source, flags=re.MULTILINE)
    ),
    "more than 20": lambda nb: add_line(code_cell(nb), "1\n" * 21),
    "defines a class": lambda nb: add_line(code_cell(nb), "class A: pass"),
    "absolute path": lambda nb: add_line(code_cell(nb), 'open("/home/me/x")'),
    "trains by hand": lambda nb: add_line(code_cell(nb), "loss.backward()"),
    "magic": lambda nb: add_line(code_cell(nb), "%matplotlib inline"),
    "download": lambda nb: add_line(code_cell(nb), "import urllib.request"),
    "id of their own": lambda nb: nb.cells[1].update(id=nb.cells[2].id),
    "no exercises": lambda nb: nb.update(cells=[c for c in nb.cells if "## Exercises" not in c.source]),
}


@pytest.mark.parametrize("problem", BREAKS)
def test_a_broken_notebook_is_noticed(problem):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    BREAKS[problem](notebook)
    assert any(problem in found for found in problems(notebook))


@pytest.mark.slow
@pytest.mark.parametrize("path", unless(NOTEBOOKS, IN_BROWSER), ids=lambda path: path.stem)
def test_runs_at_smoke_size(path, tmp_path, own_kernel):
    import papermill

    papermill.execute_notebook(
        path,
        tmp_path / path.name,
        {"smoke": True, "run_dir": "run"},
        kernel_name="python3",
        progress_bar=False,
        cwd=tmp_path,
    )
    executed = nbformat.read(tmp_path / path.name, as_version=4)
    for cell in executed.cells:
        pictures = [output.data for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        assert all(re.match(r"[^<]{10}", picture["text/plain"]) for picture in pictures), "a picture without words"
        if EXPLORE in cell.metadata.get("tags", ()):
            shown = [output.data for output in cell.outputs if "data" in output]
            assert not any(output.output_type == "error" for output in cell.outputs), cell.outputs
            assert shown and all("image/png" in data and not any("widget" in kind for kind in data) for data in shown)
    printed = [
        line for cell in executed.cells for o in cell.get("outputs", []) for line in o.get("text", "").splitlines()
    ]
    assert not any(re.match(r"step \d+/\d+ ", line) for line in printed), "a training shows itself by a picture"
    check_result(tmp_path / "run" / "result.json")


def code_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Some code cell that is neither the parameters nor the last."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"][2]


def parameters_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    return next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))


def add_line(cell: nbformat.NotebookNode, line: str) -> None:
    cell.source += "\n" + line


def test_demo_folders_are_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.time, "strftime", lambda _: "now")
    assert [demo.new_folder(tmp_path / "demo").name for _ in range(3)] == ["now", "now-1", "now-2"]


@pytest.mark.slow
def test_demo_reports_a_failing_cell(tmp_path, monkeypatch, capsys):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [
        nbformat.v4.new_code_cell("smoke = False\nrun_dir = 'x'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('so far so good')\nraise ValueError(f'no such flow in {run_dir}')"),
    ]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "papermill_runs").mkdir()
    nbformat.write(notebook, tmp_path / demo.NOTEBOOK)
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--smoke"]) == 1
    said = capsys.readouterr()
    assert "so far so good" in said.out
    assert said.err.startswith("the demo failed: cell [3] raised ValueError: no such flow in run\n")
    (executed,) = (tmp_path / "outputs" / "demo").glob("*/00_quickstart.ipynb")
    assert str(executed.relative_to(tmp_path)) in said.err
