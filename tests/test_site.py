"""The site: every notebook executed once, with its pictures, and nothing that a browser would have to fetch."""

import re
from pathlib import Path

import pytest
import toys

from labcore.site import build, docs

REMOTE = re.compile(
    r"""<(?:script|img|link)[^>]*(?:src|href)=["']https?://|import\s[^;]*["']https?://|url\(["']?https?://|unpkg\.com|cdnjs\."""
)


@pytest.mark.slow
def test_notebooks_become_pages(tmp_path, monkeypatch):
    import nbformat

    checkout = tmp_path / "checkout"
    source = checkout / "notebooks"
    source.mkdir(parents=True)
    made = toys.notebook(
        "from labcore.viz.panel import Panel\nfrom labcore.viz import controls\nimport torch",
        "from labcore.viz.sheet import grid_png\n"
        "draw = lambda shade: grid_png(torch.full((2, 1, 8, 8), shade), 2)\n"
        "Panel(draw, {'shade': controls.number('shade', 0, 1, 0.5)}, caption='two grey squares')",
    )
    made.cells.insert(0, nbformat.v4.new_markdown_cell("# A question: and an answer\nIs $x^2$ positive?"))
    nbformat.write(made, source / "a_toy.ipynb")
    (source / "README.md").write_text("# Ways through\n[a toy](a_toy.ipynb), where $a < b$\n")
    (checkout / "README.md").write_text("# A lab\n[three ways](notebooks/README.md), [data](data.json)\n")
    (checkout / "data.json").write_text("{}\n")

    def page_of(index: Path) -> str:
        return (index.parent / "notebooks" / "a_toy.html").read_text()

    index = docs.build(tmp_path / "out", checkout=checkout)
    assert "shown without outputs" in page_of(index) and "two grey squares (shade" not in page_of(index)
    index = build.build(tmp_path / "out", smoke=True, checkout=checkout)
    page, ways = page_of(index), (index.parent / "notebooks" / "index.html").read_text()
    assert "data:image/png;base64," in page and 'alt="two grey squares (shade 0.5)"' in page
    assert "<msup>" in page and "<math" in ways and 'href="a_toy.html"' in ways and "shown without outputs" not in page
    assert 'href="notebooks/index.html"' in index.read_text() and (index.parent / "data.json").read_text() == "{}\n"
    assert (index.parent / "search" / "search_index.js").is_file()  # which a page that is opened as a file searches,
    assert '<script src="iframe-worker.js">' in index.read_text()  # in place of a web worker
    for file in index.parent.rglob("*.html"):
        assert not REMOTE.search(file.read_text()), REMOTE.search(file.read_text())
    monkeypatch.setattr(build, "execute_notebook", lambda *args: pytest.fail("it was executed again"))
    assert build.build(tmp_path / "out", smoke=True, checkout=checkout) == index
    assert page_of(docs.build(tmp_path / "out", checkout=checkout)) == page  # as it was executed
    with pytest.raises(pytest.fail.Exception, match="executed again"):
        build.build(tmp_path / "out", smoke=False, checkout=checkout)


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no notebooks in"):
        docs.build(tmp_path / "out", checkout=Path(tmp_path))


@pytest.mark.slow
def test_a_dead_link_ends_the_build(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    (tmp_path / "notebooks").mkdir()
    nbformat.write(toys.notebook("pass"), tmp_path / "notebooks" / "a_toy.ipynb")
    (tmp_path / "README.md").write_text("# A lab\n[nowhere](docs/nowhere.md)\n")
    with pytest.raises(ValueError, match=r"nowhere\.md"):
        docs.build(tmp_path / "out", checkout=tmp_path)
