"""A campaign of a notebook that has nothing to do with labcore, from its spec to its table, in a project of its own."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import toys
import yaml

PARAMETERS = """
smoke = False  # a tiny size
seed = 0  # of the numbers
run_dir = "runs"  # folder of result.json
count = 1000  # numbers that are averaged [size]
shift = 0.0  # added to every number
source = "offset.txt"  # a file with a number [path]
"""
CELL = """
import json, random, sys
from pathlib import Path

numbers = random.Random(seed)
offset = float(Path(source).read_text())
mean = sum(numbers.random() for _ in range(count)) / count + shift + offset
Path(run_dir, "result.json").write_text(json.dumps({"mean": mean}))
"""
SPEC = {
    "notebook": "average.ipynb",
    "about": "averages random numbers",
    "parameters": {"source": "offset.txt"},
    "rows": {"plain": {}, "shifted": {"shift": 0.5}},
    "seeds": [0, 1],
    "expected": {"cost": "seconds"},
    "table": {"columns": {"mean": "mean"}, "baseline": "plain", "better": {"mean": "higher"}},
}
DRIVER = """
import sys
from pathlib import Path

sys.modules["torch"] = None
from labcore.campaigns import publishing, runner, spec

campaign = spec.load_spec(sys.argv[1])
runs = spec.resolve(campaign)
assert runner.run_spec(runs, Path(sys.argv[2]), jobs=2, devices=[], live=False) == 0
print(publishing.publish(campaign, runs, Path(sys.argv[2])).added)
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("labcore.")}
assert not rooms & {"flows", "nn", "data", "train", "evaluate", "runs", "presets", "experiments", "cli"}, rooms
"""


@pytest.mark.slow
def test_a_notebook_without_labcore_goes_from_its_spec_to_its_table(tmp_path):
    nbformat.write(toys.notebook(CELL, parameters=PARAMETERS), tmp_path / "average.ipynb")
    (tmp_path / "offset.txt").write_text("10.0")
    spec = tmp_path / "papermill_runs" / "specs" / "average.yaml"
    spec.parent.mkdir(parents=True)
    spec.write_text(yaml.safe_dump(SPEC))
    words = [sys.executable, "-c", DRIVER, str(spec), str(tmp_path / "runs")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "papermill_runs" / "results" / "average"
    records = [json.loads(path.read_text()) for path in (results / "records").glob("*.json")]
    means = {(record["row"], record["seed"]): record["metrics"]["mean"] for record in records}
    assert means.keys() == {("plain", 0), ("plain", 1), ("shifted", 0), ("shifted", 1)}
    assert all(10.4 < mean < 10.6 for (row, _), mean in means.items() if row == "plain")
    assert all(Path(record["parameters"]["source"]) == Path("offset.txt") for record in records)
    assert "| +0.5 ± " in (results / "table.md").read_text()
    assert not list(tmp_path.glob("**/labcore"))
