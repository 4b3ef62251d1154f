"""The site: every notebook executed once, with its pictures, and nothing that a browser would have to fetch."""

import re
from pathlib import Path

import pytest
import toys

from labcore.site import build

REMOTE = re.compile(
    r"""<(?:script|img|link)[^>]*(?:src|href)=["']https?://|import\s[^;]*["']https?://|url\(["']?https?://|unpkg\.com|cdnjs\."""
)


@pytest.mark.slow
def test_notebooks_become_pages(tmp_path, monkeypatch):
    import nbformat

    source = tmp_path / "notebooks"
    source.mkdir()
    made = toys.notebook(
        "from labcore.viz.panel import Panel\nfrom labcore.viz import controls\nimport torch",
        "from labcore.viz.sheet import grid_png\n"
        "draw = lambda shade: grid_png(torch.full((2, 1, 8, 8), shade), 2)\n"
        "Panel(draw, {'shade': controls.number('shade', 0, 1, 0.5)}, caption='two grey squares')",
    )
    made.cells.insert(0, nbformat.v4.new_markdown_cell("# A question: and an answer\nIs $x^2$ positive?"))
    nbformat.write(made, source / "a_toy.ipynb")
    (source / "README.md").write_text("# Ways through\n[a toy](a_toy.ipynb), where $a < b$\n")
    index = build.build(tmp_path / "out", smoke=True, notebooks=source)
    page, first = (index.parent / "a_toy.html").read_text(), index.read_text()
    assert "data:image/png;base64," in page and 'alt="two grey squares (shade 0.5)"' in page
    assert "<msup>" in page and "<math" in first and 'href="a_toy.html"' in first
    for file in index.parent.glob("*.html"):
        assert not REMOTE.search(file.read_text()), REMOTE.search(file.read_text())
    monkeypatch.setattr(build, "execute", lambda *args: pytest.fail("it was executed again"))
    assert build.build(tmp_path / "out", smoke=True, notebooks=source) == index
    with pytest.raises(pytest.fail.Exception, match="executed again"):
        build.build(tmp_path / "out", smoke=False, notebooks=source)


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no notebooks in"):
        build.build(tmp_path / "out", notebooks=Path(tmp_path))
