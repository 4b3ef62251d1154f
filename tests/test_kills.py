"""SIGKILL at random moments of real training in a notebook: weights, log and numbers end bit-equal to an undisturbed run."""

import contextlib
import json
import os
import random
import shutil
import time

import pytest
import toys
import yaml
from in_turn import in_turn
from test_run_faults import alive, kernel_in

from labcore.campaigns import state
from labcore.campaigns.spec import load_spec, resolve

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run")]
KILLS = 5
"""In each of four tests."""
SMALL = dict(batch_size=16, width=32, num_blocks=2, scored_images=50, classified_images=20)
TIMES = {"seconds", "seconds_per_step", "images_per_second", "time", "training_seconds"}


def spec_in(folder, **changes) -> object:
    """The quickstart's spec, made small, in a project of its own."""
    quickstart = load_spec("00_quickstart")
    shutil.copytree(quickstart.project / "notebooks", folder / "notebooks", dirs_exist_ok=True)
    path = folder / "papermill_runs" / "specs" / "small.yaml"
    path.parent.mkdir(parents=True)
    about = dict(notebook="notebooks/00_quickstart.ipynb", about="a small quickstart", expected=dict(cost="a minute"))
    path.write_text(yaml.safe_dump({**about, "parameters": {**SMALL, "steps": 60}, "seeds": [0, 1], **changes}))
    return path


def without_times(value):
    """A record without what no two runs share."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def outcome(run, root) -> dict:
    """What must be equal: weights by their bytes, the training's log, and the notebook's own record."""
    folder = run.folder(root)
    log = (folder / "train" / "log.jsonl").read_text().splitlines()
    return {
        "weights": (folder / "train" / "model" / "model.safetensors").read_bytes(),
        "log": [without_times(json.loads(line)) for line in log],
        "result": without_times(json.loads((folder / "result.json").read_text())),
    }


@pytest.mark.parametrize("part", in_turn(range(4), 4))
def test_sigkill_at_random_moments_of_real_training(tmp_path, part):
    seed = f"{os.environ.get('LABCORE_FAULT_SEED', '0')}.{part}"
    rng, kills, hit = random.Random(seed), 0, dict.fromkeys(("runner", "run", "kernel"), 0)
    calm, rough = spec_in(tmp_path / "calm"), spec_in(tmp_path / "rough")
    roots = [path.parent.parent / "executed" for path in (calm, rough)]
    child = toys.lab("run", calm, "--jobs", "2")
    output = child.communicate(timeout=600)[0]
    assert child.returncode == 0, output
    runs = resolve(load_spec(rough))
    while kills < KILLS:
        for run in runs:  # something left to kill
            if (found := state.read(run.folder(roots[1]))) is not None and found.status == "done":
                shutil.rmtree(run.folder(roots[1]))
        child = toys.lab("run", rough, "--jobs", "2")
        time.sleep(rng.uniform(3, 20))
        while child.poll() is None:
            live = [f for f in state.states(roots[1]) if f.status == "running" and state.holder(f.folder)]
            target = rng.choice(list(hit)) if live else "runner"
            found = rng.choice(live) if live else None
            process = child.pid
            if target != "runner":
                process = found.values["attempts"][-1]["pid"] if target == "run" else kernel_in(found.folder)
            if process and alive(process):
                with contextlib.suppress(ProcessLookupError):  # ended since
                    os.kill(process, 9)
                    kills, hit[target] = kills + 1, hit[target] + 1
            if target == "runner":
                break
            time.sleep(rng.uniform(1, 8))
        child.communicate()
    child = toys.lab("run", rough, "--jobs", "2")
    output = child.communicate(timeout=600)[0]
    assert child.returncode == 0, output
    attempts = [len(state.read(run.folder(roots[1])).values["attempts"]) for run in runs]
    for one, other in zip(resolve(load_spec(calm)), runs, strict=True):
        assert outcome(one, roots[0]) == outcome(other, roots[1])
    print(f"\nseed {seed}: {kills} kills {hit}, {attempts} attempts of the last runs")
