"""Web pages of executed notebooks that work offline: images are embedded, with alternative text, and formulas are MathML.

nbconvert leaves formulas to MathJax, widgets to a renderer and diagrams to Mermaid, all of which a page loads from elsewhere
when it is opened. Here formulas become MathML, which browsers draw by themselves; widgets become their last picture and values;
and a diagram stays as its text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from labcore.campaigns.stills import VIEW, picture, still, widget_states

CODE = re.compile(r"(?ms)^```.*?^```|`[^`\n]*`")
"""Code in Markdown: fenced or between backticks."""
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$\n]+?(?:\n[^$\n]+?)*?)(?<!\s)\$(?!\d)", re.DOTALL)
"""$$ ... $$ as a block, or $ ... $ within a line."""

REWRITTEN = ((re.compile(r"\\arg\\max"), r"\\argmax"), (re.compile(r"\\[bB]igg?[lr]?(\\[lr]angle)"), r"\1"))
"""LaTeX that MathJax knows and the converter does not, and an equivalent that the converter knows."""


SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script\s*>", re.DOTALL | re.IGNORECASE)
REMOTE_SCRIPT = re.compile(r"""\bsrc\s*=\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)
LOADS = re.compile(
    r"""https?://(?:unpkg\.com|cdnjs\.|cdn\.|[\w.]*jsdelivr)|\b(?:import|from)\s*\(?\s*["'`]https?://""", re.IGNORECASE
)
"""Text in a script that loads another one: the address of a server of scripts, or an import from an address."""
REMOTE_LINK = re.compile(r"""<link\b[^>]*\bhref\s*=\s*["']?\s*(?:https?:)?//[^>]*>""", re.IGNORECASE)
STYLE = re.compile(r"<style\b[^>]*>.*?</style\s*>", re.DOTALL | re.IGNORECASE)
REMOTE_STYLE = re.compile(
    r"""@import\s[^;<]*(?:https?:)?//[^;<]*;?|url\(\s*["']?\s*(?:https?:)?//[^)]*\)""", re.IGNORECASE
)
EMBEDDED = re.compile(
    r"""<(img|iframe|embed|audio|video|source)\b[^>]*?\bsrc\s*=\s*["']?\s*((?:https?:)?//[^"'\s>]+)[^>]*>""",
    re.IGNORECASE,
)
"""An element that shows a file from another address."""
WITHOUT = dict.fromkeys(
    ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url", "mermaid_layout_elk_js_url"), ""
)


def without_net(page: str) -> str:
    """Return a web page that a browser shows without loading anything from other addresses.

    Scripts, styles and fonts of other addresses are left out; a picture or frame of another address becomes a link to it.
    Ordinary links are kept.
    """
    page = SCRIPT.sub(lambda found: "" if REMOTE_SCRIPT.search(found[1]) or LOADS.search(found[2]) else found[0], page)
    page = STYLE.sub(lambda found: REMOTE_STYLE.sub("", found[0]), REMOTE_LINK.sub("", page))
    return EMBEDDED.sub(r'<a href="\2">\2</a>', page)


FOLDED = """\
{%- extends 'lab/index.html.j2' -%}
{% block input_group -%}
{% if cell.metadata.get('jupyter', {}).get('source_hidden') -%}
<details style="margin-left: var(--jp-cell-prompt-width)"><summary>code</summary>
{{ super() }}
</details>
{%- else -%}
{{ super() }}
{%- endif %}
{%- endblock %}
"""
"""nbconvert's template; code that JupyterLab hides is folded behind a line that opens it."""


def with_mathml(markdown: str) -> str:
    """Convert the formulas in Markdown to MathML. Code, and formulas that cannot be parsed, stay as they are."""
    parts, last = [], 0
    for code in CODE.finditer(markdown):
        parts += [FORMULA.sub(_mathml, markdown[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, FORMULA.sub(_mathml, markdown[last:])])


def web_page(notebook: Path) -> Path:
    """Write a web page of an executed notebook next to it. Code that JupyterLab hides can be opened by a click."""
    import nbformat
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    executed = converted(nbformat.read(notebook, as_version=4))
    folded = DictLoader({"folded.html.j2": FOLDED})
    exporter = HTMLExporter(extra_loaders=[folded], template_file="folded.html.j2", **WITHOUT)
    page, _ = exporter.from_notebook_node(executed, {"metadata": {"name": notebook.stem}})
    path = notebook.with_suffix(".html")
    path.write_text(without_net(page), encoding="utf-8")
    return path


def converted(notebook: Any) -> Any:
    """Return the notebook with MathML for formulas, the last state of widgets, and alternative text for pictures."""
    widgets = widget_states(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
        for output in cell.get("outputs", []):
            if "data" in output:
                _convert_output(output.data, widgets)
    notebook.metadata.pop("widgets", None)
    return notebook


def _convert_output(data: Any, widgets: dict[str, Any]) -> None:
    """Convert an output in place to forms that a browser can show offline."""
    if text := data.get("text/markdown"):
        data["text/markdown"] = with_mathml("".join(text))
    if "<math" in (formula := with_mathml("".join(data.get("text/latex", "")))):
        data.setdefault("text/html", formula)
    view = data.pop(VIEW, None)
    if view and "image/png" not in data and (shown := still(view["model_id"], widgets)):
        data["text/html"] = shown
    if "image/png" in data:
        words = "".join(data.get("text/plain", "")).strip("'\"")
        data.setdefault("text/html", picture("png", "".join(data["image/png"]), words))


def _mathml(formula: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    block, inline = formula.groups()
    source = block or inline
    for pattern, known in REWRITTEN:
        source = pattern.sub(known, source)
    try:
        made = convert(source, display="block" if block else "inline")
    except Exception:  # its parser raises many kinds; the reader gets the formula's source
        return formula[0]
    for character in "*_`\\":  # characters that Markdown would interpret
        made = made.replace(character, f"&#{ord(character)};")
    return made
