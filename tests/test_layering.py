"""The direction of imports: each package may use what lies below it, and `import labcore` stays quick."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import labcore

ROOT = Path(labcore.__file__).parent

L0 = {"config", "strict", "types", "rng", "jsonfile", "guidance", "provenance", "revision", "store", "derived"}
L0 |= {"memory", "timing", "live", "spread", "tf32", "reading", "driver", "files", "yamlfile", "tensors"}
L0 |= {"finite", "hints", "processes", "terminal", "locks", "progress", "contents", "portable"}
L0 |= {"sites", "directions", "arrayfile", "in_use", "cache", "torchfile", "weight_files", "markdown", "dotted"}
BELOW_L4 = L0 | {"kernels", "nn", "flows"}
BELOW_L5 = BELOW_L4 | {"data", "latents", "encoders", "inverse", "align", "biflow"}
BELOW_L6 = BELOW_L5 | {"train", "evaluate", "kinds", "plan"}
BELOW_RUNS = BELOW_L6 | {"zoo", "presets", "viz"}  # a run may start from a shipped model, and draws grids of samples
MAY_IMPORT = {
    **dict.fromkeys(L0, L0),
    "campaigns": L0 - {"config"},  # notebooks run from a spec: could be lifted out, and needs neither torch nor flows
    "kernels": L0,
    "nn": L0 | {"kernels"},
    "data": L0,
    "latents": L0 | {"data"},  # the latents of a data set are a data set
    "encoders": L0 | {"kernels", "nn"},  # the lab's own classifier is one of them
    "flows": L0 | {"nn", "kernels"},
    **dict.fromkeys(("inverse", "align", "biflow"), BELOW_L4),
    **dict.fromkeys(("train", "evaluate"), BELOW_L5),
    "kinds": BELOW_L5 | {"train", "evaluate"},
    "plan": BELOW_L5 | {"train", "evaluate", "kinds"},
    "viz": BELOW_L6,
    "zoo": BELOW_L6,
    "hub": BELOW_L6 | {"zoo"},  # pipelines are also made of a shipped model, by its name
    "presets": L0 | {"latents"},
    "runs": BELOW_RUNS | {"viz"},
    "experiments": BELOW_RUNS | {"runs", "campaigns"},
    "rehearsal": BELOW_RUNS | {"runs", "experiments"},
    "site": BELOW_RUNS | {"hub", "runs", "campaigns", "experiments"},  # tables are made from records and presets
    "cli": BELOW_RUNS | {"hub", "runs", "campaigns", "experiments", "rehearsal", "site"},
}
HEAVY = {
    *("timm", "diffusers", "torch_fidelity", "torchvision", "triton", "ipywidgets", "papermill", "matplotlib"),
    *("accelerate", "huggingface_hub", "tensorboard", "PIL", "onnx", "onnxruntime", "onnxscript"),
}
"""Imported inside the functions that need them, so that labcore works without them and imports quickly."""

FILES = sorted(ROOT.rglob("*.py"))
TOP = {"__init__"}
COMMANDS_OF_EARLIER_VERSIONS = {"runs/execute.py", "runs/slurm.py"}
"""One line each, so that what was submitted before a module moved still runs."""


def package(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0].removesuffix(".py")


def imports(tree: ast.AST, top_level_only: bool) -> set[str]:
    """Dotted names that a module imports; below the top level of it too, unless told otherwise."""
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    own, tree = package(path), ast.parse(path.read_text())
    if own not in TOP and str(path.relative_to(ROOT)) not in COMMANDS_OF_EARLIER_VERSIONS:
        assert own in MAY_IMPORT, f"{own} has no layer: say in this test what it may import"
        used = {name.split(".")[1] for name in imports(tree, False) if name.startswith("labcore.")} - {"__version__"}
        allowed = MAY_IMPORT[own] | {own}
        assert used <= allowed, f"{own} may not import {sorted(used - allowed)}"
    heavy = {name.split(".")[0] for name in imports(tree, True)} & HEAVY
    twins = {name for name in imports(tree, True) if name.startswith("labcore.kernels.") and "_triton" in name}
    if own == "kernels" and path.stem.endswith("_triton"):
        heavy -= {"triton"}  # such a module is itself imported by the dispatch of its kernel alone
        twins = set()
    if own == "hub":
        heavy -= {"diffusers"}  # its classes derive from diffusers'; nothing imports it but who asks for it
    assert not twins, f"{sorted(twins)} belong inside the functions that need them"
    assert not heavy, f"{sorted(heavy)} belong inside the functions that need them"


@pytest.mark.slow
def test_a_model_is_loaded_without_the_compiler():
    """Arithmetic on tensors without values imports torch's compiler, for seconds: `labcore.tensors.only_shapes`."""
    load = "import sys; from labcore import zoo; [zoo.load(name) for name in zoo.NAMES]; zoo.load_classifier()"
    code = f"{load}; bad = {{'torch._dynamo', 'sympy'}} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_small_and_named_for_what_they_hold(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in {"utils", "common", "helpers", "misc"}
    assert ast.get_docstring(ast.parse(path.read_text())), "a module says what it is"


def test_labcore_imports_without_heavy_packages():
    code = (
        f"import sys, labcore; labcore.TarFlow, labcore.sample; bad = {HEAVY!r} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_line_starts_without_torch():
    """Help does not wait for it."""
    subprocess.run([sys.executable, "-c", "import sys, labcore.cli.app; assert 'torch' not in sys.modules"], check=True)


def test_campaigns_work_without_torch():
    """`lab run` works where torch cannot be imported: the notebooks' own processes need it."""
    modules = [f"labcore.campaigns.{path.stem}" for path in sorted((ROOT / "campaigns").glob("*.py"))]
    code = f"import sys; sys.modules['torch'] = None; import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], check=True)


INNER = {"kernels", "inverse.decode", "inverse.fixed_point", "inverse.params"}
"""What runs once a token, or once a layer of it: `make test` leaves its annotations unchecked."""


def test_annotations_with_shapes_are_checked(pytestconfig):
    """The list in pyproject.toml names what is there, and every module with shapes but the inner loops."""
    (option,) = [word for word in pytestconfig.getini("addopts") if word.startswith("--jaxtyping-packages=")]
    *checked, _ = option.partition("=")[2].split(",")
    names = {".".join(("labcore", *path.relative_to(ROOT).with_suffix("").parts)): path for path in FILES}
    within = lambda name, packages: any(f"{name}.".startswith(f"{each}.") for each in packages)  # noqa: E731
    assert all(any(within(name, [each]) for name in names) for each in checked)
    with_shapes = {name for name, path in names.items() if "from jaxtyping import" in path.read_text()}
    inner = {f"labcore.{name}" for name in INNER}
    assert {name for name in with_shapes if not within(name, checked)} == {n for n in with_shapes if within(n, inner)}


def test_public_names():
    for name in labcore.__all__:
        assert getattr(labcore, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'TarFlowz'"):
        labcore.TarFlowz  # noqa: B018
