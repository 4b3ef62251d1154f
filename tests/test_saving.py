"""Saving in JupyterLab, as `make lab` starts it: git's notebooks stay clean, and nothing that was saved is lost."""

import asyncio
import subprocess
from pathlib import Path

import nbformat
import pytest

from labcore.cli.saving import FOLDER, TrackedNotebooks

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
OF_JUPYTER = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "version": "3.11.7"}


def git(folder, *words) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one notebook, as git has it."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / NOTEBOOKS[1].name).write_bytes(NOTEBOOKS[1].read_bytes())
    (tmp_path / ".gitignore").write_text(f"{FOLDER}/\n.ipynb_checkpoints/\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "a notebook")
    return tmp_path


def opened(manager, path):
    return asyncio.run(manager.get(path))


def run(model, text="a result"):
    """What JupyterLab does: outputs, counts, and the metadata of its kernel."""
    for number, cell in enumerate(model["content"]["cells"]):
        if cell["cell_type"] == "code":
            cell["outputs"] = [nbformat.v4.new_output("stream", text=text)]
            cell["execution_count"] = number
            cell["metadata"]["execution"] = {"shell.execute_reply": "now"}
    model["content"]["metadata"]["language_info"] = OF_JUPYTER
    model["content"]["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    return model


def outputs(model):
    return [cell["outputs"][0]["text"] for cell in model["content"]["cells"] if cell.get("outputs")]


def test_a_saved_notebook_is_clean_and_shows_its_results_again(checkout):
    manager, path = TrackedNotebooks(root_dir=str(checkout)), f"notebooks/{NOTEBOOKS[1].name}"
    model = run(opened(manager, path))
    asyncio.run(manager.save(model, path))
    assert git(checkout, "status", "--short") == ""
    again = opened(manager, path)
    codes = [cell for cell in again["content"]["cells"] if cell["cell_type"] == "code"]
    assert outputs(again) == ["a result"] * len(codes) and all(cell["metadata"]["trusted"] for cell in codes)
    assert "widgets" in again["content"]["metadata"]
    asyncio.run(manager.save(again, path))
    assert git(checkout, "status", "--short") == "" and outputs(opened(manager, path)) == outputs(again)


def test_a_changed_cell_is_saved_and_shows_no_old_result(checkout):
    manager, path = TrackedNotebooks(root_dir=str(checkout)), f"notebooks/{NOTEBOOKS[1].name}"
    model = run(opened(manager, path))
    asyncio.run(manager.save(model, path))
    file = checkout / path
    file.write_text(file.read_text().replace("smoke = False", "smoke = True", 1))  # as `git pull` does
    again = opened(manager, path)
    assert len(outputs(again)) == len(outputs(model)) - 1
    asyncio.run(manager.save(again, path))
    assert git(checkout, "diff", "--stat").count("| ") == 1 and '"a result"' not in file.read_text()


def test_copies_and_renamed_notebooks_keep_their_outputs(checkout):
    manager, path = TrackedNotebooks(root_dir=str(checkout)), f"notebooks/{NOTEBOOKS[1].name}"
    asyncio.run(manager.save(run(opened(manager, path)), path))
    copied = asyncio.run(manager.copy(path, "notebooks"))["path"]
    asyncio.run(manager.rename_file(path, "notebooks/mine.ipynb"))
    for name in (copied, "notebooks/mine.ipynb"):
        saved = nbformat.read(checkout / name, as_version=4)
        assert all(cell.outputs for cell in saved.cells if cell.cell_type == "code")


def test_without_git_notebooks_are_saved_as_usual(tmp_path):
    (tmp_path / "one.ipynb").write_bytes(NOTEBOOKS[0].read_bytes())
    manager = TrackedNotebooks(root_dir=str(tmp_path))
    asyncio.run(manager.save(run(opened(manager, "one.ipynb")), "one.ipynb"))
    assert "a result" in (tmp_path / "one.ipynb").read_text() and not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_written_as_jupyter_writes_them(path):
    """So that saving one changes nothing but what was edited; `make format` writes them so."""
    assert nbformat.writes(nbformat.read(path, as_version=4)) + "\n" == path.read_text()
