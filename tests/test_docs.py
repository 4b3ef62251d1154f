"""README and docs: generated parts are current, code runs, commands and settings exist, links lead somewhere."""

import doctest
import errno
import os
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from labcore import config, zoo
from labcore.campaigns.spec import load_spec, resolve
from labcore.cli.app import app
from labcore.presets import PRESETS, STUDENTS
from labcore.site import docs, first_figures, tables

ROOT = Path(__file__).parent.parent
PAGES = tables.pages()
FENCE = re.compile(r"(?ms)^(<!-- only compiled: [^\n]+ -->\n)?```(\w+)\n(.*?)^```")
SECTIONS = {
    "model": (config.TarFlowConfig, config.BackwardConfig),
    "data": (config.DataConfig,),
    "train": (config.TrainConfig,),
    "align": (config.AlignConfig,),
    "student": (config.StudentConfig,),
}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[tuple[bool, str]]:
    """Code blocks of a language: whether it runs, and the code."""
    return [(not compiled, code) for compiled, kind, code in FENCE.findall(page.read_text()) if kind == language]


def commands(page: Path) -> list[str]:
    """Command lines of a page, without comments."""
    lines = [line for _, code in blocks(page, "sh") for line in code.splitlines()]
    return [line for line in (re.split(r"(?:^|\s)#\s", line)[0].strip() for line in lines) if line]


@every_page
def test_generated_parts_are_current(page):
    """`make tables` writes them."""
    assert not tables.stale(page, set(tables.RECORDED))


@pytest.mark.slow
@every_page
def test_counted_parts_are_current(page):
    """`make tables` writes them."""
    assert not tables.stale(page, set(tables.COUNTED))


@pytest.mark.parametrize("campaign", first_figures.CAMPAIGNS)
def test_first_figures_are_current_and_shown(campaign):
    """`make tables` draws them."""
    assert not first_figures.stale(campaign)
    assert f"figures/{first_figures.path(campaign).name})" in (ROOT / "docs" / "findings.md").read_text()


def test_a_figure_of_other_numbers_is_stale(tmp_path, monkeypatch):
    campaign, compared = next((name, made) for name, make in first_figures.CAMPAIGNS.items() if (made := make()))
    assert first_figures.stale(campaign, tmp_path)
    first_figures.draw(campaign, tmp_path)
    assert not first_figures.stale(campaign, tmp_path)
    measure, by_row = next(iter(compared.differences.items()))
    row, one = next(iter(by_row.items()))
    moved = compared.differences | {measure: by_row | {row: one._replace(mean=one.mean + 1e-6)}}
    monkeypatch.setitem(first_figures.CAMPAIGNS, campaign, lambda: compared._replace(differences=moved))
    assert first_figures.stale(campaign, tmp_path)


def test_every_generated_part_is_shown_and_every_mark_is_closed():
    shown = [name for page in PAGES for name in tables.parts(page.read_text())]
    assert set(shown) == set(tables.BLOCKS)
    assert len(shown) == sum(page.read_text().count("<!-- generated: ") for page in PAGES)


def test_a_changed_part_is_stale_and_an_unknown_one_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: judge -->\nold\n<!-- end: judge -->\nafter\n")
    assert tables.stale(page) and not tables.stale(page, set())
    page.write_text(tables.filled(page.read_text()))
    assert not tables.stale(page) and page.read_text().startswith("before\n") and page.read_text().endswith("after\n")
    with pytest.raises(ValueError, match="no generated part is named 'x'"):
        tables.filled("<!-- generated: x -->\n<!-- end: x -->")


@every_page
@pytest.mark.usefixtures("as_users_run")
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for runs, code in blocks(page, "python"):
        made = compile(code, str(page), "exec")
        if runs:
            exec(made, names)


@every_page
@pytest.mark.usefixtures("as_users_run")
def test_examples_print_what_the_page_says(page):
    test = doctest.DocTestParser().get_doctest(
        "".join(code for _, code in blocks(page, "pycon")), {}, page.name, str(page), 0
    )
    assert doctest.DocTestRunner().run(test).failed == 0


@every_page
def test_commands_exist_with_these_options(page):
    """`lab` lines are parsed as the command line does; models, presets and specs that they name exist."""
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for line in commands(page):
        program, *words = shlex.split(line)
        if program == "make":
            assert words[0] in targets, line
        if Path(program).name == "lab":
            command = get_command(app)
            while hasattr(command, "commands"):
                command = command.commands[words.pop(0)]
            values = command.make_context(command.name, words).params
            if command.name in ("plan", "rehearse", "smoke", "train"):
                assert values["preset"] in {None} | PRESETS.keys() | STUDENTS.keys(), line
            if command.name in ("sample", "evaluate", "probe", "calibrate") and not values["model"].startswith("runs/"):
                assert values["model"] in zoo.NAMES, line
            if command.name == "run":
                load_spec(values["spec"])


@every_page
def test_settings_exist(page):
    for section, name in re.findall(
        r"`(?:--set )?'?(model|data|train|align|student)\.([a-z_]+)(?==|`)", page.read_text()
    ):
        if name in ("py", "safetensors"):  # a file
            continue
        assert any(name in kind.model_fields for kind in SECTIONS[section]), f"{section}.{name}"


def test_symptoms_are_messages_of_the_code():
    """The first column of the page on troubleshooting; `...` stands for values."""
    files = sorted((ROOT / "labcore").rglob("*.py"))
    source = re.sub(r'"\s*f?"', "", "\n".join(path.read_text() for path in files))  # strings that a line break divides
    source = re.sub(r"\{[^{}\n]*\}", "", source) + (ROOT / "Makefile").read_text() + os.strerror(errno.ENOSPC)
    rows = re.findall(r"(?m)^\| ([^|]+) \|", (ROOT / "docs" / "troubleshooting.md").read_text())
    symptoms = [symptom for row in rows for symptom in re.findall(r"`([^`]+)`", row)]
    pieces = {(symptom, piece.strip(" ();,")) for symptom in symptoms for piece in symptom.split("...")}
    assert len(symptoms) > 60
    assert not {symptom for symptom, piece in pieces if piece not in source}


def test_the_spec_of_the_page_on_campaigns_is_one(tmp_path):
    ((_, text),) = blocks(ROOT / "docs" / "campaigns.md", "yaml")
    values = yaml.safe_load(text)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**values, "notebook": str(ROOT / values["notebook"])}))
    assert len(resolve(load_spec(tmp_path / "mine.yaml"))) == 6


ALL = [
    *PAGES,
    *sorted((ROOT / "docs" / "explore").glob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "notebooks/README.md", "papermill_runs/README.md")),
]


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    missing = [str(target) for target in docs.targets(page) if not target.is_file()]
    assert not missing


def test_readme_is_one_screen_and_leads_to_every_page():
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 150
    linked = set(docs.targets(readme))
    assert {page for page in PAGES if page != readme} <= linked
    listed = {ROOT / file for files in docs.SECTIONS.values() for file in files}
    assert {page for page in PAGES if page != readme} <= listed
