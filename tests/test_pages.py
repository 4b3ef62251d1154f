"""Web pages of notebooks: formulas without the net, code as it was."""

import re
from pathlib import Path

import nbformat
import pytest

from labcore.campaigns.pages import converted, web_page, with_mathml

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
MATH = re.compile(r"<math .*?</math>", re.DOTALL)


def test_formulas_become_mathml_and_nothing_else_does():
    text = "a $x_i^2$ here, `$code$` and $$\\frac12$$\n```sh\necho $HOME $PATH\n```\nfor $5 or $10, \\$3"
    made = with_mathml(text)
    inline, block = MATH.findall(made)
    assert 'display="inline"' in inline and "<msubsup><mi>x</mi>" in inline
    assert 'display="block"' in block and "<mfrac>" in block
    assert MATH.sub("@", made) == "a @ here, `$code$` and @\n```sh\necho $HOME $PATH\n```\nfor $5 or $10, \\$3"


def test_a_formula_that_cannot_be_read_stays():
    assert with_mathml("see $x^1^2$ and $y$").startswith("see $x^1^2$ and <math")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_of_the_notebooks_is_understood(path):
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert text.count("$") == 0 or MATH.search(with_mathml(text))
    for cell in converted(notebook).cells:
        if cell.cell_type == "markdown":
            words = re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", cell.source)
            assert "$" not in words and not re.search(r"\\[a-zA-Z]+|&#92;", words), words


def test_a_page_asks_nothing_of_the_net(tmp_path):
    """Neither scripts nor styles nor pictures of elsewhere; links are the reader's."""
    output = nbformat.v4.new_output("display_data", data={"text/markdown": "is $\\sigma^2$"})
    cells = [nbformat.v4.new_markdown_cell("# Title\nwith $a*b*c$"), nbformat.v4.new_code_cell("1", outputs=[output])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    page = web_page(tmp_path / "n.ipynb").read_text()
    assert len(MATH.findall(page)) == 2 and "<em>" not in page
    assert not re.search(r"""<(?:script|img|link)[^>]*(?:src|href)=["']https?://""", page)


def test_pictures_have_words_for_who_cannot_see_them(tmp_path):
    data = {"image/png": "iVBORw0KGgo=", "text/plain": "error < 1 against steps"}
    cells = [nbformat.v4.new_code_cell("figure", outputs=[nbformat.v4.new_output("display_data", data=data)])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    page = web_page(tmp_path / "n.ipynb").read_text()
    assert re.search(
        r'<img(?=[^>]* src="data:image/png;base64,iVBORw0KGgo=")[^>]* alt="error &lt; 1 against steps"', page
    )


def test_hidden_code_opens_by_a_click(tmp_path):
    cells = [
        nbformat.v4.new_code_cell(f"name_{i}", metadata=m)
        for i, m in enumerate(({}, {"jupyter": {"source_hidden": True}}))
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    before, folded = web_page(tmp_path / "n.ipynb").read_text().split("<details")
    assert "name_0" in before and "name_1" not in before and "name_1" in folded.split("</details>")[0]
