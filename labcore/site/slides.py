"""Slides of the meetings, made of the notebooks' cells: reveal.js from npm, formulas as MathML, nothing from other hosts.

    docs/teaching/slides/meeting-1.html ...    one page for each meeting, in the site alone
    docs/teaching/slides/reveal.js, ...        from npm, copied in when the site is built

A question has a slide of its own; its check comes after the outputs. Outputs are those of an executed notebook. For sections
that train, figures made from committed records take their place, so that nothing has to run before a meeting. Slides of a
campaign are always made from its records. Where npm is missing, the page on teaching says that there are no slides.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat

from labcore.campaigns.pages import with_mathml
from labcore.campaigns.stills import VIEW, output_html, still, widget_states
from labcore.files import making_folder, write_atomic
from labcore.site import npm, recorded
from labcore.site.teaching import MEETINGS, Meeting, Piece, pieces, title

PLACE = Path("docs") / "teaching"
REVEAL = "reveal.js@5.2.1"
INTEGRITY = "r7//6mIM5p34hFiDMvYfXgyjXqGRta+/psd9YtytsgRlrpRzFv4RbH76TXd2qD+7ZPZEbpBDhdRhJaFgfQ7zNQ=="
"""SHA-512 of the package, in base64."""
FILES = ("dist/reveal.js", "dist/reveal.css", "dist/reset.css")
OWN = ("slides.css", "slides.js")
LONGEST = 800
"""Characters of a slide of text; a longer paragraph has a slide of its own, in smaller letters."""
MARKED = re.compile(r"<!-- slides -->.*?<!-- end: slides -->", re.DOTALL)
"""Where the page on teaching has links to the slides once they are built."""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="reset.css">
<link rel="stylesheet" href="reveal.css">
<link rel="stylesheet" href="slides.css">
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
<script src="reveal.js"></script>
<script src="slides.js"></script>
</body>
</html>
"""


def add(
    mirror: Path,
    kept: Path,
    checkout: Path,
    shown: Callable[[Path], Path],
    report: Callable[[str], object] = print,
) -> None:
    """Add the slides to the mirror of the pages; nothing if the checkout has no pages on teaching.

    mirror: folder that MkDocs reads, which has the pages already. kept: folder where reveal.js stays for the next build.
    shown: the file to show for a notebook of the checkout. report: called with one sentence if there can be no slides.
    """
    if not (checkout / PLACE).is_dir():
        return
    folder, source = mirror / PLACE / "slides", kept / REVEAL.replace("@", "-")
    try:
        if not source.is_dir():
            with making_folder(source) as new:
                npm.fetch(REVEAL, INTEGRITY, FILES, new)
        shutil.copytree(source, folder)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        report(f"the pages in {PLACE} are built without slides: {error}")
        links = (
            "This site was built without slides, because npm did not fetch reveal.js. Install npm and run `make docs`."
        )
    else:
        for name in OWN:
            shutil.copyfile(checkout / PLACE / name, folder / name)
        for number, meeting in enumerate(MEETINGS, start=1):
            write_atomic(folder / f"meeting-{number}.html", page(number, meeting, checkout, shown))
        links = "\n".join(
            f"- [Meeting {n}](slides/meeting-{n}.html): {one.reading}" for n, one in enumerate(MEETINGS, 1)
        )
    index = mirror / PLACE / "index.md"
    write_atomic(index, MARKED.sub(lambda _: links, index.read_text(encoding="utf-8")))


def page(number: int, meeting: Meeting, checkout: Path, shown: Callable[[Path], Path]) -> str:
    """Return the slides of a meeting as a web page."""
    slides = [_slide(f"<h1>Meeting {number}</h1><p>{meeting.reading}</p><p>To discuss: {meeting.discuss}</p>", "cover")]
    for name, sections in meeting.sections.items():
        slides += _of_notebook(shown(checkout / "notebooks" / f"{name}.ipynb"), sections)
    slides.append(_slide(f"<h2>To discuss</h2><p>{meeting.discuss}</p>", "question"))
    return PAGE.format(title=f"Meeting {number}: {html.escape(meeting.reading)}", slides="\n".join(slides))


def _of_notebook(path: Path, sections: tuple[int, ...]) -> Iterator[str]:
    """Yield the slides of sections of a notebook, after one with its title."""
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook, _ = CoalesceStreamsPreprocessor().preprocess(nbformat.read(path, as_version=4), {})
    yield _slide(f"<h1>{html.escape(title(path))}</h1><p>Notebook {path.name[:2]}</p>", "cover")
    everything, widgets = list(pieces(notebook)), widget_states(notebook)
    for section in sections:
        for heading, kind, body in _bodies(
            _joined([p for p in everything if p.section == section]), path.stem, widgets
        ):
            foot = f"<footer>Notebook {path.name[:2]}, section {section}</footer>"
            yield _slide(f"<h2>{_html(heading)}</h2>{body}{foot}", kind)


def _bodies(of_section: list[Piece], notebook: str, widgets: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield heading, kind and HTML of each slide of a section.

    If the section has no outputs, or if its outputs are long tables of committed records, the figures and short tables of
    these records come before its first check, or at its end.
    """
    place = notebook, of_section[0].section
    executed = any(piece.outputs for piece in of_section)
    made = recorded.figures(*place) if place in recorded.OF_CAMPAIGNS or not executed else []
    figures = [_html(one) if isinstance(one, str) else recorded.as_html(one) for one in made]
    for piece in of_section:
        if piece.kind == "answer":
            yield from ((piece.heading, "outputs", figure) for figure in figures)
            figures = []
        if piece.kind == "code":
            if not made:
                yield from ((piece.heading, "outputs", _output(one, widgets)) for one in piece.outputs)
            continue
        head = {"question": "<h3>Predict</h3>", "answer": "<h3>Check</h3>", "text": ""}[piece.kind]
        for part in parts(piece.content):
            yield piece.heading, piece.kind, head + _html(part)
    yield from ((of_section[-1].heading, "outputs", figure) for figure in figures)


def _joined(of_section: list[Piece]) -> list[Piece]:
    """Join neighbouring texts under one heading."""
    found: list[Piece] = []
    for piece in of_section:
        last = found[-1] if found else None
        if last and piece.kind == last.kind == "text" and piece.heading == last.heading:
            found[-1] = last._replace(content=f"{last.content}\n\n{piece.content}")
        else:
            found.append(piece)
    return found


def _output(output: Any, widgets: dict[str, Any]) -> str:
    """Return an output as HTML without scripts."""
    data = output.get("data", {})
    if text := data.get("text/markdown"):
        return _html("".join(text))
    if VIEW in data and (shown := still(data[VIEW]["model_id"], widgets)):
        return shown
    return output_html(output)


def parts(markdown: str) -> list[str]:
    """Divide Markdown between its paragraphs into parts of at most `LONGEST` characters, where paragraphs allow it."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", markdown.strip()):
        if found and len(found[-1]) + len(paragraph) <= LONGEST:
            found[-1] += "\n\n" + paragraph
        else:
            found.append(paragraph)
    return [part for part in found if part]


def _html(markdown: str) -> str:
    from nbconvert.filters.markdown import markdown2html

    linked = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](../../../notebooks/\1.html)", markdown)
    return markdown2html(with_mathml(linked)).strip()


def _slide(body: str, kind: str) -> str:
    return f'<section class="{kind}">\n{body}\n</section>'
