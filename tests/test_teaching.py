"""For the teacher: every prediction has its check, pages made from the notebooks are current, slides need no other host."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from labcore.experiments.evidence import OF_IMAGES, OF_WAYS, Difference
from labcore.site import npm, recorded, slides, teaching
from labcore.site.first_figures import Compared

ROOT = Path(__file__).parent.parent
NOTEBOOKS = teaching.notebooks()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_prediction_has_its_folded_check(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = teaching.questions(path)
    assert found and not [one.label for one in found if not one.answer]
    assert len(found) == len(re.findall(r"\*\*Predict(?!\*\* before)", text))  # none is asked in another form
    assert text.count("**Check") == 0 and text.count("<b>Check") == len(found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_check_comes_before_its_question_or_long_after_it(path):
    waiting = 0
    for piece in teaching.pieces(nbformat.read(path, as_version=4)):
        waiting += {"question": 1, "answer": -1}.get(piece.kind, 0)
        assert 0 <= waiting <= 2, piece
    assert waiting == 0


def test_a_check_without_a_question_is_refused(tmp_path):
    cell = nbformat.v4.new_markdown_cell("# A\n\n<details><summary><b>Check</b></summary>\n\nyes\n\n</details>")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "00_a.ipynb")
    with pytest.raises(ValueError, match=r"00_a\.ipynb has a check under '' without a question"):
        teaching.questions(tmp_path / "00_a.ipynb")


def test_questions_keep_their_section_and_their_order(tmp_path):
    text = "## 1. One\n\n**Predict, for `x`:** how\nmany? Why?\n\nMore.\n\n### Two\n\n**Predict:** who?\n\n## Exercises"
    check = "<details><summary><b>Check</b></summary>\n\n{}\n\n</details>"
    cells = [nbformat.v4.new_markdown_cell(one) for one in (text, f"{check.format(1)}\n\n{check.format(2)}")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_a.ipynb")
    assert teaching.questions(tmp_path / "00_a.ipynb") == [
        ("00.1", 1, "One", "For `x`, how many? Why?", "1"),
        ("00.2", 1, "Two", "Who?", "2"),
    ]


def test_the_plan_names_sections_that_exist():
    for meeting in teaching.MEETINGS:
        for name, sections in meeting.sections.items():
            notebook = nbformat.read(teaching.NOTEBOOKS / f"{name}.ipynb", as_version=4)
            assert set(sections) <= {piece.section for piece in teaching.pieces(notebook)}


def test_every_notebook_has_a_card_with_a_small_picture():
    page = (ROOT / "docs" / "start.md").read_text()
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    for path in NOTEBOOKS:
        assert f"(../notebooks/{path.name})" in page and f"(pictures/{path.name[:2]}.png)" in page
    assert len(pictures) == len(NOTEBOOKS) and sum(picture.stat().st_size for picture in pictures) < 300_000


def test_slides_of_a_campaign_have_its_short_tables_and_printed_lines_are_on_one_slide(tmp_path, monkeypatch):
    """The notebook's own table of all verdicts has letters too small for a slide."""
    printed = [nbformat.v4.new_output("stream", text=f"line {i}\n") for i in (1, 2)]
    wide = nbformat.v4.new_output("display_data", {"text/markdown": "| all verdicts |\n|---|\n| one |"})
    cells = [nbformat.v4.new_markdown_cell("# A\n\n## 4. One"), nbformat.v4.new_code_cell("", outputs=printed)]
    cells += [nbformat.v4.new_markdown_cell("## 5. Two"), nbformat.v4.new_code_cell("", outputs=[wide])]
    path = tmp_path / "03_trajectory_norms.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    monkeypatch.setattr(slides.recorded, "figures", lambda notebook, section: ["| first |\n|---|", "| second |\n|---|"])
    _, one, *two = slides._of_notebook(path, (4, 5))
    assert "line 1\nline 2" in one
    assert len(two) == 2 and "first" in two[0] and "second" in two[1] and "all verdicts" not in "".join(two)


@pytest.mark.parametrize("place", sorted(set(recorded.RECORDED) - set(recorded.OF_CAMPAIGNS)), ids=str)
def test_words_of_recorded_figures_are_inside_them_and_apart(place):
    for figure in recorded.figures(*place):
        recorded.as_html(figure)  # lays it out
        title = figure._suptitle
        assert title is None or (title.get_window_extent().x0 >= 0 and title.get_window_extent().x1 <= figure.bbox.x1)
        labels = [axes.xaxis.label.get_window_extent() for axes in figure.axes if axes.get_xlabel()]
        assert not [1 for i, one in enumerate(labels) for other in labels[:i] if one.overlaps(other)]


def test_figures_of_differences_are_wide_enough_for_a_slide():
    compared = {one: {"a row": Difference(0.1, 0.2, 5, False)} for one in (*OF_IMAGES, *OF_WAYS)}
    rows = [f"row {number}" for number in range(11)]
    found = recorded._differences(Compared(compared, rows, "a baseline"))
    assert len(found) == 2 and all(figure.get_figheight() < 0.75 * figure.get_figwidth() for figure in found)


def test_meetings_on_norms_and_inverses_have_results_without_training():
    for part in (("03_trajectory_norms", 2), ("03_trajectory_norms", 4), ("04_learned_vs_analytic_inverse", 3)):
        (figure,) = recorded.figures(*part)
        assert 'alt="' in recorded.as_html(figure)
    assert recorded.figures("03_trajectory_norms", 5)[0].startswith("| ")
    assert recorded.figures("00_quickstart", 1) == []


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / slides.PLACE
    folder.mkdir(parents=True)
    (folder / "index.md").write_bytes((ROOT / slides.PLACE / "index.md").read_bytes())
    return tmp_path


def test_slides_hold_their_sections_and_load_nothing_from_elsewhere(mirror, tmp_path, monkeypatch):
    def fetch(package, integrity, members, folder):
        for member in members:
            (folder / Path(member).name).write_text("")

    monkeypatch.setattr(npm, "fetch", fetch)
    monkeypatch.setattr(slides.recorded, "figures", lambda notebook, section: ["| a |\n|---|\n| b |"])
    slides.add(mirror, tmp_path / "kept", ROOT, lambda path: path)
    folder = mirror / slides.PLACE / "slides"
    pages = sorted(folder.glob("meeting-*.html"))
    assert len(pages) == len(teaching.MEETINGS)
    for page, meeting in zip(pages, teaching.MEETINGS, strict=True):
        text = page.read_text()
        asked = [
            one
            for name, sections in meeting.sections.items()
            for one in teaching.questions(teaching.NOTEBOOKS / f"{name}.ipynb")
            if one.section in sections
        ]
        assert text.count("<h3>Predict</h3>") == len(asked) and text.count("<h3>Check</h3>") >= len(asked)
        assert (
            not re.findall(r'(?:src|href)="(?:https?:)?//(?!arxiv)', text)
            and f"slides/{page.name}" in (folder.parent / "index.md").read_text()
        )
    assert "<table" in pages[0].read_text()


def test_without_npm_a_page_says_that_there_are_no_slides(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: (_ for _ in ()).throw(FileNotFoundError("no npm")))
    told = []
    slides.add(mirror, tmp_path / "kept", ROOT, lambda path: path, told.append)
    assert told == ["the pages in docs/teaching are built without slides: no npm"]
    assert "built without slides" in (mirror / slides.PLACE / "index.md").read_text()
