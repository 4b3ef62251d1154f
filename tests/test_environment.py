"""pyproject.toml, environment.yml and the pinned sets say the same, and hold no addresses."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FIXED = (
    "torch",
    "jupyterlab",
    "ipywidgets",
    "matplotlib",
    "accelerate",
    "timm",
    "diffusers",
    "papermill",
    "torch-fidelity",
)


def ranges(*lists) -> dict[str, str]:
    found = [Requirement(line) for lines in lists for line in lines]
    return {canonicalize_name(r.name): str(r.specifier) for r in found if r.name != "labcore"}


def pinned(name: str) -> dict[str, list[str]]:
    """Package -> its pinned versions (one per platform marker)."""
    pins: dict[str, list[str]] = {}
    for match in re.finditer(r"^([\w.\[\]-]+)==([\w.+!-]+)", (ROOT / "requirements" / name).read_text(), re.M):
        pins.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return pins


def test_conda_users_get_the_same_ranges():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, _, by_pip = environment["dependencies"]
    lines = [line for line in by_pip["pip"] if not line.startswith("-e")]
    assert ranges(lines) == ranges(PROJECT["dependencies"], *EXTRAS.values())
    assert python == f"python{PROJECT['requires-python']}"
    assert "-e ." in by_pip["pip"]


def test_the_design_cards_packages_are_there():
    assert set(FIXED) <= ranges(PROJECT["dependencies"]).keys()


@pytest.mark.parametrize(("name", "lists"), [("base.txt", ()), ("dev.txt", tuple(EXTRAS.values()))])
def test_pins_lie_in_the_ranges(name, lists):
    pins = pinned(name)
    for line in [line for part in (PROJECT["dependencies"], *lists) for line in part]:
        requirement = Requirement(line)
        if requirement.name == "labcore":
            continue
        versions = pins[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(v, prereleases=True) for v in versions), line


@pytest.mark.parametrize("name", ["base.txt", "dev.txt"])
def test_pins_keep_the_upper_limits(name):
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    limits = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
    pins = pinned(name)
    assert limits and all(limit.specifier.contains(pins[canonicalize_name(limit.name)][0]) for limit in limits)


def test_torch_and_torchvision_are_a_pair():
    """torchvision 0.N goes with torch 2.(N - 15); another pair fails at import with a missing operator."""
    for name in ("base.txt", "dev.txt"):
        pins = pinned(name)
        (torch,), (vision,) = pins["torch"], pins["torchvision"]
        numbers = [[int(x) for x in re.findall(r"\d+", v)[:2]] for v in (torch, vision)]
        if numbers[0] != [2, 15]:  # the pair that is pinned and was run: 2.15 with 0.29
            assert numbers[1][1] == numbers[0][1] + 15
        else:
            assert numbers[1] == [0, 29]


def test_no_addresses():
    for path in [*(ROOT / "requirements").glob("*.txt"), ROOT / "environment.yml", ROOT / "pyproject.toml"]:
        assert "://" not in path.read_text(), path.name
    for name in ("uv.lock", "pylock.toml"):
        assert not (ROOT / name).exists()


def test_nothing_is_installed_without_a_hash():
    """Setting up installs uv and setuptools too; their files are pinned as those of all others."""
    blocks = {
        name: re.search(
            r"^uv==\S+ \\\n(?:    --hash=\S+(?: \\)?\n)+", (ROOT / "requirements" / name).read_text(), re.M
        )[0]
        for name in ("setup.txt", "dev.txt")
    }
    assert blocks["setup.txt"] == blocks["dev.txt"] == (ROOT / "requirements" / "setup.txt").read_text()
    assert "setuptools" in pinned("dev.txt")
    setup = (ROOT / "Makefile").read_text().split("$(READY):")[1].split("\n\n")[0]
    installs = [line for line in setup.splitlines() if "pip install" in line]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation -e ." in line for line in installs)


def test_the_floor_of_diffusers_is_a_version_that_was_read():
    """Versions that import any module that a downloaded model_index.json names must not be allowed."""
    assert ranges(PROJECT["dependencies"])["diffusers"] == f">={pinned('base.txt')['diffusers'][0]}"
