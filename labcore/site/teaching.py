"""For the teacher of a reading group: the questions and answers of the notebooks, read from their Markdown cells.

A notebook asks with `**Predict:** ...`, up to the end of the paragraph, and answers with a folded `<b>Check</b>`. Questions are
answered in their order, each by its own check. The answer key and the sheet of predictions are generated parts of pages in
docs/teaching; `labcore.site.slides` makes slides of the same cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from labcore.markdown import table
from labcore.site.records import CHECKOUT

NOTEBOOKS = CHECKOUT / "notebooks"
PREDICT = r"\*\*Predict(?P<to>[^*:]*):\*\*\s*(?P<question>.+?)(?=\n\s*\n|\Z)"
CHECK = r"<details><summary><b>Check</b></summary>\s*(?P<answer>.*?)\s*</details>"
HEADING = r"^(?P<level>#{2,3}) (?P<heading>[^\n]+)$"
MEETING, WORDS_A_MINUTE, MINUTES_A_PREDICTION = 45, 180, 2
"""Minutes of a meeting, and the assumptions of its estimate; a displayed formula and a cell's output take one minute each."""
PART = re.compile(f"(?ms){PREDICT}|{CHECK}|{HEADING}")
NUMBER = re.compile(r"(\d+)\. ")


class Piece(NamedTuple):
    """A part of a notebook, in its order.

    Fields:
        kind: "text", "question", "answer", or "code".
        section: number of its section; 0 before the first, and in sections without a number.
        heading: the nearest heading above it, without its number; empty before the first.
        content: Markdown; of code the source.
        outputs: what a cell of code shows; empty for Markdown.
    """

    kind: str
    section: int
    heading: str
    content: str
    outputs: Sequence[Any] = ()


class Question(NamedTuple):
    """A question of a notebook with its answer in Markdown.

    Fields:
        label: number of the notebook and of the question, like "03.2".
        section, heading: of the `Piece`.
        text: the question.
        answer: the check; empty if the notebook has none.
    """

    label: str
    section: int
    heading: str
    text: str
    answer: str


class Meeting(NamedTuple):
    """A meeting of the plan: the reading before it, sections of notebooks (notebook -> numbers), and a question to discuss."""

    reading: str
    sections: dict[str, tuple[int, ...]]
    discuss: str


MEETINGS = (
    Meeting(
        "TARFlow, method", {"00_quickstart": (1, 2, 3, 4, 5, 6)}, "why is the inverse serial, and the forward pass not?"
    ),
    Meeting(
        "FlowBack, Algorithm 1",
        {"02_classification_probe": (1, 2, 3)},
        "which information does a probe find that raw pixels do not have?",
    ),
    Meeting(
        "FlowBack, equations 5 to 9",
        {"01_alignment_strategies": (1, 2, 7)},
        "which paths does the stop-gradient cut, and how much of the gradient is lost?",
    ),
    Meeting(
        "BiFlow, norm control",
        {"03_trajectory_norms": (1, 2, 3, 4, 5)},
        "a large state has a large share of a squared error: is that a problem in these flows?",
    ),
    Meeting(
        "BiFlow, learning to invert",
        {"04_learned_vs_analytic_inverse": (1, 3, 7), "05_cfg_sliders": (1, 2)},
        "the student is recognised more often than its teacher: why?",
    ),
    Meeting(
        "GS-Jacobi or SeJD",
        {"06_inverse_solvers": (1, 2, 3, 4, 5)},
        "when is a fast exact sampler better than a learned one?",
    ),
)
"""The plan of six meetings, in order."""


def pieces(notebook: Any) -> Iterator[Piece]:
    """Yield the parts of a notebook: texts, questions and answers of its Markdown cells, and its cells of code."""
    section, heading = 0, ""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            yield Piece("code", section, heading, cell.source, cell.get("outputs", ()))
            continue
        last = 0
        for part in PART.finditer(cell.source):
            if text := cell.source[last : part.start()].strip():
                yield Piece("text", section, heading, text)
            last = part.end()
            if part["heading"]:
                number = NUMBER.match(part["heading"])
                heading = NUMBER.sub("", part["heading"])
                section = int(number[1]) if number else section * (part["level"] == "###")
            elif part["question"]:
                to = part["to"].strip(" ,")
                asked = " ".join(f"{to + ', ' if to else ''}{part['question']}".split())
                yield Piece("question", section, heading, asked[0].upper() + asked[1:])
            else:
                yield Piece("answer", section, heading, part["answer"])
        if text := cell.source[last:].strip():
            yield Piece("text", section, heading, text)


def questions(notebook: Path) -> list[Question]:
    """Read the questions of a notebook with their answers, in order. Raises ValueError if a check has no question before it."""
    found: list[Question] = []
    answers: list[str] = []
    for piece in pieces(nbformat.read(notebook, as_version=4)):
        if piece.kind == "question":
            label = f"{notebook.name[:2]}.{len(found) + 1}"
            found.append(Question(label, piece.section, piece.heading, piece.content, ""))
        elif piece.kind == "answer":
            answers.append(piece.content)
            if len(answers) > len(found):
                raise ValueError(
                    f"{notebook.name} has a check under {piece.heading!r} without a question; ask with **Predict:**"
                )
    return [one._replace(answer=answer) for one, answer in zip(found, [*answers, *[""] * len(found)], strict=False)]


def title(notebook: Path) -> str:
    """Return the title of a notebook up to its colon or question mark."""
    first = nbformat.read(notebook, as_version=4).cells[0].source.splitlines()[0]
    return re.split(r"[:?]", first.removeprefix("# "))[0]


def notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """List the notebooks of a folder in their order."""
    return sorted(folder.glob("*.ipynb"))


def answer_key() -> str:
    """Return all questions with their answers in Markdown, by notebook. Raises ValueError for a question without an answer."""
    lines: list[str] = []
    for notebook in notebooks():
        lines.append(f"## {notebook.name[:2]}. {_linked(notebook)}")
        for one in questions(notebook):
            if not one.answer:
                raise ValueError(f"{notebook.name} has no check for its question {one.label}; add one after its cell")
            end = "" if one.heading.endswith("?") else "."
            lines += [f"**{one.label}** *{one.heading}{end}* {one.text}", f"**Check.** {one.answer}"]
    return "\n\n".join(lines)


def sheet() -> str:
    """Return all questions in Markdown with room to write, by meeting; then those that belong to no meeting."""
    lines: list[str] = []
    left = {notebook.stem: questions(notebook) for notebook in notebooks()}
    for number, meeting in enumerate(MEETINGS, start=1):
        lines.append(f"## Meeting {number}: {meeting.reading}")
        for name, sections in meeting.sections.items():
            lines += map(_asked, [one for one in left[name] if one.section in sections])
            left[name] = [one for one in left[name] if one.section not in sections]
    for name, remaining in left.items():
        if remaining:
            lines += [
                f"## {name[:2]}. {title(NOTEBOOKS / f'{name}.ipynb')}, beyond the meetings",
                *map(_asked, remaining),
            ]
    return "\n\n".join(lines)


def plan() -> str:
    """Return the plan of the meetings as a table in Markdown."""
    rows = [
        (number, one.reading, "; ".join(_together(*part) for part in one.sections.items()), one.discuss)
        for number, one in enumerate(MEETINGS, start=1)
    ]
    return table(("", "read before the meeting", "together", "to discuss"), rows)


def pace() -> str:
    """Return an estimate of the minutes of each meeting, from the words and cells of its sections, as a table in Markdown."""
    rows = []
    for number, meeting in enumerate(MEETINGS, start=1):
        together = [
            piece
            for name, sections in meeting.sections.items()
            for piece in pieces(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4))
            if piece.section in sections
        ]
        spoken = [piece.content for piece in together if piece.kind != "code"]
        reading = round(sum(len(text.split()) for text in spoken) / WORDS_A_MINUTE)
        formulas = sum(text.count("$$") // 2 for text in spoken)
        predictions = MINUTES_A_PREDICTION * sum(piece.kind == "question" for piece in together)
        outputs = sum(piece.kind == "code" for piece in together)
        needed = reading + formulas + predictions + outputs
        rows.append((number, reading, formulas, predictions, outputs, needed, MEETING - needed))
    return table(("meeting", "reading", "formulas", "predictions", "outputs", "in all", "left to discuss"), rows)


def _together(notebook: str, sections: Sequence[int]) -> str:
    """Name sections of a notebook: "**00**, sections 1 to 6", with a link."""
    first, *middle, last = map(str, sections)
    consecutive = sections[-1] - sections[0] == len(sections) - 1 > 1
    named = f"{first} to {last}" if consecutive else f"{', '.join([first, *middle])} and {last}"
    return f"[{notebook[:2]}](../../notebooks/{notebook}.ipynb), sections {named}"


def _asked(one: Question) -> str:
    return f'**{one.label}** {one.text}\n\n<div class="answer"></div>'


def _linked(notebook: Path) -> str:
    return f"[{title(notebook)}](../../notebooks/{notebook.name})"


BLOCKS = {"meetings": plan, "pace": pace, "answers": answer_key, "predictions": sheet}
"""The generated parts of the pages in docs/teaching."""
