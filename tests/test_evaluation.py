"""`lab evaluate`, `lab stats` and `lab probe`: one record that says how it was made, nothing computed twice, early refusals."""

import json
import re
import shutil

import pytest
import torch
from conftest import perturbed
from PIL import Image
from test_biflow import backward
from typer.testing import CliRunner

from labcore import TarFlow, processes, zoo
from labcore.cli.app import app
from labcore.data import ImageFolderData, load
from labcore.data.datasets import Data
from labcore.evaluate import generate as generate_module
from labcore.evaluate import session, statistics
from labcore.evaluate.generate import Sampling
from labcore.evaluate.session import METRICS, EvaluationRequest, evaluate_model, metric_requests
from labcore.jsonfile import write_json
from labcore.progress import show_progress, table

pytestmark = pytest.mark.usefixtures("small_encoder")

LAB = CliRunner()


def lab(*words: str):
    return LAB.invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small perturbed flow for 28x28 grey images, saved."""
    flow = perturbed(
        0.02, torch.float32, image_size=28, channels=1, patch_size=7, num_classes=10, num_blocks=2, layers_per_block=1
    )
    return str(flow.save_pretrained(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 train and 110 test images of the embedded set as a folder of class folders."""
    root = tmp_path_factory.mktemp("clothes")
    for split, each in (("train", 12), ("test", 11)):
        data = load("fashion-mnist-12k", split)
        for k, name in enumerate(data.classes):
            where = root / split / re.sub(r"\W", "-", name)
            where.mkdir(parents=True)
            for i in (data.labels == k).nonzero()[:each, 0].tolist():
                Image.fromarray(data.images[i, 0].numpy()).save(where / f"{i}.png")
    return root


SETTINGS = ("--num-samples", 100, "--guidance", 0.5, "--schedule", "linear", "--seed", 3, "--batch-size", 50)


@pytest.mark.slow
def test_one_record_of_everything(model, folder, tmp_path, monkeypatch):
    metrics = "likelihood,classify,kid_efflite0,is_efflite0,precision_efflite0,recall_efflite0"
    words = (
        "evaluate",
        model,
        "--data",
        folder,
        "--metrics",
        metrics,
        *SETTINGS,
        "--out",
        tmp_path / "deep" / "r.json",
    )
    done = lab(*words)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert set(record) == {"model", "likelihood", "training_free_accuracy", "fidelity_efflite0"}
    assert_says_what_the_readme_promises(record)
    for name in metrics.split(","):
        assert name in done.output
    assert "samples: 100 of 100" in done.output and "real images" in done.output
    found = record["fidelity_efflite0"]
    assert set(found["measures"]) == {"kid_efflite0", "is_efflite0", "precision_efflite0", "recall_efflite0"}
    for measure in found["measures"].values():
        assert measure["low"] <= measure["value"] <= measure["high"] and measure["n"] == 100
        assert measure["floor"] is not None
    drawn = found["images"]
    assert (drawn["guidance"], drawn["guidance_schedule"], drawn["seed"], drawn["solver"]) == (
        0.5,
        "linear",
        3,
        "sequential",
    )
    assert drawn["noise_std"] == 0.1 and len(drawn["model"]) == 16
    assert len(found["reference"]["weights"]) == 16 and found["reference"]["resize"].startswith("bicubic")
    assert (found["reference"]["n"], found["reference"]["floor_n"]) == (120, 110)
    # noise scores worse than real images
    assert found["measures"]["kid_efflite0"]["value"] > 2 * abs(found["measures"]["kid_efflite0"]["floor"])

    monkeypatch.setattr(generate_module, "sample", lambda *_, **__: pytest.fail("drawn again"))
    monkeypatch.setattr(statistics.Extractor, "__call__", lambda *_: pytest.fail("features computed again"))
    (tmp_path / "deep" / "r.json").unlink()
    assert lab(*words).exit_code == 0
    assert json.loads((tmp_path / "deep" / "r.json").read_text())["fidelity_efflite0"]["measures"] == found["measures"]


def assert_says_what_the_readme_promises(record):
    """Interval, number of images, how they were drawn, extractor with hash, resize, versions and revision."""
    for name, part in record.items():
        if name == "model":
            continue
        assert {"revision", "torch", "labcore", "device"} <= set(part["made_with"])
        assert {"weights", "config", "data", "fingerprint", "seed"} <= set(part["of"])
        for values in part.get("measures", {name: part}).values():
            number = values.get("value", values.get("accuracy", values.get("nats_per_dim")))
            assert values["low"] <= number <= values["high"] and values["n"] >= 100
            assert values["low"] < values["high"] or "measures" in part, "halves may agree, as in a precision of 0"
        if "measures" in part:
            assert {"seed", "guidance", "guidance_schedule", "noise_std", "solver"} <= set(part["images"])
            assert {"extractor", "weights", "resize", "fingerprint"} <= set(part["reference"])


def evaluated(*words, out, code=0):
    """(the output, the record at `out`) of `lab evaluate`."""
    done = lab("evaluate", *words, "--out", out)
    assert done.exit_code == code, done.output
    return done.output, json.loads(out.read_text())


def test_a_record_is_added_to_and_nothing_is_measured_twice(model, folder, tmp_path, monkeypatch):
    words, out = (model, "--data", folder), tmp_path / "r.json"
    _, first = evaluated(*words, "--limit", 20, "--metrics", "likelihood", out=out)
    assert first["likelihood"]["n"] == 20 and len(first["likelihood"]["of"]["weights"]) == 16
    spread = 1.96 * first["likelihood"]["standard_error"] / 784
    assert first["likelihood"]["high"] - first["likelihood"]["nats_per_dim"] == pytest.approx(spread)
    _, second = evaluated(*words, "--limit", 20, "--metrics", "bayes", out=out)
    assert second["likelihood"] == first["likelihood"] and second["bayes_accuracy"]["n"] == 20
    monkeypatch.setattr(session, "likelihood", lambda *_, **__: pytest.fail("measured again"))
    monkeypatch.setattr(session, "bayes_accuracy", lambda *_, **__: pytest.fail("measured again"))
    said, third = evaluated(*words, "--limit", 20, "--metrics", "bayes,likelihood,classify", out=out)
    assert said.count("; was in ") == 2 and "nats per image" in said
    assert {name: third[name] for name in second} == second and "training_free_accuracy" in third
    _, same = evaluated(*words, "--limit", 20, "--metrics", "bayes", "--seed", 5, out=out)
    assert same == third, "nothing is drawn for accuracy"


def test_two_evaluations_at_once_keep_each_others_parts(model, folder, tmp_path):
    flow, data, out = TarFlow.from_pretrained(model), Data("folder", str(folder), 28, 1), tmp_path / "r.json"

    def say(name: str, value: object) -> None:
        if name == "likelihood":
            evaluate_model(flow, data, EvaluationRequest(["classify"], limit=20), out)

    found = evaluate_model(
        flow, data, EvaluationRequest(["likelihood", "bayes"], limit=20, about={"note": "first"}), out, say=say
    )
    kept = json.loads(out.read_text())
    assert {"likelihood", "bayes_accuracy", "training_free_accuracy"} <= kept.keys() and kept["note"] == "first"
    assert found == kept


def test_what_was_measured_is_kept_beside_a_file_that_came_meanwhile(model, folder, tmp_path):
    flow, data, out = TarFlow.from_pretrained(model), Data("folder", str(folder), 28, 1), tmp_path / "r.json"

    def say(name: str, value: object) -> None:
        out.write_text("notes")

    with pytest.warns(UserWarning, match=r"r\.json is not a record .* The measurements are in .*r-[0-9a-f]{16}\.json"):
        found = evaluate_model(flow, data, EvaluationRequest(["likelihood", "bayes"], limit=20), out, say=say)
    (beside,) = tmp_path.glob("r-*.json")
    assert json.loads(beside.read_text()) == found and "bayes_accuracy" in found
    assert out.read_text() == "notes"


def test_a_record_from_before_fingerprints_left_the_folders_name_out_is_kept(model, folder, tmp_path, monkeypatch):
    flow, data, out = TarFlow.from_pretrained(model), Data("folder", str(folder), 28, 1), tmp_path / "r.json"
    request = EvaluationRequest(["bayes", "power_pixels"], Sampling(num=100, chunk=50), limit=20)
    with monkeypatch.context() as before:
        before.setattr(ImageFolderData, "fingerprint", ImageFolderData.named_fingerprint)
        first = evaluate_model(flow, data, request, out)
    monkeypatch.setattr(session, "bayes_accuracy", lambda *_, **__: pytest.fail("measured again"))
    both = evaluate_model(flow, data, request._replace(metrics=["bayes", "variance_pixels"]), out)
    assert both["bayes_accuracy"] == first["bayes_accuracy"]
    measures = both["fidelity_pixels"]["measures"]
    assert measures["power_pixels"] == first["fidelity_pixels"]["measures"]["power_pixels"] and len(measures) == 2


@pytest.mark.parametrize("change", [("--limit", 21), ("--seed", 1)])
def test_a_part_of_something_else_is_measured_again(change, model, tmp_path):
    out = tmp_path / "r.json"
    _, first = evaluated(model, "--limit", 20, "--metrics", "likelihood", out=out)
    words = change if change[0] == "--limit" else ("--limit", 20, *change)
    said, second = evaluated(model, *words, "--metrics", "likelihood", out=out)
    assert "; was in" not in said and second["likelihood"]["nats"] != first["likelihood"]["nats"]


def test_an_evaluation_that_was_killed_keeps_its_parts(model, tmp_path, monkeypatch):
    out = tmp_path / "r.json"

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "training_free_accuracy", killed)
        lab("evaluate", model, "--limit", 20, "--metrics", "likelihood,classify", "--out", out)
    monkeypatch.setattr(session, "likelihood", lambda *_, **__: pytest.fail("measured again"))
    _, record = evaluated(model, "--limit", 20, "--metrics", "likelihood,classify", out=out)
    assert record["likelihood"]["n"] == record["training_free_accuracy"]["n"] == 20


@pytest.mark.slow
def test_measures_of_the_same_images_share_a_part(model, folder, tmp_path, monkeypatch):
    words, out = (model, "--data", folder, *SETTINGS), tmp_path / "r.json"
    _, first = evaluated(*words, "--metrics", "is_efflite0", out=out)
    said, second = evaluated(*words, "--metrics", "is_efflite0,kid_efflite0", out=out)
    part, old = second["fidelity_efflite0"], first["fidelity_efflite0"]
    assert set(part["measures"]) == {"is_efflite0", "kid_efflite0"} and said.count("; was in ") == 1
    assert part["measures"]["is_efflite0"] == old["measures"]["is_efflite0"] and part["of"] == old["of"]

    out.write_text(json.dumps({**second, "fidelity_efflite0": {**part, "made_with": {"revision": "older"}}}))
    said, third = evaluated(*words, "--metrics", "recall_efflite0", out=out)
    assert set(third["fidelity_efflite0"]["measures"]) == {"is_efflite0", "kid_efflite0", "recall_efflite0"}
    assert "; was in" not in said and third["fidelity_efflite0"]["made_with"] == part["made_with"], "one stamp a part"

    monkeypatch.setattr(session, "generate", lambda *_, **__: pytest.fail("drawn"))
    assert evaluated(*words, "--metrics", "kid_efflite0", out=out)[1] == third
    other = [word if word != 0.5 else 0.25 for word in words]
    said, kept = evaluated(*other, "--metrics", "kid_efflite0", out=out, code=2)
    assert "is_efflite0, recall_efflite0 measured with another guidance; give another --out" in said and kept == third


def test_a_record_in_the_older_layout_is_kept(tmp_path):
    path = zoo.path("fashion-tarflow") / "evaluation.json"
    flow, old, out = zoo.load("fashion-tarflow"), json.loads(path.read_text()), tmp_path / "r.json"
    for part in ("likelihood", "bayes_accuracy", "training_free_accuracy"):
        old[part].pop("of", None)
    old["fidelity_efflite0"].pop("of", None)
    out.write_text(json.dumps(old))
    record = evaluate_model(flow, Data("fashion-mnist-12k"), EvaluationRequest(["classify"], limit=20), out)
    assert record == json.loads(out.read_text()) and record["training_free_accuracy"]["n"] == 20
    assert {**record, "training_free_accuracy": None} == {**old, "training_free_accuracy": None}


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "notes", '{"likelihood": {"nats": 1}}', '{"fidelity": {"measures": 3}}']
)
def test_a_file_that_is_no_record_is_left_alone(text, model, tmp_path):
    out = tmp_path / "r.json"
    out.write_text(text)
    done = lab("evaluate", model, "--limit", 20, "--out", out)
    assert done.exit_code == 2 and "r.json is not a record of `lab evaluate`" in done.output, done.output
    assert "remove this one" in done.output and out.read_text() == text


def test_a_record_of_another_model_is_left_alone(model, tmp_path):
    out = tmp_path / "r.json"
    evaluated(model, "--limit", 20, "--metrics", "likelihood", out=out)
    text = out.read_text()
    done = lab("evaluate", "fashion-tarflow", "--limit", 20, "--out", out)
    assert done.exit_code == 2 and "is a record of another model (weights " in done.output
    assert out.read_text() == text


def test_a_library_call_refuses_at_the_start(model, tmp_path):
    flow, data = TarFlow.from_pretrained(model), Data("nowhere")
    for options, out, what in (
        ({"seed": 2**32}, None, "allowed are 0..4294967295"),
        ({"limit": 0}, None, "limit was 0; give at least 1 image"),
        ({}, tmp_path, "is a folder; give the name of a file"),
    ):
        with pytest.raises((ValueError, OSError), match=what):
            evaluate_model(flow, data, EvaluationRequest(**options), out)


def test_json_has_no_nan_and_what_was_there_stays(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"a": 1})
    for values, error in (({"a": float("nan")}, ValueError), ({"a": object()}, TypeError)):
        with pytest.raises(error):
            write_json(path, values)
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def plain_folder(root, n, colours=1):
    (root / "a").mkdir(parents=True)
    for i in range(n):
        Image.new("L", (8, 8), 10 * (i % colours)).save(root / "a" / f"{i}.png")
    return root


def test_stats_of_too_few_or_constant_images(tmp_path):
    done = lab("stats", plain_folder(tmp_path / "one", 1), "--image-size", 8)
    assert done.exit_code == 2, done.output
    assert str(tmp_path / "one") in done.output and "at least 2; fid and sfid need 1281 and 113" in done.output
    done = lab("stats", plain_folder(tmp_path / "flat", 5), "--image-size", 8)
    assert done.exit_code == 2 and "all 5 images are the same" in done.output and str(tmp_path / "flat") in done.output
    done = lab("stats", plain_folder(tmp_path / "few", 5, 5), "--image-size", 8)
    assert done.exit_code == 0, done.output
    assert "note: 5 images are too few for fid_efflite0, sfid_efflite0, kid_efflite0" in done.output


@pytest.mark.slow
def test_statistics_of_ones_own_images(model, folder, tmp_path):
    path = tmp_path / "clothes.safetensors"
    done = lab("stats", folder, "--image-size", 28, "--channels", 1, "--out", path)
    assert done.exit_code == 0, done.output
    assert "statistics of 120 images" in done.output and "kid_efflite0" in done.output
    words = ("evaluate", model, "--metrics", "kid_efflite0", *SETTINGS)
    done = lab(*words, "--reference", path)
    assert done.exit_code == 0 and "kid_efflite0" in done.output, done.output
    other = tmp_path / "other.safetensors"
    assert lab("stats", folder, "--image-size", 14, "--channels", 1, "--out", other).exit_code == 0
    refused = lab(*words, "--reference", other)
    assert refused.exit_code == 2 and "image_size 14, and here it is 28" in refused.output
    refused = lab("stats", folder, "--image-size", 14, "--channels", 1, "--out", path)
    assert refused.exit_code == 2 and "image_size 28, and here it is 14" in refused.output
    missing = lab(*words, "--reference", tmp_path / "none")
    assert missing.exit_code == 2 and "lab stats" in missing.output


def test_probe(model, folder, tmp_path):
    done = lab("probe", model, "--data", folder, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "block 2, layer 1" in done.output and "training-free" in done.output
    record = json.loads((tmp_path / "probe.json").read_text())
    assert [(site["block"], site["layer"]) for site in record["sites"]] == [(1, 1), (2, 1)]
    assert record["protocol"]["epochs"] == 90 and record["training_free"]["n"] == 110
    assert Image.open(tmp_path / "probe.png").width > 300
    again = lab("probe", model, "--data", folder, "--sites", "2.1", "--out", tmp_path)
    assert again.exit_code == 0 and "block 1" not in again.output


REFUSED = {
    "an unknown metric": (("--metrics", "fidd"), "the names are likelihood, bayes"),
    "no metric": (("--metrics", ","), "no metrics were given"),
    "no number of samples": (("--metrics", "kid_efflite0"), "need --num-samples"),
    "too few for FID": (("--metrics", "fid_efflite0", "--num-samples", "1000"), "needs at least 1281 generated images"),
    "too few for sFID": (
        ("--metrics", "sfid_efflite0", "--num-samples", "112"),
        "needs at least 113 generated images",
    ),
    "too few at all": (("--metrics", "kid_efflite0", "--num-samples", "99"), "needs at least 100"),
    "a class that is not there": (
        ("--metrics", "kid_efflite0", "--num-samples", "100", "--classes", "11"),
        "allowed are 0..9",
    ),
    "no class": (("--metrics", "kid_efflite0", "--num-samples", "100", "--classes", "a"), "numbers like 3"),
    "no Inception": (("--metrics", "fid", "--num-samples", "5000"), "weights-inception-2015-12-05"),
    "guidance that compares nothing": (
        ("--metrics", "kid_efflite0", "--num-samples", "100", "--classes", "none", "--guidance", "1"),
        "two equal branches",
    ),
    "a schedule": (("--metrics", "kid_efflite0", "--num-samples", "100", "--schedule", "cosine"), "guidance_schedule"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case, model, monkeypatch, tmp_path):
    words, what = REFUSED[case]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    done = lab("evaluate", model, *words)
    assert done.exit_code == 2, done.output
    assert what in done.output and "Traceback" not in done.output


def test_too_few_reference_images_are_refused_before_drawing(model, folder, monkeypatch):
    monkeypatch.setattr(generate_module, "sample", lambda *_, **__: pytest.fail("drawn"))
    done = lab("evaluate", model, "--data", folder, "--metrics", "fid_efflite0", "--num-samples", 2000)
    assert done.exit_code == 2 and "needs at least 1281 reference images, given 120" in done.output


def test_an_unconditional_flow_cannot_classify(tmp_path):
    flow = perturbed(0.02, torch.float32, num_classes=0)
    with pytest.raises(ValueError, match="bayes, classify: this flow is unconditional"):
        metric_requests(["classify", "bayes"], flow, None)
    with pytest.raises(ValueError, match="the names are"):
        metric_requests([], flow, None)
    assert metric_requests(["fid", "likelihood", "fid", "kid_efflite0"], flow, Sampling(num=3000)).by_extractor == {
        "inception": ["fid"],
        "efflite0": ["kid"],
    }
    assert len(METRICS) == 3 + 3 * 6 + 2


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A student for 28x28 grey images that is no constant, saved."""
    inverse = backward(image_size=28, patch_size=7, num_classes=10, num_blocks=2, layers_per_block=1).float()
    return str(inverse.save_pretrained(tmp_path_factory.mktemp("learned")))


@pytest.mark.slow
def test_a_learned_inverse_is_measured_by_its_images(learned, folder, tmp_path, monkeypatch):
    words = ("--num-samples", 100, "--guidance", 0.5, "--batch-size", 50, "--metrics", "kid_efflite0,is_efflite0")
    out = tmp_path / "r.json"
    said, record = evaluated(learned, "--data", folder, *words, out=out)
    found = record["fidelity_efflite0"]
    assert set(found["measures"]) == {"kid_efflite0", "is_efflite0"} and "is_efflite0" in said
    assert found["images"] == {"num": 100, "classes": "each", "guidance": 0.5, "seed": 0, "chunk": 50} | {
        "model": found["of"]["weights"]
    }
    assert found["measures"]["kid_efflite0"]["value"] > 2 * abs(found["measures"]["kid_efflite0"]["floor"])
    monkeypatch.setattr(session, "generate", lambda *_, **__: pytest.fail("drawn again"))
    assert evaluated(learned, "--data", folder, *words, out=out)[1] == record


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "likelihood, classify: a student has no likelihood and cannot classify; ask for metrics of its",
        ),
        (("--metrics", "kid_efflite0,bayes", "--num-samples", 100), "bayes: a student has no likelihood"),
        (("--metrics", "kid_efflite0"), "need --num-samples"),
        (
            ("--metrics", "kid_efflite0", "--num-samples", 100, "--noise-std", 0.1),
            "a student has no noise_std, guidance_schedule, attn_temp, solver or compiled; leave them out",
        ),
    ],
)
def test_what_a_learned_inverse_does_not_have_is_refused(words, message, learned, monkeypatch, as_users_run):
    monkeypatch.setattr(generate_module, "sample", lambda *_, **__: pytest.fail("drawn"))
    done = lab("evaluate", learned, *words)
    assert done.exit_code == 2 and message in done.output, done.output
    assert "Traceback" not in done.output


def test_sites_are_read(model, tmp_path):
    assert "block.layer" in lab("probe", model, "--sites", "1-2", "--out", tmp_path).output
    done = lab("probe", model, "--sites", "9.1", "--out", tmp_path)
    assert done.exit_code == 2 and "outside the model" in done.output


def test_progress_in_a_log_is_a_line_at_every_tenth(capsys, monkeypatch):
    show = show_progress(force_lines=True)
    for done in range(101):
        show("samples", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11 and lines[0] == "samples: 0 of 100" and lines[-1] == "samples: 100 of 100"
    monkeypatch.setenv("RANK", "1")
    show_progress()("samples", 1, 2)
    assert capsys.readouterr().err == ""
    assert processes.process_share()[0] == 1
    assert table([("a", 1), ("long", "x")]) == "a     1\nlong  x"


def test_work_in_one_part_is_not_reported(capsys):
    show_progress(force_lines=True)("samples", 20, 20)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_judges_that_taught_nobody_are_metrics_by_name(model, folder, tmp_path):
    """The classifier's features and pixels: measured once, found again with their parts, and added to by a later call."""
    out = tmp_path / "record.json"
    words = ("evaluate", model, *SETTINGS, "--data", folder, "--out", out)
    first = lab(*words, "--metrics", "kid_classifier,power_pixels")
    assert first.exit_code == 0, first.output
    record = json.loads(out.read_text())
    made = record["fidelity_pixels"]
    assert made["reference"]["resize"] == "none" and made["reference"]["cutoff"] == 0.5 and made["resamples"] > 0
    assert record["fidelity_classifier"]["reference"]["resize"] == "bilinear, antialiased, to 28"
    assert made["measures"]["power_pixels"]["floor"] is not None
    again = lab(*words, "--metrics", "kid_classifier,power_pixels,variance_pixels")
    assert again.exit_code == 0 and "was in" in again.output
    later = json.loads(out.read_text())
    assert later["fidelity_classifier"] == record["fidelity_classifier"]
    assert later["fidelity_pixels"]["measures"]["power_pixels"] == made["measures"]["power_pixels"]
    assert later["fidelity_pixels"]["measures"]["variance_pixels"]["value"] > 0


def test_pixels_of_a_model_with_classes_in_another_order(folder, tmp_path, monkeypatch):
    """Measured once and added to: the record is of the images as they are numbered for the model."""
    names = tuple(reversed(Data("folder", str(folder), 28, 1).split("train").classes))
    flow = perturbed(
        0.02, torch.float32, image_size=28, channels=1, patch_size=7, num_classes=10, num_blocks=2, layers_per_block=1
    )
    flow = TarFlow(flow.config.replace(class_names=names)).eval()
    data, how = Data("folder", str(folder), 28, 1), Sampling(num=100, chunk=50)
    out = tmp_path / "r.json"
    with pytest.warns(UserWarning, match="matched by name"):
        first = evaluate_model(flow, data, EvaluationRequest(["power_pixels"], how), out)
        both = evaluate_model(flow, data, EvaluationRequest(["variance_pixels"], how), out)
        assert both["fidelity_pixels"]["measures"].keys() == {"power_pixels", "variance_pixels"}
        power = both["fidelity_pixels"]["measures"]["power_pixels"]
        assert power == first["fidelity_pixels"]["measures"]["power_pixels"]
        monkeypatch.setattr(session, "generate", lambda *_, **__: pytest.fail("measured again"))
        assert evaluate_model(flow, data, EvaluationRequest(["power_pixels", "variance_pixels"], how), out) == both


def test_classes_are_drawn_as_often_as_in_the_training_images(model, folder, tmp_path):
    unequal = tmp_path / "unequal"
    shutil.copytree(folder, unequal)
    for picture in sorted((unequal / "train" / "Bag").iterdir())[2:]:
        picture.unlink()
    words = ("evaluate", model, "--data", unequal, "--metrics", "power_pixels", "--num-samples", 110)
    for given, expected in (
        ((), ("data", [12, 2, *[12] * 8])),
        (("--classes", "each"), ("each", None)),
    ):
        out = tmp_path / f"{expected[0]}.json"
        done = lab(*words, *given, "--out", out)
        assert done.exit_code == 0, done.output
        drawn = json.loads(out.read_text())["fidelity_pixels"]["images"]
        assert (drawn["classes"], drawn.get("class_counts")) == expected


def test_judges_that_cannot_judge_are_refused_before_anything_is_drawn(model, tmp_path):
    colour = perturbed(0.02, torch.float32, image_size=8, channels=3, patch_size=4, num_classes=0, num_blocks=2)
    for metric, message in (
        ("kid_classifier", "images have 3 channels; extractor 'classifier' takes grey images only"),
        ("variance_pixels", "compares images of one class, and some have no class"),
    ):
        with pytest.raises(ValueError, match=message):
            metric_requests([metric], colour, Sampling(num=200))
    with pytest.raises(ValueError, match="power_pixels needs at least 100 generated images, given 50"):
        metric_requests(["power_pixels"], colour, Sampling(num=50))
    many = perturbed(0.02, torch.float32, num_classes=60)
    alone = r"needs 2 images of each class drawn; classes 50, 51, 52, 53, 54 and 5 more have 1 of 110 images"
    with pytest.raises(ValueError, match=alone):
        metric_requests(["variance_pixels"], many, Sampling(num=110))
    metric_requests(["variance_pixels"], many, Sampling(num=120))
    metric_requests(["variance_pixels"], many, Sampling(num=100, classes=(3, 9)))
    with pytest.raises(ValueError, match="some have no class"):
        metric_requests(["variance_pixels"], many, Sampling(num=120, classes="none"))
    done = lab(
        "evaluate", model, *SETTINGS, "--classes", "none", "--metrics", "variance_pixels", "--out", tmp_path / "a"
    )
    assert done.exit_code == 2 and "compares images of one class" in done.output + done.stderr
