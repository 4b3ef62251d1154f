"""YAML that other people wrote: numbers are what they look like, and bombs are refused at once."""

import json

import pytest
import toys
import yaml
from typer.testing import CliRunner

from labcore.campaigns.spec import load_spec
from labcore.cli.app import app
from labcore.jsonfile import parse_json
from labcore.runs.configure import configure
from labcore.runs.models import run_section
from labcore.yamlfile import dump_yaml, parse_value, parse_yaml, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e1", 10.0),
        ("1e-4", 1e-4),
        ("-2E3", -2000.0),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("12:30:00", "12:30:00"),
        ("1:30", "1:30"),
        ("0", 0),
        ("0.1", 0.1),
        ("0x10", 16),
        ("1_000", 1000),
        ("true", True),
        ("null", None),
        ("nan", "nan"),
        ("[1, 2e0]", [1, 2.0]),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
    ],
)
def test_values_are_what_they_look_like(text, value):
    read = parse_yaml(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("010", "010 is ambiguous .* write 10"),
        ("a: 1\na: 2", "'a' is there twice"),
        ("9" * 5000, "5000 digits; at most 20"),
        ("1e999", "too large"),
        ("2026-13-01", "no date"),
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        (BOMB, "aliases stand for more than"),
        ("&a [*a]", "aliases stand for more than"),
        ("a" * 2**21, "characters; YAML is read up to"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: [", "while parsing"),
    ],
)
def test_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["1e5", "010", "12:30:00", "1.0", "no", "2026-01-01", "0o7", "null", "a: b", "2_0"])
def test_texts_come_back_as_they_were(text):
    values = {"z": text, "a": [1e-5, 3, None, True, float("1e20")]}
    assert parse_yaml(dump_yaml(values)) == values


def test_every_file_is_read_with_these_limits(tmp_path):
    spec = toys.project(tmp_path)
    profile = tmp_path / "profile.yaml"
    for text in (BOMB, "[" * 500, "a: ["):
        for path in (spec, tmp_path / "config.yaml", profile):
            path.write_text(text)
        with pytest.raises(ValueError, match=r"toy\.yaml is not YAML that can be read"):
            load_spec(spec)
        with pytest.raises(ValueError, match=r"config\.yaml is not YAML that can be read"):
            configure(file=tmp_path / "config.yaml")
        with pytest.raises(ValueError, match=r"config\.yaml is not YAML that can be read"):
            run_section(tmp_path, "data")
        with pytest.raises(ValueError, match="is not a value"):
            configure(settings=[f"train.steps={text}"])
        result = CliRunner().invoke(app, ["run", str(spec), "--dry-run"])
        assert result.exit_code == 2 and "not YAML" in result.output
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match=r"latin\.yaml is not YAML"):
        read_yaml(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.lr=nan", "finite|valid number"),
        ("train.lr=.nan", "finite"),
        ("train.lr=1e999", "too large"),
        ("train.steps=010", "ambiguous"),
        ("train.steps=12:30:00", "valid integer"),
        ("train.steps=" + "9" * 5000, "at most 20"),
        ("train.steps=" + "9" * 19, "less than"),
        ("data={a: 1, a: 2}", "SECTION.KEY=VALUE"),
        ("train.betas={a: 1, a: 2}", "is there twice"),
    ],
)
def test_settings_that_are_no_values_are_refused(setting, message):
    with pytest.raises(ValueError, match=message) as refused:
        configure(settings=[setting])
    assert len(str(refused.value)) < 2000


def test_a_colour_is_no_comment():
    assert parse_value(" #ff0000") == "#ff0000" and parse_value("[1, 2]") == [1, 2] and parse_value("") is None
    assert configure(settings=["data.background=#ff0000"]).data.background == "#ff0000"


def test_settings_are_parsed_right():
    run = configure(settings=["train.lr=1e-3", "train.steps=1e1", "train.warmup_steps=0"])
    assert run.train.lr == 1e-3 and run.train.steps == 10


def test_deep_json_is_a_message():
    assert parse_json(json.dumps({"a": [1, None]})) == {"a": [1, None]}
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 200_000)


def test_pyyaml_would_have_taken_these():
    """What the loader is for: PyYAML reads octal, base 60 and the last of two keys without a word."""
    assert (
        yaml.safe_load("010") == 8
        and yaml.safe_load("12:30:00") == 45000
        and yaml.safe_load("{a: 1, a: 2}") == {"a": 2}
    )
