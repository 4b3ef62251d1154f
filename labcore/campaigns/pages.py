"""Web pages of executed notebooks that need nothing from the net: pictures are inside, with words, and formulas are MathML.

nbconvert leaves formulas to MathJax, which a page loads from its makers when it is opened. Browsers draw MathML by themselves.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

CODE = re.compile(r"(?ms)^```.*?^```|`[^`\n]*`")
"""Code in Markdown: fenced or between backticks."""
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$\n]+?(?:\n[^$\n]+?)*?)(?<!\s)\$(?!\d)", re.DOTALL)
"""$$ ... $$ on lines of their own, or $ ... $ within one."""

REWRITTEN = ((re.compile(r"\\arg\\max"), r"\\argmax"), (re.compile(r"\\[bB]igg?[lr]?(\\[lr]angle)"), r"\1"))
"""What MathJax and notebooks know and the converter does not, and what it takes instead."""


def with_mathml(markdown: str) -> str:
    """Markdown with its formulas as MathML; code stays, and a formula that cannot be read stays as it is."""
    parts, last = [], 0
    for code in CODE.finditer(markdown):
        parts += [FORMULA.sub(_mathml, markdown[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, FORMULA.sub(_mathml, markdown[last:])])


def web_page(notebook: Path) -> Path:
    """A web page of an executed notebook beside it."""
    import nbformat
    from nbconvert import HTMLExporter

    executed = converted(nbformat.read(notebook, as_version=4))
    exporter = HTMLExporter(**dict.fromkeys(("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url"), ""))
    page, _ = exporter.from_notebook_node(executed, {"metadata": {"name": notebook.stem}})
    path = notebook.with_suffix(".html")
    path.write_text(page, encoding="utf-8")
    return path


def converted(notebook: Any) -> Any:
    """The notebook with MathML for formulas, and with words in its pictures for who cannot see them."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                output.data["text/markdown"] = with_mathml("".join(text))
            if "image/png" in output.get("data", {}):
                output.data.setdefault("text/html", _image(output.data))
    return notebook


def _image(data: Any) -> str:
    """A picture as HTML; its alternative text is what the cell would have shown as plain text."""
    words, source = html.escape("".join(data.get("text/plain", "")).strip("'\"")), "".join(data["image/png"]).strip()
    return f'<img src="data:image/png;base64,{source}" alt="{words}">'


def _mathml(formula: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    block, inline = formula.groups()
    source = block or inline
    for pattern, known in REWRITTEN:
        source = pattern.sub(known, source)
    try:
        made = convert(source, display="block" if block else "inline")
    except Exception:  # whatever its parser meets: the reader gets the formula's source
        return formula[0]
    for character in "*_`\\":  # what Markdown would take for its own
        made = made.replace(character, f"&#{ord(character)};")
    return made
