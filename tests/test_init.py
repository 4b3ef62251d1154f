"""`lab init`, and what an installed labcore needs outside of a checkout: package data, projects, the version."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import labcore
from labcore.campaigns import project
from labcore.campaigns.claims import load_claims
from labcore.campaigns.spec import load_spec, resolve
from labcore.cli import demo
from labcore.cli.app import app
from labcore.cli.init import STARTER, starter_files, write_project
from labcore.cli.listing import list_runs

ROOT = Path(labcore.__file__).resolve().parents[1]


@pytest.fixture
def installed(monkeypatch):
    """As if labcore were installed from a wheel: its folder is no checkout."""
    monkeypatch.setattr(project, "ROOT", Path(labcore.__file__).parent)


@pytest.fixture
def made(tmp_path, monkeypatch, installed):
    """A folder made by `lab init`, which is the current one."""
    folder = tmp_path / "lab"
    write_project(folder)
    monkeypatch.chdir(folder)
    return folder


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.findall(r"^## (\d+\.\d+\.\d+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert labcore.__version__ == str(citation["version"]) == released[0]
    assert released == sorted(released, key=lambda version: [*map(int, version.split("."))], reverse=True)
    assert "version" in built["project"]["dynamic"]
    assert built["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "labcore.__version__"}


def test_init_writes_all_notebooks_and_specs(made):
    for kind in ("notebooks/*.ipynb", "papermill_runs/specs/*.yaml", "papermill_runs/claims/*.yaml"):
        names = {path.name for path in ROOT.glob(kind)}
        assert names and names == {path.name for path in made.glob(kind)}
    assert (made / "papermill_runs" / "profiles" / "slurm.yaml").is_file()
    assert not [path for path in made.rglob("*") if path.is_symlink()]


def test_the_wheel_has_what_init_copies():
    """The patterns of pyproject.toml; wheels are built with what they find."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["labcore"]
    packed = {path for pattern in patterns if pattern.startswith("starter/") for path in STARTER.parent.glob(pattern)}
    assert packed == {STARTER / file for file in starter_files()}


def test_every_spec_fits_in_a_new_folder(made):
    for path in (made / "papermill_runs" / "specs").glob("*.yaml"):
        spec = load_spec(path.stem)
        assert spec.path == path
        assert spec.notebook_path().is_relative_to(made)
    assert resolve(load_spec("00_quickstart"), smoke=True)
    assert load_claims("01_alignment_strategies").claims


def test_links_lead_somewhere_in_a_new_folder(made):
    texts = {path: path.read_text() for path in made.rglob("*.md")}
    for path in (made / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = [(path, link) for path, text in texts.items() for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    assert len(links) > 5
    assert [f"{path.name}: {link}" for path, link in links if not (path.parent / link).exists()] == []


def test_init_refuses_what_is_there(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    for folder, said in (
        (tmp_path, "which is not empty; give a new or empty folder"),
        (tmp_path / "kept.txt", "a file"),
    ):
        result = CliRunner().invoke(app, ["init", str(folder)])
        assert result.exit_code == 2
        assert said in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_init_says_what_to_do_next(tmp_path):
    result = CliRunner().invoke(app, ["init", str(tmp_path / "new")])
    assert result.exit_code == 0, result.stderr
    assert f"try  cd {tmp_path / 'new'} && lab run 00_quickstart --smoke" in result.stdout


def test_a_package_without_notebooks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("labcore.cli.init.STARTER", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no notebooks; install labcore again"):
        write_project(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_outside_of_every_project(tmp_path, monkeypatch, installed, capsys):
    monkeypatch.chdir(tmp_path)
    assert project.project() is None
    with pytest.raises(ValueError, match="`lab init FOLDER` makes a folder with all specs"):
        load_spec("00_quickstart")
    with pytest.raises(ValueError, match="there are no such runs"):
        list_runs(None, None, (), (), None)
    assert demo.main([]) == 1
    assert "`lab init FOLDER` made" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_checkout_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project.project() == ROOT
    assert load_spec("00_quickstart").path == ROOT / "papermill_runs" / "specs" / "00_quickstart.yaml"
