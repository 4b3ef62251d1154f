"""Arrow and Parquet files of Hugging Face's datasets: the same pictures as from a folder, and what is refused."""

import io
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from labcore.data import ImageFolderData, load
from labcore.data.arrow import ArrowData
from labcore.data.arrow_files import is_arrow
from labcore.data.loaders import StepSampler, micro_batches
from labcore.data.picture import read_picture

CLASSES = ("cat", "dog")


def pictures(count, mode="RGB", size=(19, 13), seed=0):
    g = np.random.default_rng(seed)
    shape = (count, size[1], size[0], 3)[: 4 if mode == "RGB" else 3]
    return [Image.fromarray(each, mode) for each in g.integers(0, 255, shape, dtype=np.uint8)]


def table(count=10, mode="RGB", seed=0, **columns):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    held = {"image": pictures(count, mode, seed=seed), "label": [i % 2 for i in range(count)]}
    return datasets.Dataset.from_dict(held, features=features).add_column("id", list(range(count)), **columns)


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture(params=["saved", "parquet", "parquet-folders"])
def folder(request, tmp_path):
    """Ten training pictures, four held-out ones, and a test split without labels, as ImageNet has."""
    root, parts = tmp_path / "pets", {"train": table(), "validation": table(4, seed=1)}
    if request.param == "saved":
        datasets.DatasetDict(parts).save_to_disk(root)
        return root
    for name, part in parts.items():
        for shard in range(2):
            named = f"data/{name}-0000{shard}-of-00002.parquet"
            file = root / (named if request.param == "parquet" else f"{name}/{shard}.parquet")
            file.parent.mkdir(parents=True, exist_ok=True)
            part.shard(2, shard, contiguous=True).to_parquet(file)
    unlabelled = part.remove_columns("label").add_column("label", [-1] * len(part))
    if request.param == "parquet":
        unlabelled.to_parquet(root / "data" / "test-00000-of-00001.parquet")
    return root


def test_images_and_labels_are_those_of_the_files(folder):
    train, test = (load("folder", split, folder, 8) for split in ("train", "test"))
    assert isinstance(train, ArrowData) and (len(train), len(test)) == (10, 4)
    assert (train.classes, train.channels, train.image_size, train.name) == (CLASSES, 3, 8, "pets")
    for held, seed in ((train, 0), (test, 1)):
        images, labels = held.__getitems__(range(len(held)))
        assert labels.tolist() == [i % 2 for i in range(len(held))]
        for image, source in zip(images, pictures(len(held), seed=seed), strict=True):
            source.save(file := io.BytesIO(), "PNG")
            file.seek(0)
            assert torch.equal(image, read_picture(file, 8, 3))
    image, label = train[3]
    assert torch.equal(image, train.__getitems__([3])[0][0]) and label == 1


def test_the_same_as_a_folder_of_files(folder, tmp_path):
    for i, (picture, name) in enumerate(zip(pictures(10), CLASSES * 5, strict=True)):
        (tmp_path / "files" / "train" / name).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "files" / "train" / name / f"{i}.png")
    files, train = (ImageFolderData(tmp_path / "files", "train", 8, 3, "adm"), ArrowData(folder, "train", 8, 3, "adm"))
    by_class = [i for label in (0, 1) for i in range(10) if i % 2 == label]
    assert torch.equal(files.__getitems__(range(10))[0], train.__getitems__(by_class)[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_a_function_of_the_step(folder, workers):
    train = ArrowData(folder, "train", 8)
    whole = list(micro_batches(train, StepSampler(10, 4, 0, 0, 6), workers))
    resumed = list(micro_batches(train, StepSampler(10, 4, 0, 3, 6), workers))
    for one, other in zip(whole[3:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_subset_has_its_own_fingerprint(folder):
    train = ArrowData(folder, "train", 8)
    part = train.subset([7, 2])
    assert torch.equal(part[0][0], train[7][0]) and part.labels.tolist() == [1, 0] and len(part) == 2
    prints = {
        each.fingerprint() for each in (train, part, train.subset([2, 7]), ArrowData(folder, "train", 8, None, "adm"))
    }
    assert len(prints) == 4
    assert ArrowData(folder, "train", 8).fingerprint() == train.fingerprint()


def test_grey_pictures_and_whole_numbers_as_labels(tmp_path):
    grey = table(6, "L").cast_column("label", datasets.Value("int64"))
    datasets.DatasetDict({"train": grey, "test": grey}).save_to_disk(tmp_path / "grey")
    train = load("folder", "train", tmp_path / "grey", 8)
    assert train.channels == 1 and train.classes == ("0", "1")
    assert load("folder", "train", tmp_path / "grey", 8, 3)[0][0].shape == (3, 8, 8)


def renamed(held):
    return held.rename_columns({"image": "again", "label": "other", "id": "number"}).remove_columns("other")


def saved(root, train):
    datasets.DatasetDict({"train": train}).save_to_disk(root)
    return root


def named(*names, count=6):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    held = {"image": pictures(count), "label": [i % len(names) for i in range(count)]}
    return datasets.Dataset.from_dict(held, features=features)


def parquet(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        table().to_parquet(root / file)
    return root


def beside_pictures(root):
    (root / "train" / "cat").mkdir(parents=True)
    pictures(1)[0].save(root / "train" / "cat" / "0.png")
    return parquet(root, "train/metadata.parquet")


def mixed(root):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    held = {"image": [*pictures(3), *pictures(3, "L")], "label": [0, 1] * 3}
    return saved(root, datasets.Dataset.from_dict(held, features=features))


@pytest.mark.parametrize(
    ("make", "split", "says"),
    [
        (
            beside_pictures,
            "train",
            "holds pictures .*0.png.* and Parquet files .*metadata.parquet.; move one of the two",
        ),
        (
            lambda root: parquet(root, "full/train-0.parquet", "tiny/train-0.parquet"),
            "train",
            "files of train in several folders .full, tiny.; give one",
        ),
        (
            lambda root: parquet(root, "train-00000-of-00003.parquet", "train-00002-of-00003.parquet"),
            "train",
            "has 2 files of train; by their names there are 3. Copy the missing files",
        ),
        (
            lambda root: (
                datasets.DatasetDict(train=named("a", "b"), test=named("b", "a")).save_to_disk(root),
                root,
            )[1],
            "test",
            "classes .'a', 'b'. in train and .'b', 'a'. in test; they must be the same",
        ),
        (lambda root: (table().save_to_disk(root), root)[1], "train", "single split; save a DatasetDict"),
        (lambda root: parquet(root, "first.parquet"), "train", "it has no splits .first.parquet."),
        (mixed, "train", "mixes grey pictures .row 3. and RGB ones .row 0.; choose channels 1 or 3"),
        (
            lambda root: saved(root, table().select(range(0))),
            "train",
            "is empty, or cannot be read|has no images",
        ),
        (
            lambda root: saved(root, table()),
            "test",
            "no split for 'test'; it has train. Name the split one of validation",
        ),
        (lambda root: saved(root, table().remove_columns("image")), "train", "0 columns of images"),
        (
            lambda root: saved(root, datasets.concatenate_datasets([table(), renamed(table())], axis=1)),
            "train",
            "2 columns of images .image, again.",
        ),
        (lambda root: saved(root, table().remove_columns("label")), "train", "0 columns of labels"),
        (
            lambda root: saved(root, table().remove_columns("label").add_column("label", [-1] * 10)),
            "train",
            "labels from -1 to -1.*remove them",
        ),
    ],
)
def test_refused(make, split, says, tmp_path, as_users_run):
    with pytest.raises(ValueError, match=says):
        load("folder", split, make(tmp_path / "pets"), 8)


def test_damaged_files_are_told(tmp_path, as_users_run):
    root = saved(tmp_path / "pets", table())
    for file in (root / "train").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot be read .* copy it again"):
        load("folder", "train", root, 8)


def test_a_picture_that_is_none_is_told_by_its_row(tmp_path):
    features = {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    features["label"] = datasets.Value("int64")
    good = io.BytesIO()
    pictures(1)[0].save(good, "PNG")
    rows = {
        "image": [{"bytes": good.getvalue(), "path": None}, {"bytes": b"nothing", "path": None}],
        "label": [0, 1],
    }
    root = saved(tmp_path / "pets", datasets.Dataset.from_dict(rows, features=datasets.Features(features)))
    train = load("folder", "train", root, 8, 3)
    assert train[0][0].shape == (3, 8, 8)
    told = r"row 1 of .*pets train cannot be read as an image .cannot identify image file.; repair"
    with pytest.raises(ValueError, match=told):
        train[1]
    with pytest.raises(ValueError, match=r"row 1 of .*; remove the row"):
        load("folder", "train", root, 8)


def test_folders_of_classes_are_none_of_these(tmp_path):
    (tmp_path / "a").mkdir()
    pictures(1)[0].save(tmp_path / "a" / "0.png")
    assert not is_arrow(tmp_path) and not is_arrow(tmp_path / "nowhere")


def test_without_the_package_it_is_told_what_to_install(tmp_path, monkeypatch):
    root = saved(tmp_path / "pets", table())
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it fails then
    with pytest.raises(ValueError, match=r"need the package datasets: pip install 'labcore\[arrow\]'"):
        load("folder", "train", str(root), 8)


def test_adm_halves_and_then_cuts():
    """A constant picture stays; a step edge lies where the middle square has it."""
    wide = np.zeros((40, 100, 3), dtype=np.uint8)
    wide[:, 50:] = 255
    image = Image.fromarray(wide)
    image.save(file := io.BytesIO(), "PNG")
    for size in (8, 20, 40, 64):
        file.seek(0)
        square = read_picture(file, size, 3, "adm")
        assert square.shape == (3, size, size)
        assert square[:, :, : size // 2 - 2].max() == 0 and square[:, :, size // 2 + 2 :].min() == 255


@pytest.mark.parametrize("how", [dict(crop="middle"), dict(image_size=0), dict(channels=2)])
def test_pictures_as_they_cannot_be(how, folder, as_users_run):
    with pytest.raises(ValueError, match=next(iter(how))):
        ArrowData(**{"path": folder, "split": "train", "image_size": 8, **how})
    with pytest.raises(ValueError, match="other data sets are square"):
        load("fashion-mnist-12k", "train", crop="adm")
