"""CONTRIBUTING names files and functions that exist."""

import ast
import re
from pathlib import Path

import labcore

ROOT = Path(labcore.__file__).parent
SECTION = (ROOT.parent / "CONTRIBUTING.md").read_text().split("## Five ways through the code")[1].split("\n## ")[0]
ROW = re.compile(r"^\| `([\w/]+\.py)` \| (.+) \|$", re.MULTILINE)


def definitions(file: str) -> set[str]:
    """Names of the functions and classes of a module, or of the modules of a package that took its place."""
    module, package = ROOT / file, (ROOT / file).with_suffix("")
    sources = sorted(package.glob("*.py")) if package.is_dir() else [module]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_the_ways_through_the_code_name_what_exists():
    steps = ROW.findall(SECTION)
    assert SECTION.count("\n| `") == len(steps) > 40
    for file, what in steps:
        named = set(re.findall(r"`(\w+)`", what))
        assert named, f"{file}: name the function to look at"
        assert named <= definitions(file), f"{file} has no {named - definitions(file)}: correct CONTRIBUTING.md"
