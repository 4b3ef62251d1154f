"""Odd and hostile input: files, settings and arguments that once passed in silence, or ended in a traceback."""

import pathlib
import warnings
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from conftest import perturbed
from PIL import Image

from labcore import invert
from labcore.config import TrainConfig
from labcore.data.arrow import _is_inside
from labcore.data.class_names import class_numbers
from labcore.data.folder import ImageFolderData
from labcore.data.picture import read_picture
from labcore.evaluate.adm import _read
from labcore.evaluate.classifier import recognised
from labcore.files import cache_folder, weights_folder
from labcore.nn.classifier import Classifier, ClassifierConfig
from labcore.train.log import RunLog, read_log
from labcore.yamlfile import parse_yaml, read_yaml

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def png(side: int = 8) -> bytes:
    out = BytesIO()
    Image.new("L", (side, side)).save(out, "PNG")
    return out.getvalue()


def test_yaml_with_a_control_character_is_refused(tmp_path):
    """PyYAML looks at the first characters when its reader is made."""
    file = tmp_path / "run.yaml"
    file.write_text("model: \x1b[31m\n")
    with pytest.raises(ValueError, match=r"run.yaml is not YAML .*special characters are not allowed"):
        read_yaml(file)
    with pytest.raises(ValueError, match="special characters"):
        parse_yaml("\x00")


@pytest.mark.parametrize("name", ["lr", "steps", "precision"])
@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} was {str(value).lower()}; give a value that is neither"):
        TrainConfig(**{"steps": 10, "warmup_steps": 0, name: value})
    assert TrainConfig(steps=10, warmup_steps=0, compile=True).compile


def test_an_attention_temperature_is_finite():
    flow = perturbed()
    z = torch.zeros(1, flow.config.tokens, flow.config.token_dim, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"attn_temp was inf; .* above 0 and finite"):
        invert(flow, z, torch.tensor([0]), guidance=1.0, attn_temp=float("inf"))


@pytest.mark.parametrize("words", ["9" * 400, "5", "0,-2"])
def test_a_class_that_the_model_lacks_is_refused(words):
    config = perturbed().config
    with pytest.raises(
        ValueError, match=r"classes was .*; the model has 5: allowed are 0\.\.4, and -1 for none"
    ) as error:
        class_numbers(words, config)
    assert len(str(error.value)) < 200
    assert class_numbers("4,-1", config) == [4, -1]


def test_nothing_is_recognised_in_no_images():
    classifier = Classifier(ClassifierConfig(image_size=8, channels=3, width=8)).eval()
    with pytest.raises(ValueError, match="x has 0 images and y 0 labels; give at least one image"):
        recognised(classifier, torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64))


def test_postscript_is_not_run(tmp_path):
    with pytest.raises(ValueError, match="PostScript is a program and not a picture"):
        read_picture(BytesIO(EPS), 8, 3)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(EPS)
    with pytest.raises(ValueError, match=r"a.png cannot be read as an image \(PostScript is a program"):
        ImageFolderData(tmp_path, "train", 8)


@pytest.mark.parametrize("path", ["link/../secret.png", "../secret.png", "a/../../secret.png", "/etc/hostname"])
def test_a_path_that_goes_up_leaves_its_folder(path):
    """Where `link` is a link to another folder, link/.. is that folder's parent."""
    assert not _is_inside(path)
    assert _is_inside("train/..a/x..png")


def test_a_picture_that_claims_too_many_pixels_is_refused_by_its_row(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from labcore.data.arrow import ArrowData

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split in ("train", "test"):
        rows = pa.array([{"bytes": png(64), "path": None}, {"bytes": png(), "path": None}], kind)
        pq.write_table(
            pa.table({"image": rows, "label": pa.array([0, 1])}), tmp_path / f"{split}-00000-of-00001.parquet"
        )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"row 0 of .* cannot be read as an image \(Image size .4096 pixels. exceeds"):
        ArrowData(tmp_path, "train", 8)


@pytest.mark.parametrize("damage", ["values", "method", "encrypted"])
def test_a_damaged_reference_batch_is_refused(tmp_path, damage):
    """zlib, zipfile and its ciphers have errors that are neither ValueError nor OSError."""
    file = tmp_path / "batch.npz"
    np.savez_compressed(file, arr_0=np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8))
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        central = archive.start_dir
    if damage == "values":
        data[60] ^= 0xFF  # in the packed values, a block's type
    if damage == "method":
        data[central + 10] = 99
    if damage == "encrypted":
        data[central + 8] |= 1
        data[6] |= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"is truncated or no \.npz of arrays"):
        _read(file)


def test_an_empty_cache_variable_means_the_home_folder(monkeypatch, tmp_path):
    """Else files would go to labcore/ in the working directory."""
    monkeypatch.delenv("LABCORE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / ".cache" / "labcore"


def test_a_user_without_a_home_folder_is_told(monkeypatch):
    def nowhere(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LABCORE_CACHE", raising=False)
    monkeypatch.setattr(pathlib.Path, "expanduser", nowhere)
    for folder in (cache_folder, weights_folder):
        with pytest.raises(OSError, match=r"home directory.*; set LABCORE_CACHE"):
            folder()


@pytest.fixture(scope="module")
def pipeline():
    from labcore.hub.pipelines import TarFlowPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TarFlowPipeline.from_flow("fashion-tarflow")


@pytest.mark.parametrize("num", [[1, 2], 1.5, "3", True, None, 0])
def test_a_pipeline_draws_a_whole_number_of_images(pipeline, as_users_run, num):
    with pytest.raises(ValueError, match=r"num_images was .*; give one whole number, 1 or more"):
        pipeline(num_images=num)


def test_a_pipeline_refuses_labels_of_other_kinds(pipeline, as_users_run):
    with pytest.raises(ValueError, match=r"class_labels were 1.0; give whole numbers or names"):
        pipeline(class_labels=1.0)


@pytest.mark.parametrize(
    "names",
    ["abcdefghij", ["a"], list("abcdefghijk"), {10: "a"}, {-1: "a"}, {"x": "a"}, {0: 1}, {0: "a", "0": "b"}, 5, {"a"}],
)
def test_names_of_classes_fit_the_model(pipeline, as_users_run, names):
    from labcore.hub.pipelines import TarFlowPipeline

    with pytest.raises(ValueError, match="id2label was "):
        TarFlowPipeline.from_flow(pipeline.model, id2label=names)
    assert TarFlowPipeline.from_flow(pipeline.model, id2label={"3": "a"}).get_label_ids("a") == [3]


def test_a_log_goes_on_without_tensorboard_where_its_file_is_gone(tmp_path):
    """As after the run's folder was renamed: the training must reach its checkpoint, which says so."""

    class Gone:
        def add_scalar(self, *_):
            raise FileNotFoundError(2, "No such file or directory")

        close = add_scalar

    log = RunLog(tmp_path, 0, 3)
    log._board = Gone()
    with pytest.warns(UserWarning, match=r"tensorboard files could not be written \(No such file or directory\)"):
        log.write(1, {"loss": 1.0})
    log.write(2, {"loss": 0.5})
    log.close()
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2]
    log = RunLog(tmp_path, 2, 3)
    log._board = Gone()
    with pytest.warns(UserWarning, match="tensorboard files could not be written"):
        log.close()
