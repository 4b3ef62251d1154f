"""How `make lab` saves notebooks: git's files stay without outputs, and a notebook shows its results again when it is opened.

A notebook that git tracks is saved without outputs, so that `git status` lists it only if its text or code has changed. The
whole notebook, with outputs, widgets and metadata, is saved next to it in `.outputs/`, which git ignores. When the notebook is
opened, each cell whose source has not changed since then gets its outputs back. Any other notebook, such as a copy, is saved
as usual.

A git filter is no alternative: `git status` lists a file whose size has changed without asking the filter. Stripping outputs
alone would lose results.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import nbformat
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from labcore.files import write_atomic

FOLDER = ".outputs"
"""Next to the notebook."""
OF_A_RUN = ("ExecuteTime", "collapsed", "execution", "scrolled")
"""Metadata of a cell that running it or looking at it changes."""


class TrackedNotebooks(AsyncLargeFileManager):
    """Contents manager of Jupyter Server that keeps outputs of tracked notebooks in a file of their own."""

    async def get(self, path: str, content: bool = True, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a file; a notebook gets back the outputs that were saved apart from it."""
        model = await super().get(path, content, *args, **kwargs)
        whole = self._whole(path)
        if content and model["type"] == "notebook" and whole.is_file():
            saved = nbformat.read(whole, as_version=4)
            self.mark_trusted_cells(saved, path)
            restore(model["content"], saved)
        return model

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Write a file; first the outputs of a tracked notebook, and then the notebook without them."""
        if model.get("type") == "notebook" and model.get("content") and is_tracked(file := self._file(path)):
            notebook = nbformat.from_dict(model["content"])
            self.check_and_sign(notebook, path)
            self._whole(path).parent.mkdir(exist_ok=True)
            write_atomic(self._whole(path), nbformat.writes(notebook) + "\n")
            model = {**model, "content": without_outputs(notebook, nbformat.read(file, as_version=4).metadata)}
        return await super().save(model, path)

    async def rename_file(self, old_path: str, new_path: str) -> None:
        """Rename a file; a notebook whose outputs were apart from it takes them along."""
        notebook = await self.get(old_path) if self._whole(old_path).is_file() else None
        await super().rename_file(old_path, new_path)
        if notebook is not None:
            await self.save(notebook, new_path)

    def _file(self, path: str) -> Path:
        return Path(self._get_os_path(path))

    def _whole(self, path: str) -> Path:
        file = self._file(path)
        return file.parent / FOLDER / file.name


def is_tracked(file: Path) -> bool:
    """Return whether git tracks a file; without git, no."""
    command = ["git", "ls-files", "--error-unmatch", file.name]
    try:
        return subprocess.run(command, cwd=file.parent, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def without_outputs(notebook: Any, metadata: Any) -> Any:
    """Return a copy of a notebook without outputs and counts, with the given metadata instead of its own."""
    stripped = nbformat.from_dict({**notebook, "metadata": metadata})
    for cell in stripped.cells:
        for key in OF_A_RUN:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return stripped


def restore(notebook: Any, saved: Any) -> None:
    """Give cells whose source is unchanged their saved outputs, and the notebook its saved metadata."""
    by_id = {cell["id"]: cell for cell in saved.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        known = by_id.get(cell.get("id"))
        if cell.cell_type == "code" and known and known.source == cell.source:
            cell.update(outputs=known.outputs, execution_count=known.execution_count, metadata=known.metadata)
    notebook.metadata = saved.metadata
