"""Where things lie: no absolute path and no host in what is named, compared or published; no folder of what was refused."""

import json
import re
import shutil
import socket
import subprocess
import warnings
from pathlib import Path

import nbformat
import pytest
import toys

import labcore
from labcore import contents, jsonfile, portable
from labcore.campaigns import notebook, records, results, runner, state
from labcore.campaigns.parameters import NAME_OR_PATH, PATH, read_parameters
from labcore.campaigns.publishing import publish
from labcore.campaigns.runner import run_spec
from labcore.campaigns.spec import load_spec, resolve, run_id
from labcore.cli import demo
from labcore.cli.listing import list_runs
from labcore.config import StudentRunConfig
from labcore.runs import detached
from labcore.runs.config_paths import anchored
from labcore.runs.configure import configure, configure_run
from labcore.runs.train import run_training
from labcore.train import same_run
from labcore.train.log import RunLog, read_log

ROOT = Path(labcore.__file__).parents[1]
CHECKPOINT = "checkpoint = 'fashion-tarflow'  # [name or path]"
PARAMETERS = f"data_path = None  # [path]\n{CHECKPOINT}\nsmoke = False\nseed = 0\nrun_dir = 'x'"


# the names of a campaign's runs


def campaign(folder: Path, pictures: bytes = b"picture", **parameters) -> Path:
    """A spec in a project of its own, beside which are a folder of pictures and a run with a finished model."""
    spec = toys.project(folder, parameters=parameters)
    nbformat.write(toys.notebook("1", parameters=PARAMETERS), folder / "notebooks" / "toy.ipynb")
    for name, content in {"pictures/cat/1.png": pictures, "run/model/model.safetensors": b"weights"}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(content)
    (folder / "run" / "model" / "config.json").write_text("{}")
    return spec


def test_a_campaign_has_the_same_runs_in_another_folder(tmp_path):
    given = {"data_path": "pictures", "checkpoint": "run/"}
    here = resolve(load_spec(campaign(tmp_path / "a", **given)))[0]
    there = resolve(load_spec(campaign(tmp_path / "elsewhere" / "b", **given)))[0]
    assert here.id == there.id and here.contents == there.contents
    assert here.parameters["checkpoint"] == str(tmp_path / "a" / "run")
    absolute = {"data_path": str(tmp_path / "a" / "pictures"), "checkpoint": str(tmp_path / "a" / "run")}
    assert resolve(load_spec(campaign(tmp_path / "c", **absolute)))[0].id == here.id


def test_other_contents_are_another_run_and_what_a_run_logs_is_none(tmp_path):
    spec = load_spec(campaign(tmp_path, data_path="pictures", checkpoint="./run"))
    first = resolve(spec)[0]
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "pictures" / ".DS_Store").write_text("x")
    assert resolve(spec)[0].id == first.id
    (tmp_path / "pictures" / "cat" / "1.png").write_bytes(b"another")  # as long as before
    second = resolve(spec)[0]
    (tmp_path / "run" / "model" / "model.safetensors").write_bytes(b"Weights")
    assert len({first.id, second.id, resolve(spec)[0].id}) == 3


def test_a_folder_linked_into_itself_is_read_once(tmp_path):
    spec = load_spec(campaign(tmp_path, data_path="pictures"))
    first = resolve(spec)[0].id
    (tmp_path / "pictures" / "cat" / "again").symlink_to(tmp_path / "pictures")
    assert resolve(spec)[0].id == first


def test_a_name_stays_one_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    spec = load_spec(campaign(tmp_path, checkpoint="fashion-r-repa"))
    named = resolve(spec)[0]
    (tmp_path / "fashion-r-repa").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"taken as a name.*checkpoint=\./fashion-r-repa"):
        assert resolve(spec)[0].id == named.id == run_id(named.notebook, named.parameters)


def test_the_mark_alone_says_whether_one_word_is_a_path(tmp_path):
    """What the parameter is called does not matter."""
    spec = load_spec(campaign(tmp_path, anything="run", data_path="pictures"))
    marked = "data_path = None  # [name or path]\nanything = None  # [path]\nsmoke = False\nseed = 0\nrun_dir = 'x'"
    nbformat.write(toys.notebook("1", parameters=marked), spec.notebook_path())
    (run,) = resolve(spec)
    assert run.contents.keys() == {"anything"} and run.parameters["data_path"] == "pictures"


def test_a_folder_of_an_earlier_version_stays_and_the_run_can_be_published(tmp_path):
    """Earlier versions put a path itself into a run's id. Such a folder is listed; the run gets one of its own."""
    spec = load_spec(campaign(tmp_path, data_path="pictures"))
    (run,) = resolve(spec)
    older, root = run_id(run.notebook, run.parameters), tmp_path / "papermill_runs" / "executed"
    for identity in (older, run.id):
        folder = run._replace(id=identity).folder(root)
        folder.mkdir(parents=True)
        attempts = [{"seconds": 1.0, "code": run.code}]
        state.save(state.State(folder, {**state.fresh(run), "id": identity, "status": "done", "attempts": attempts}))
        (folder / "result.json").write_text('{"total": 1.0}')
        found = runner.finished(run, root)
        assert (found and found.values["id"]) == (run.id if identity == run.id else None)
    assert publish(spec, [run], root).missing == [] and list(results.published_records(spec, [run])) == [run.id]
    assert [line.split()[0] for line in list_runs("toy", None, (), (), root)[1:]].count(older) == 1


def test_a_run_in_a_moved_campaign_is_told_the_new_paths(tmp_path):
    run = resolve(load_spec(campaign(tmp_path / "a", data_path="pictures")))[0]
    state.prepare_run_folder(run, tmp_path / "root")
    moved = resolve(load_spec(campaign(tmp_path / "b", data_path="pictures")))[0]
    found = state.prepare_run_folder(moved, tmp_path / "root")
    for key in ("given", "parameters"):
        assert found.values[key]["data_path"] == str(tmp_path / "b" / "pictures")


@pytest.mark.parametrize("folder", sorted((ROOT / "papermill_runs" / "results").iterdir()), ids=lambda path: path.name)
def test_published_records_are_read_and_keep_their_ids(folder):
    found = results.published(folder.name, folder.parent)
    assert found.records
    current = {(run.row, run.seed): run for run in resolve(load_spec(folder.name))}
    for one in found.records:
        run = current.get((one["row"], one["seed"]))
        if run is not None and run.parameters == one["parameters"]:
            assert run.id == one["id"] and not run.contents


def test_records_are_compared_by_contents_where_both_say_them(tmp_path):
    one = {
        "id": "a",
        "row": "r",
        "seed": 0,
        "parameters": {"data_path": "x", "seed": 0},
        "contents": {"data_path": "1"},
    }
    other = {**one, "id": "b", "seed": 1, "parameters": {"data_path": "y", "seed": 1}}
    records.check_same([one, other], tmp_path)  # the same pictures in a folder of another name
    with pytest.raises(ValueError, match="differ in data_path"):
        records.check_same([one, {**other, "contents": {"data_path": "2"}}], tmp_path)


def test_each_path_among_the_notebooks_parameters_is_known():
    words = re.compile(r"folder|shipped model|trained flow|student of|statistics of")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for name, parameter in read_parameters(path).items():
            is_text = isinstance(parameter.default, str | None) and name not in (
                "run_dir",
                "dataset",
                "image_size",
                "crop",
            )
            if is_text and words.search(parameter.comment):
                assert parameter.mark in (PATH, NAME_OR_PATH), f"{path.name}: {name}"


# the paths in a run's configuration


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """A working directory with what a configuration may name."""
    for name in ("pictures", "vae", "flow"):
        (tmp_path / name).mkdir()
    (tmp_path / "encoder.pth").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "path", "pictures"),
        ("data", "path", "../nowhere"),
        ("model", "codec", "vae"),
        ("align", "weights", "encoder.pth"),
    ],
)
def test_every_path_of_a_configuration_is_absolute(typed, section, key, value):
    expected = str((typed / value).resolve())
    found = configure("fashion-small", settings=[f"{section}.{key}={value}"], align="reverse")
    assert getattr(getattr(found, section), key) == expected
    (typed / "run.yaml").write_text(
        "model: {image_size: 28, channels: 1, patch_size: 4, width: 64, num_blocks: 8, "
        "layers_per_block: 2}\ntrain: {steps: 9}\nalign: {sites: [[1, 1]]}\n"
    )
    file = configure_run(file=typed / "run.yaml", settings=[f"{section}.{key}={value}"])
    assert getattr(getattr(file, section), key) == expected


def test_the_flow_of_a_learned_inverse_is_absolute(typed):
    model = dict(image_size=8, channels=1, patch_size=4, width=8, num_blocks=2, layers_per_block=1, head_dim=4)
    config = StudentRunConfig(flow="flow", model=model, train=dict(steps=1), data=dict(path="~/x"))
    assert anchored(config).flow == str(typed / "flow") and anchored(config).data.path == str(Path.home() / "x")
    assert anchored(config.replace(flow="fashion-tarflow")).flow == "fashion-tarflow"


def test_names_stay_names(typed):
    (typed / "fashion-vae").mkdir()
    for name in ("fashion-vae", "sd-vae-ft-ema"):
        assert configure("fashion-small", settings=[f"model.codec={name}"]).model.codec == name


def test_every_key_that_may_hold_a_path_is_known():
    """A key of a configuration that takes any text: either a path, for which there is a test above, or a name."""
    from labcore import config

    sections = (config.TarFlowConfig, config.BackwardConfig, config.DataConfig, config.TrainConfig, config.AlignConfig)
    sections += (config.StudentConfig, config.RunConfig, config.StudentRunConfig)
    texts = {name for each in sections for name, f in each.model_fields.items() if f.annotation in (str, str | None)}
    assert texts == {"path", "codec", "weights", "flow", "encoder", "background"}  # the last is a colour


def test_an_encoder_is_known_by_its_file_and_by_its_path_in_earlier_checkpoints(typed):
    config = {"align": {"weights": "encoder.pth"}}
    now = {"align": {"weights": str(typed / "encoder.pth")}, same_run.ENCODER: "1234"}
    moved = {"align": {"weights": "/elsewhere/encoder.pth"}, same_run.ENCODER: "1234"}
    assert same_run.changes(config, now) == []
    assert same_run.changes(config, moved)
    assert same_run.changes(now, moved) == []
    assert same_run.changes(now, {**moved, same_run.ENCODER: "5678"})


# refused runs leave no folder


def test_a_refused_flow_leaves_no_folder(typed):
    short = ["data.limit=16", "train.steps=1", "train.warmup_steps=0", "train.batch_size=2"]
    refused = [
        configure("fashion-small", settings=[*short, "model.num_classes=3"]),
        configure("fashion-small", settings=[*short, "data.name=folder", "data.path=pictures", "data.image_size=28"]),
        configure("fashion-small", settings=[*short, "align.weights=encoder.pth"], align="reverse"),
        configure("fashion-small", settings=[*short, "align.weights=missing.pth"], align="reverse"),
    ]
    for config in refused:
        with pytest.raises((ValueError, OSError)):
            run_training(config, typed / "new" / "run", previews=False)
        assert not (typed / "new").exists()
    (typed / "own").mkdir()
    with pytest.raises(ValueError, match=r"encoder\.pth"):
        run_training(refused[2], typed / "own", previews=False)
    assert (typed / "own").is_dir()  # the user's


def test_a_refused_student_leaves_no_folder(typed, monkeypatch):
    def missing(name):
        raise FileNotFoundError(f"the weights of {name} are not on this machine")

    monkeypatch.setattr("labcore.kinds.student.load_perceptual", missing)
    short = ["data.limit=16", "train.steps=1", "train.warmup_steps=0", "train.batch_size=2"]
    config = configure_run(invert="fashion-tarflow", settings=[*short, "student.perceptual={lpips: 1.0}"])
    for refused in (config, config.replace(flow="nowhere")):
        with pytest.raises((ValueError, OSError)):
            run_training(refused, typed / "run", previews=False)
        assert not (typed / "run").exists()


def test_a_training_that_is_refused_at_its_start_leaves_no_folder(typed, monkeypatch):
    def refuse(*_):
        raise ValueError("refused")

    monkeypatch.setattr("labcore.train.loop.start", refuse)
    short = ["data.limit=16", "train.steps=1", "train.warmup_steps=0", "train.batch_size=2"]
    with pytest.raises(ValueError, match="refused"):
        run_training(configure("fashion-small", settings=short), typed / "run", previews=False)
    assert not (typed / "run").exists()


def test_a_refused_campaign_leaves_no_folder(tmp_path):
    runs = resolve(load_spec(campaign(tmp_path)))
    with pytest.raises(ValueError, match="jobs was 0"):
        run_spec(runs, tmp_path / "root", jobs=0)
    with pytest.raises(ValueError, match="takes 2 devices"):
        run_spec([runs[0]._replace(parameters={"processes": 2})], tmp_path / "root", devices=["0"])
    with pytest.raises(ValueError, match="no parameter"):
        resolve(load_spec(campaign(tmp_path / "other", nonsense=1)))
    assert not (tmp_path / "root").exists()


# what is published


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/data", "data"),
        ("/home/someone/My Pictures/x", "x"),
        ("see /home/a/b and https://example.org/a/b", "see b and https://example.org/a/b"),
        ("file:///home/someone/x", "x"),
        ("error:/home/someone/x.py:3, A=/a/b:/c/d", "error:x.py:3, A=b:d"),
        ("nats/dim, 1/2, ./a/b, ../a/b, ~/a/b", "nats/dim, 1/2, ./a/b, ../a/b, ~/a/b"),
        (
            '<img src="data:image/png;base64,+/ab/cd/"></td></tr>',
            '<img src="data:image/png;base64,+/ab/cd/"></td></tr>',
        ),
    ],
)
def test_absolute_paths_are_taken_out(text, kept):
    assert portable.without_folders({"/home/someone/run": [text]}) == {"run": [kept]}


def test_published_notebooks_name_no_folder_and_no_host():
    page = toys.notebook("1")
    page.metadata["papermill"] = {"input_path": "/home/someone/x.ipynb"}
    outputs = [
        {"output_type": "stream", "name": "stderr", "text": "/home/someone/x.py:3: on node7\n"},
        {"output_type": "error", "ename": "E", "evalue": "/a/b/c", "traceback": ["/a/b/c.py"]},
        {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "/a/b/c", "image/png": "/a/b/c"}},
    ]
    page.cells[1].outputs = [nbformat.from_dict(output) for output in outputs]
    text = json.dumps(portable.without_machine(page, ["node7"]))
    assert "someone" not in text and "node7" not in text and text.count("/a/b/c") == 1


def test_committed_records_name_no_folder_and_no_host():
    listed = subprocess.run(
        ["git", "ls-files", "papermill_runs", "benchmarks/results", "labcore/zoo"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    named = re.compile(
        rf"(?<![\w./~:])/(?:home|root|tmp|work|Users|mnt|srv|var|usr|opt|data|scratch)\b|\b{socket.gethostname()}\.\w"
    )
    for name in listed.stdout.split():
        if Path(name).suffix in (".json", ".yaml", ".md", ".csv", ".txt") and (ROOT / name).is_file():
            assert not named.search((ROOT / name).read_text()), name


def test_a_model_with_a_local_autoencoder_is_not_uploaded(typed):
    from conftest import perturbed

    flow = perturbed(image_size=8, channels=4)
    flow.config = flow.config.replace(codec=str(typed / "vae"))
    with pytest.raises(ValueError, match="a folder of this machine"):
        flow.push_to_hub("someone/flow")


def test_a_shipped_spec_names_no_folder():
    from labcore.experiments import ship

    config = configure("fashion-small", settings=["data.path=/home/someone/x"])
    assert "someone" not in ship.spec("fashion-tarflow", config)
    model = dict(image_size=28, channels=1, patch_size=4, width=8, num_blocks=2, layers_per_block=1, head_dim=4)
    with pytest.raises(ValueError, match="a path of this machine"):
        ship.spec("fashion-biflow", StudentRunConfig(flow="/home/someone/run", model=model, train=dict(steps=1)))


def test_event_files_for_tensorboard_hold_no_host(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    for step in (0, 2):  # the second one resumes after step 2
        log = RunLog(tmp_path, step, 10)
        log.write(step + 1, {"loss": 0.5})
        log.write(step + 3, {"loss": 0.25, "note": "text"})
        log.close()
    names = [path.name for path in (tmp_path / "tensorboard").iterdir()]
    assert len(names) == 2 and not any("node7" in name for name in names)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 0.5), (3, 0.5), (5, 0.25)]


def test_tensorboard_has_settings_and_previews(tmp_path):
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data

    (tmp_path / "previews").mkdir()
    Image.new("RGB", (5, 3), (9, 8, 7)).save(tmp_path / "previews" / "step-00000002.png")
    (tmp_path / "previews" / "step-00000003.png").write_bytes(b"cut")
    settings = {"train": {"lr": 0.5, "tf32": False, "betas": [0.9, 0.95]}, "align": None}
    log = RunLog(tmp_path, 0, 10, settings=settings)
    for step in (1, 2, 3):
        log.write(step, {"loss": 0.5})
    log.close()

    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    (picture,) = found.Images("samples")
    assert (picture.step, picture.width, picture.height) == (2, 5, 3)
    assert picture.encoded_image_string == (tmp_path / "previews" / "step-00000002.png").read_bytes()
    content = found.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    given = parse_session_start_info_plugin_data(content).hparams
    assert given["train.lr"].number_value == 0.5 and given["train.tf32"].bool_value is False
    assert given["train.betas"].string_value == "[0.9, 0.95]" and given["align"].string_value == "None"


# files that the lab wrote, and that were damaged since

DAMAGE = {"cut": '{"step": 1', "deep": "[" * 10**5, "another kind": "[1]", "bytes": b"\xff\xfe", "empty": ""}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_a_line_with_its_name_and_what_to_do(tmp_path, damage, monkeypatch, capsys):
    file = tmp_path / "run" / "result.json"
    file.parent.mkdir()
    file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())

    def refused(read, *given):
        with pytest.raises(ValueError, match=r"result\.json") as found:
            read(*given)
        assert "\n" not in str(found.value) and re.search("again|git|remove|restore", str(found.value))

    refused(jsonfile.read_object, file, "make it again")
    refused(notebook.write_figures, file, tmp_path / "figures")
    shutil.copy(file, tmp_path / "result.json")
    monkeypatch.setattr(results, "TABLE", "result.json")
    refused(results.rebuild, tmp_path)
    monkeypatch.setattr(demo, "new_folder", lambda parent: tmp_path)
    monkeypatch.setattr(demo, "execute_notebook", lambda *_: None)
    monkeypatch.setattr(demo, "web_page", lambda path: path)
    assert demo.main(["--smoke"]) == 1 and "the demo failed" in capsys.readouterr().err


def test_a_damaged_line_within_a_log_is_said(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n{"step": 2')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [r["step"] for r in read_log(tmp_path)] == [1]  # a last line may be cut short by a kill
    file.write_text('{"step": 1}\n' + "[" * 10**5 + '\n{"step": 3}\n')
    with pytest.warns(UserWarning, match="damaged: 1 of 3 lines"):
        assert [r["step"] for r in read_log(tmp_path)] == [1, 3]


def test_damaged_hashes_of_contents_are_made_again(tmp_path, own_cache):
    (tmp_path / "a.png").write_bytes(b"picture")
    before = contents.digests(tmp_path, ["a.png"])
    stamp = contents._stamp(tmp_path / "a.png")
    (kept,) = (contents.cache_folder() / "contents").glob("*.jsonl")
    kept.write_text("[" * 10**5 + "\n" + json.dumps(["a.png", *stamp, 17]) + '\n["a.png"]\n"text"\n')
    assert contents.digests(tmp_path, ["a.png"]) == before


@pytest.mark.parametrize("changes", [{"offset": "0"}, {"pid": "1"}, {"pid": 1}, {"status": "ended"}, None])
def test_a_damaged_train_json_is_none(tmp_path, changes):
    whole = {"about": {}, "host": "x", "pid": None, "offset": 0, "status": None}
    text = "[" * 10**5 if changes is None else json.dumps(whole | changes)
    (tmp_path / detached.RECORD).write_text(text)
    (tmp_path / detached.OUTPUT).write_text("line\n")
    assert detached.read(tmp_path) is None and not detached.running(tmp_path)
    assert detached.last_lines(tmp_path) == "line" and detached.Output(tmp_path).stream(lambda line: None) is None


@pytest.mark.parametrize("attempt", [{"seconds": "long"}, {"error": ["x"]}, [], None])
def test_a_run_json_with_other_kinds_of_values_is_damaged(tmp_path, attempt):
    values = dict(id="x", spec="s", row="r", seed=0, parameters={}, status="done", attempts=[attempt])
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        state.read(tmp_path)
