"""The `lab` command: what it writes, and that a user's mistake is one message and status 2, never a traceback."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import perturbed
from PIL import Image
from typer.testing import CliRunner

from labcore.cli.app import app
from labcore.data import load


def lab(*words: str):
    return CliRunner().invoke(app, list(words))


def settings(model: str, train: str) -> list[str]:
    """Words for the command line: --set model.KEY=VALUE ... --set train.KEY=VALUE ..."""
    pairs = [f"model.{s}" for s in model.split()] + [f"train.{s}" for s in train.split()]
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small perturbed flow for 28x28 grey images, saved."""
    flow = perturbed(
        0.02, torch.float32, image_size=28, channels=1, patch_size=7, num_classes=10, num_blocks=2, layers_per_block=1
    )
    return str(flow.save_pretrained(tmp_path_factory.mktemp("model")))


def test_train_sample_evaluate(tmp_path):
    run = tmp_path / "run"
    words = settings("patch_size=7 num_blocks=2 layers_per_block=1", "steps=6 warmup_steps=2 precision=fp32")
    done = lab("train", "--out", str(run), *words)
    assert done.exit_code == 0, done.output
    assert "done: 6 steps" in done.output and (run / "model" / "config.json").exists()
    done = lab("sample", str(run), "--num", "12", "--guidance", "0.5", "--out", str(tmp_path / "s"))
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "s" / "images").glob("*.png"))) == 12
    plain = ((10 * 30 - 2) * 2, (2 * 30 - 2) * 2)
    with Image.open(tmp_path / "s" / "grid.png") as grid:
        assert grid.width == plain[0] and grid.height > plain[1]
        assert grid.info["Description"].startswith("columns T-shirt/top, Trouser, Pullover")
    assert "classes of the grid: columns T-shirt/top, Trouser" in done.output
    done = lab("sample", str(run), "--num", "12", "--guidance", "0.5", "--out", str(tmp_path / "s"), "--no-labels")
    with Image.open(tmp_path / "s" / "grid.png") as grid:
        assert done.exit_code == 0 and grid.size == plain and "Description" not in grid.info
    done = lab(
        "evaluate", str(run), "--limit", "20", "--metrics", "likelihood,bayes", "--out", str(tmp_path / "e.json")
    )
    assert done.exit_code == 0, done.output
    assert "nats/dim (images noised with sigma 0.1)" in done.output and "bayes" in done.output
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["likelihood"]["n"] == 20 and record["likelihood"]["made_with"]["data"] == "fashion-mnist-12k/test"


def test_samples_are_a_function_of_the_seed(model, tmp_path):
    for name, batch in (("a", "3"), ("b", "100")):
        assert (
            lab(
                "sample", model, "--num", "5", "--classes", "0,7", "--batch-size", batch, "--out", str(tmp_path / name)
            ).exit_code
            == 0
        )
    for i in range(5):
        a, b = ((tmp_path / n / "images" / f"{i:05d}.png").read_bytes() for n in "ab")
        assert a == b


def test_fewer_samples_do_not_hide_among_old_ones(model, tmp_path):
    assert lab("sample", model, "--num", "3", "--out", str(tmp_path)).exit_code == 0
    done = lab("sample", model, "--num", "2", "--out", str(tmp_path))
    assert done.exit_code == 2 and "has 00002.png and other images of an earlier call" in done.output
    assert lab("sample", model, "--num", "4", "--out", str(tmp_path)).exit_code == 0


def test_images_of_another_call_are_not_overwritten(model, tmp_path):
    drawn = ("sample", model, "--num", "2", "--out", str(tmp_path))
    assert lab(*drawn).exit_code == 0
    kept = (tmp_path / "images" / "00000.png").read_bytes()
    done = lab(*drawn, "--seed", "1")
    assert (
        done.exit_code == 2 and "images of another call (seed differ)" in done.output and "another --out" in done.output
    )
    assert lab(*drawn).exit_code == 0
    (tmp_path / "settings.json").unlink()
    done = lab(*drawn)
    assert done.exit_code == 2 and "no settings.json that names their model" in done.output
    assert (tmp_path / "images" / "00000.png").read_bytes() == kept


def test_each_model_and_setting_has_a_folder_of_its_own(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ((), ("--seed", "1"), ()):
        assert lab("sample", model, "--num", "2", *words).exit_code == 0
    assert len(list((tmp_path / "outputs" / "samples").iterdir())) == 2


def test_a_folder_of_pictures(tmp_path):
    for k in range(3):
        (tmp_path / "data" / f"c{k}").mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (20, 14), (80 * k, i, 0)).save(tmp_path / "data" / f"c{k}" / f"{i}.png")
    words = settings(
        "patch_size=4 num_blocks=1 layers_per_block=1", "steps=2 warmup_steps=1 batch_size=8 precision=fp32"
    )
    done = lab("train", "--data", str(tmp_path / "data"), "--image-size", "8", "--out", str(tmp_path / "run"), *words)
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert (config["channels"], config["num_classes"], config["image_size"]) == (3, 3, 8)
    done = lab("evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "data"))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample nowhere", "no folder 'nowhere'"),
        ("sample MODEL --num 0", "--num"),
        ("sample MODEL --num -3", "--num"),
        ("sample MODEL --out FILE/x", "cannot write to"),
        ("sample MODEL --classes 3,12", "allowed are 0..9"),
        ("sample MODEL --classes shoes", 'write "each"'),
        ("sample MODEL --guidance nan", "finite"),
        ("sample MODEL --classes none --guidance 1", "attn_temp"),
        ("sample MODEL --schedule cosine", "constant, linear"),
        ("sample MODEL --noise-std -1", "noise_std"),
        ("sample nowhere", "shipped are fashion-tarflow"),
        ("evaluate nosuch", "shipped are fashion-tarflow"),
        ("evaluate MODEL --limit 1", "at least 2"),
        ("evaluate MODEL --limit 0", "--limit"),
        ("evaluate MODEL --limit -5", "--limit"),
        ("probe MODEL --limit -5", "--limit"),
        ("evaluate MODEL --seed -1", "--seed"),
        ("evaluate MODEL --seed 4294967296", "--seed"),
        ("evaluate MODEL --num-samples 1000001", "--num-samples"),
        ("evaluate MODEL --out FOLDER", "is a folder; give the name of a file"),
        ("stats fashion-mnist-12k --out FOLDER", "is a folder; give the name of a file"),
        ("probe MODEL --out TAKEN", "probe.json is a folder"),
        ("probe MODEL --out FILE", "cannot write to"),
        ("evaluate MODEL --data nowhere", "nowhere"),
        ("train --out OUT --preset huge", "no preset 'huge'"),
        ("train --out OUT --set model.patch_size=5", "does not divide image_size 28"),
        ("train --out OUT --set train.batch_size=0", "train.batch_size: Input should be greater than 0, given 0"),
        ("train --out OUT --set train.speed=3", "train.speed: Extra inputs are not permitted"),
        ("train --out OUT --data nowhere --image-size 8", "nowhere"),
        ("train --out OUT --config nowhere.yaml", "no file 'nowhere.yaml'"),
        ("train --out OUT --num-processes 0", "num_processes was 0"),
        ("train --out OUT --num-processes 2 --set train.batch_size=15", "give a multiple of 2"),
        ("train --out OUT --set train.steps=[1", "is not a value"),
        ("train --out OUT --set train.steps=3 --set train.steps=4", "give train.steps twice, as 3 and 4"),
        ("train --out OUT --set train.steps=3 --set train.steps=3", "give train.steps twice, as 3 and 3"),
        ("train --out OUT --align forward --set align.direction=reverse", "--align was 'forward' and the setting"),
        ("train --out OUT --image-size 28 --set data.image_size=14", "--image-size gives data.image_size 28"),
        ("train --out OUT --data fashion-mnist --set data.name=folder", "--data gives data.name 'fashion-mnist'"),
        ("train --out OUT --set train.min_lr=1", "min_lr 1 is above lr"),
        ("train --out OUT --out OTHER", "--out was given more than once"),
        ("train --out OUT --previews --no-previews", "--previews was given more than once"),
        ("sample fashion-tarflow --out OUT --seed 1 --seed 2", "--seed was given more than once"),
        (
            "plan fashion-small --image-size 28 --set data.image_size=14",
            "--image-size gives data.image_size 28, and the settings 14",
        ),
        ("run 08_toy_2d --dry-run --set seed=1 --set seed=2", "--set gives seed twice, as 1 and 2"),
        ("evaluate MODEL --out FILE/x/e.json --limit 2", "cannot write to"),
        ("sample MODEL --guidance 1e30 --num 2", "of 2 images are not finite"),
    ],
)
def test_mistakes_are_one_message(words, message, model, tmp_path, as_users_run):
    (tmp_path / "taken" / "probe.json").mkdir(parents=True)
    done = lab(
        *[
            {
                "MODEL": model,
                "OUT": str(tmp_path / "run"),
                "FILE": f"{model}/config.json",
                "FOLDER": model,
                "TAKEN": str(tmp_path / "taken"),
                "FILE/x": f"{model}/config.json/x",
                "FILE/x/e.json": f"{model}/config.json/x/e.json",
            }.get(w, w)
            for w in words.split()
        ]
    )
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output and not isinstance(done.exception, (ValueError, OSError))
    assert not (tmp_path / "run").exists()


def test_a_cache_that_is_a_file_names_the_variable(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "file"))
    for words in (("stats", "fashion-mnist-12k"), ("probe", model, "--out", str(tmp_path / "probe"))):
        done = lab(*words)
        assert done.exit_code == 2 and "LABCORE_CACHE is" in done.output, done.output


def test_doctor_and_help():
    done = lab("doctor")
    assert done.exit_code == 0 and "torch " in done.output and "device" in done.output
    assert "on CUDA by a recorded CUDA graph" in " ".join(done.output.split())
    assert "GB; `lab cache` lists and deletes what can be made again" in " ".join(done.output.split())
    for command in ("train", "sample", "evaluate", "doctor"):
        assert lab(command, "--help").exit_code == 0


def test_evaluate_agrees_with_the_library(model, tmp_path):
    from labcore import TarFlow
    from labcore.evaluate import likelihood

    assert lab("evaluate", model, "--limit", "30", "--out", str(tmp_path / "e.json")).exit_code == 0
    record = json.loads((tmp_path / "e.json").read_text())["likelihood"]
    test = load("fashion-mnist-12k", "test")
    want = likelihood(TarFlow.from_pretrained(model), test.subset([i * len(test) // 30 for i in range(30)]))
    assert record["nats"] == pytest.approx(want.nats, rel=1e-6)
    assert torch.get_num_threads() >= 1


def test_a_folder_is_cropped_as_in_the_models_run(tmp_path):
    from labcore.runs.own_data import source_of

    (tmp_path / "config.yaml").write_text("data: {name: folder, crop: adm}\n")
    (tmp_path / "model").mkdir()
    config = perturbed().config
    assert source_of(str(tmp_path), config, "pictures", None, None).crop == "adm"
    assert source_of(str(tmp_path), config, "pictures", None, "fit").crop == "fit"
    assert source_of(str(tmp_path), config, "fashion-mnist-12k", None, None).crop is None
    assert source_of("elsewhere", config, "pictures", None, None).crop is None


@pytest.mark.parametrize("words", [["--out", ""], ["--out="]])
def test_an_empty_value_is_refused(words, tmp_path, monkeypatch):
    """As of an unset variable in a script; as a path it would be the folder that one is in."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", *words])
    assert result.exit_code == 2 and "--out was given an empty value" in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_a_character_that_the_terminal_cannot_show_ends_nothing(tmp_path):
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    code = "from labcore.terminal import show_any_character as show; show(); print('\\u2603 snow')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "\\u2603 snow\n"


def test_calibrate_without_a_home_says_what_to_set(monkeypatch):
    for name in ("LABCORE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    result = CliRunner().invoke(app, ["calibrate", "fashion-tarflow"])
    assert result.exit_code == 2 and "set LABCORE_CACHE to a folder that can be written" in " ".join(
        result.output.split()
    )
