"""What a model is measured on: the run's own images, spread over classes, told apart by contents, with the classes' names."""

import dataclasses
import gzip
import hashlib
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import yaml
from conftest import SMALL, perturbed
from PIL import Image
from typer.testing import CliRunner

from labcore import TarFlow, contents, zoo
from labcore.cli.app import app
from labcore.config import DataConfig, RunConfig, TarFlowConfig
from labcore.data import ImageData, ImageFolderData, fashion_mnist, load
from labcore.data.arrow import ArrowData
from labcore.data.class_names import class_numbers, matched, with_names
from labcore.data.datasets import Data, mixed, renumbered, to_memory
from labcore.data.picture import PICTURE_VERSION, read_picture
from labcore.data.splits import split_of
from labcore.derived import Derived, derive
from labcore.evaluate import accuracy, adm, hidden_features, likelihood
from labcore.experiments import alignment, along
from labcore.kinds import FLOW
from labcore.kinds import flow as flow_kind
from labcore.runs import images as run_images
from labcore.runs import own_data
from labcore.spread import spread, spread_rows
from labcore.terminal import printable
from labcore.train.same_run import changes

NAMES = ("ant", "bee", "cat", "dog", "eel")


def by_class(each: int = 4, classes: tuple[str, ...] = NAMES) -> ImageData:
    """Random 8-pixel pictures, sorted by class as those of a folder are."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(len(classes)).repeat_interleave(each)
    pixels = torch.randint(0, 256, (len(labels), 3, 8, 8), generator=g, dtype=torch.uint8)
    return ImageData(pixels, labels, classes, "animals", "test")


def picture(path: Path, value: int = 0, form: str = "BMP") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 2, 3)).save(path, form)
    return path


def tree(root: Path, *folders: str, each: int = 1) -> Path:
    """A folder with pictures in each of these folders."""
    for number, folder in enumerate(folders):
        for i in range(each):
            picture(root / folder / f"{i}.bmp", 10 * number + i)
    return root


def run_config(folder: Path | None = None, **data) -> RunConfig:
    own = dict(name="folder", path=str(folder), image_size=8, channels=3) if folder else {}
    return RunConfig(model=TarFlowConfig(**SMALL), data=DataConfig(**own, **data), train=dict(steps=2))


def saved_run(root: Path, folder: Path, flow: TarFlow) -> Path:
    """A run's folder: a model, and the configuration that it was trained with."""
    flow.float().save_pretrained(root / "model")
    (root / "config.yaml").write_text(yaml.safe_dump(run_config(folder).model_dump(mode="json")))
    return root


class TestOwnData:
    def test_an_arms_reference_has_the_runs_crop(self, tmp_path, monkeypatch):
        config, seen = run_config(tmp_path, crop="adm"), []
        monkeypatch.setattr(alignment, "generate", lambda *_: None)
        monkeypatch.setattr(alignment, "metric_values", lambda drawn, data, *_: seen.append(data) or {})
        alignment.fidelity(perturbed(), config, ["fid_efflite0"], 10, 0)
        assert seen == [Data("folder", str(tmp_path), 8, 3, "adm")] == [Data.of(config.data)]

    def test_a_run_is_measured_on_its_own_data(self, tmp_path):
        pictures = tree(
            tmp_path / "pets", *(f"{split}/{name}" for split in ("train", "test") for name in NAMES), each=2
        )
        run = saved_run(tmp_path / "run", pictures, perturbed(class_names=NAMES))
        assert own_data.data_of(run, run_config().model) == Data("folder", str(pictures), 8, 3)
        done = CliRunner().invoke(app, ["evaluate", str(run), "--metrics", "likelihood"])
        assert done.exit_code == 0, done.output
        assert done.output.startswith(f"data: {pictures}, 8 pixels") and "n = 10" in done.output
        pictures.rename(tmp_path / "elsewhere")
        done = CliRunner().invoke(app, ["evaluate", str(run), "--metrics", "likelihood"])
        assert done.exit_code == 2 and "was trained on" in done.stderr and "--data" in done.stderr

    def test_statistics_of_a_run_are_of_its_own_data(self, tmp_path, monkeypatch):
        pictures = tree(tmp_path / "pets", *(f"{split}/{name}" for split in ("train", "test") for name in NAMES))
        run, seen = saved_run(tmp_path / "run", pictures, perturbed(class_names=NAMES)), []
        extractor = SimpleNamespace(name="fake", suffix="", to=lambda device: extractor)
        monkeypatch.setattr("labcore.evaluate.extractors.load_extractor", lambda name: extractor)
        monkeypatch.setattr("labcore.evaluate.fidelity.refused", lambda *_: [])
        found = SimpleNamespace(about={"n": 5, "data": "pets/train"})
        monkeypatch.setattr("labcore.evaluate.references.reference_of", lambda data, *_: seen.append(data) or found)
        done = CliRunner().invoke(app, ["stats", str(run), "--out", str(tmp_path / "s.safetensors")])
        assert done.exit_code == 0, done.output
        assert seen == [Data("folder", str(pictures), 8, 3)]

    def test_statistics_of_a_folder_take_the_rule_of_its_split(self, tmp_path, monkeypatch):
        pictures, seen = tree(tmp_path / "pets", *NAMES, each=4), []
        extractor = SimpleNamespace(name="fake", suffix="", to=lambda device: extractor)
        monkeypatch.setattr("labcore.evaluate.extractors.load_extractor", lambda name: extractor)
        monkeypatch.setattr("labcore.evaluate.fidelity.refused", lambda *_: [])
        found = SimpleNamespace(about={"n": 5, "data": "pets/train"})
        monkeypatch.setattr("labcore.evaluate.references.reference_of", lambda data, *_: seen.append(data) or found)
        words = ["stats", str(pictures), "--image-size", "8", "--out", str(tmp_path / "s.safetensors")]
        rule = ["--set", "data.test_share=0.25", "--set", "data.split_seed=3"]
        assert CliRunner().invoke(app, [*words, *rule]).exit_code == 0
        assert seen == [Data("folder", str(pictures), 8, test_share=0.25, split_seed=3)]
        for setting, message in (
            ("data.image_size=16", "--image-size gives data.image_size 8, and the settings 16"),
            ("data.test_share=2", "test_share"),
            ("data.limit=3", "reads whole splits"),
            ("train.steps=3", "SECTION.KEY=VALUE with section data"),
        ):
            refused = CliRunner().invoke(app, [*words, "--set", setting])
            assert refused.exit_code == 2 and message in refused.stderr, refused.output
        refused = CliRunner().invoke(app, [*words, "--path", "files"])
        assert refused.exit_code == 2 and "--path was 'files' next to the folder" in refused.stderr
        assert len(seen) == 1

    def test_a_shipped_model_is_measured_on_what_is_on_every_machine(self):
        assert own_data.data_of("fashion-tarflow", zoo.load("fashion-tarflow").config) == Data(
            "fashion-mnist-12k", None, 28, 1
        )

    def test_a_model_without_a_run_is_of_the_embedded_set_only_if_it_fits(self, tmp_path):
        grey = dict(image_size=28, channels=1, patch_size=7, num_classes=10)
        config = TarFlowConfig(**{**SMALL, **grey})
        assert own_data.data_of(tmp_path, config).name == "fashion-mnist-12k"
        named = tuple(map(str, range(10)))
        for other in (dict(channels=3), dict(num_classes=5), dict(image_size=14), dict(class_names=named)):
            with pytest.raises(ValueError, match=r"no run next to .* give --data"):
                own_data.data_of(tmp_path, config.replace(**other))


class TestSpread:
    def test_rows(self):
        assert spread_rows(10, 3) == [0, 3, 6] and spread_rows(3, 5) == spread_rows(3, None) == [0, 1, 2]
        assert by_class().labels[spread_rows(20, 5)].tolist() == [0, 1, 2, 3, 4]

    def test_measures_see_every_class(self, tmp_path):
        flow, data = perturbed(dtype=torch.float32), by_class()
        every = data.subset(spread_rows(20, 5))
        found = likelihood(flow, data, limit=5)
        assert found.nats == likelihood(flow, every).nats != likelihood(flow, data.subset(range(5))).nats
        seen = []
        accuracy(lambda flow, x: seen.append(len(x)) or every.labels, flow, data, limit=5)
        assert seen == [5]
        assert accuracy(lambda flow, x: every.labels, flow, data, limit=5).accuracy == 1
        features = hidden_features(flow, data, [(1, 1)], tmp_path, limit=5)[1, 1]
        assert torch.equal(features, hidden_features(flow, data, [(1, 1)], tmp_path)[1, 1][::4])

    def test_what_is_logged_while_training(self, monkeypatch):
        flow, seen = perturbed(dtype=torch.float32), []
        monkeypatch.setattr(flow_kind, "EVALUATED", 5)
        monkeypatch.setattr(flow_kind.monitor, "round_trip_error", lambda flow, x, y: seen.append(y.tolist()) or 0.0)
        logged = FLOW.evaluation(flow, torch.nn.Identity(), by_class())
        assert seen == [[0, 1, 2, 3]]
        assert logged["test_nats_per_dim"] == likelihood(flow, by_class().subset(range(0, 20, 4))).nats_per_dim

    def test_measures_of_first_images_are_not_read_again(self, tmp_path):
        (tmp_path / along.KEPT).write_text('{"key": {"limit": 5}, "points": {"w": {"step": 1}}}')
        assert along.along(tmp_path, lambda flow: {}, {"limit": 5}) == []
        assert along._kept(tmp_path / along.KEPT, {"limit": 5, "limits": "spread"}) == {}


class TestContents:
    def test_a_picture_of_the_same_size_makes_another_fingerprint(self, tmp_path):
        file = picture(tree(tmp_path, "train/cat", "test/cat") / "train" / "cat" / "0.bmp", 1)
        before, older = (ImageFolderData(tmp_path, "train", 8).fingerprint() for _ in range(2))
        assert before == older
        old_rule = ImageFolderData(tmp_path, "train", 8).older_fingerprint()
        picture(file, 200)
        now = ImageFolderData(tmp_path, "train", 8)
        assert now.fingerprint() != before and now.older_fingerprint() == old_rule

    def test_files_are_read_once(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(contents, "FRESH", -1)
        folder, names = tree(tmp_path / "pets", "cat", each=3), ["cat/0.bmp", "cat/1.bmp", "cat/2.bmp"]
        first = contents.digests(folder, names)
        read, whole = [], contents.sha256
        monkeypatch.setattr(contents, "sha256", lambda path: read.append(path.name) or whole(path))
        assert contents.digests(folder, names) == first and not read
        times = os.stat(folder / "cat" / "1.bmp")
        picture(folder / "cat" / "1.bmp", 99)
        os.utime(folder / "cat" / "1.bmp", ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p does
        second = contents.digests(folder, names)
        assert read == ["1.bmp"] and [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]

    def test_without_a_cache_folder_nothing_is_kept(self, tmp_path, monkeypatch):
        folder = tree(tmp_path / "pets", "cat")
        expected = contents.digests(folder, ["cat/0.bmp"])
        picture(tmp_path / "file")
        monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "file"))
        assert contents.digests(folder, ["cat/0.bmp"]) == expected

    def test_a_run_that_began_with_the_older_fingerprint_goes_on(self, tmp_path, monkeypatch):
        data = ImageFolderData(tree(tmp_path, "train/cat", "test/cat"), "train", 8)
        state = {"run": {"data_fingerprint": data.older_fingerprint()}}
        monkeypatch.setattr(run_images.checkpoint, "folders", lambda run: [run])
        monkeypatch.setattr(run_images.checkpoint, "read_state", lambda place: state)
        with pytest.warns(UserWarning, match="identified data by the names and lengths of files"):
            assert run_images.data_fingerprint(tmp_path, data) == data.older_fingerprint()
        state["run"]["data_fingerprint"] = "other"
        assert run_images.data_fingerprint(tmp_path, data) == data.fingerprint()
        (said,) = changes(state["run"], {"data_fingerprint": data.fingerprint()})
        assert said.startswith("the fingerprint of the images, their order, labels and classes was 'other'")


class TestFoldersThatMove:
    """A data set is its contents: the name of its folder is no part of a fingerprint, as it was in earlier versions."""

    @pytest.fixture(params=["pictures", "arrow", "parquet"])
    def kind(self, request):
        return request.param

    def data(self, folder, kind, write=True, value=0):
        if kind == "pictures":
            return ImageFolderData(tree(folder, "train/cat", "test/cat") if write else folder, "train", 8)
        table = rows([0, 1]).map(lambda row: {"note": value})
        if write and kind == "arrow":
            datasets.DatasetDict(train=table, test=table).save_to_disk(folder)
        elif write:
            folder.mkdir(parents=True)
            for split in ("train", "test"):
                table.to_parquet(folder / f"{split}.parquet")
        return ArrowData(folder, "train", 8)

    def test_a_renamed_folder_is_the_same_data(self, tmp_path, kind):
        before = self.data(tmp_path / "pets", kind)
        own, named = before.fingerprint(), before.named_fingerprint()
        (tmp_path / "pets").rename(tmp_path / "animals")
        after = self.data(tmp_path / "animals", kind, write=False)
        assert after.fingerprint() == own and after.named_fingerprint() != named

    def test_former_fingerprints_are_what_they_were(self, tmp_path):
        """sha256 of name, split, size, channels and classes, and of each file's path, label and contents."""
        data = self.data(tmp_path / "pets", "pictures")
        header = ("pets", "train", 8, 3, ("cat",)) + ((PICTURE_VERSION,) if PICTURE_VERSION > 1 else ())
        digest = hashlib.sha256(repr(header).encode())
        contents_of = hashlib.sha256((tmp_path / "pets" / "train" / "cat" / "0.bmp").read_bytes()).hexdigest()[:32]
        digest.update(repr(("train/cat/0.bmp", 0, contents_of)).encode())
        assert data.named_fingerprint() == digest.hexdigest()[:16]

    def test_a_run_that_began_with_the_folders_name_goes_on(self, tmp_path, monkeypatch, kind, recwarn):
        data = self.data(tmp_path / "pets", kind)
        state = {"run": {"data_fingerprint": data.named_fingerprint()}}
        monkeypatch.setattr(run_images.checkpoint, "folders", lambda run: [run])
        monkeypatch.setattr(run_images.checkpoint, "read_state", lambda place: state)
        assert run_images.data_fingerprint(tmp_path, data) == data.named_fingerprint()
        assert not [w for w in recwarn if "names and lengths of files" in str(w.message)]

    def test_what_was_kept_under_the_folders_name_is_found(self, tmp_path, monkeypatch):
        data, computed = self.data(tmp_path / "pets", "pictures"), []
        what = Derived("sums", lambda x: computed.append(len(x)) or x.sum((1, 2, 3))[:, None], (1,), {}, 2, 1)
        with monkeypatch.context() as before:
            before.setattr(ImageFolderData, "fingerprint", ImageFolderData.named_fingerprint)
            first = derive(what, data, tmp_path / "kept").clone()
        assert torch.equal(derive(what, data, tmp_path / "kept"), first) and len(computed) == 1
        picture(tmp_path / "pets" / "train" / "cat" / "0.bmp", 200)
        derive(what, ImageFolderData(tmp_path / "pets", "train", 8), tmp_path / "kept")
        assert len(computed) == 2

    def test_hidden_features_that_were_kept_under_the_folders_name_are_found(self, tmp_path, monkeypatch):
        flow, data = perturbed(), self.data(tmp_path / "pets", "pictures")
        with monkeypatch.context() as before:
            before.setattr(ImageFolderData, "fingerprint", ImageFolderData.named_fingerprint)
            first = hidden_features(flow, data, [(1, 1)], tmp_path / "kept")[1, 1].clone()
        assert torch.equal(hidden_features(flow, data, [(1, 1)], tmp_path / "kept")[1, 1], first)
        assert len(list((tmp_path / "kept").glob("hiddens-*"))) == 1


class TestNames:
    def test_they_are_stored_with_the_model(self, tmp_path):
        from labcore.hub.pipelines import TarFlowPipeline  # takes seconds, in every process that collects tests

        config = with_names(run_config(), NAMES)
        assert config.model.class_names == NAMES and with_names(config, NAMES) is config
        flow = TarFlow(config.model)
        flow.save_pretrained(tmp_path)
        assert TarFlow.from_pretrained(tmp_path).config.class_names == NAMES
        assert flow.config.computation() == run_config().model.computation()
        assert TarFlowPipeline.from_flow(flow).get_label_ids("cat") == [2]
        with pytest.raises(ValueError, match="data's classes are eel, dog"):
            with_names(config, NAMES[::-1])
        with pytest.raises(ValueError, match="class_names has 2 names"):
            TarFlowConfig(**SMALL, class_names=("a", "b"))
        before = run_config().model_dump(mode="json")
        del before["model"]["class_names"]
        assert changes(before, config.model_dump(mode="json")) == []

    def test_another_order_is_matched_by_name(self):
        config, data = TarFlowConfig(**SMALL, class_names=NAMES), by_class()
        other = renumbered(data, NAMES[::-1])
        assert other.labels.tolist() == [4 - label for label in data.labels.tolist()]
        with pytest.warns(UserWarning, match="another order than the model's; matched by name"):
            again = matched(config, other)
        assert torch.equal(again.labels, data.labels) and again.fingerprint() == data.fingerprint()
        assert matched(config, data) is data

    def test_other_names_are_refused(self):
        config = TarFlowConfig(**SMALL, class_names=NAMES)
        with pytest.raises(ValueError, match=r"classes are ant, bee.* and animals has a, b, c, d, e"):
            matched(config, dataclasses.replace(by_class(), classes=tuple("abcde")))
        numbers = dataclasses.replace(by_class(), classes=tuple("01234"))
        with pytest.warns(UserWarning, match="matched in this order"):
            assert matched(config, numbers) is numbers
        assert matched(TarFlowConfig(**SMALL), numbers) is numbers

    def test_numbers_sort_as_numbers(self, tmp_path):
        data = ImageFolderData(tree(tmp_path, *map(str, range(12))), "train", 8)
        assert data.classes == tuple(map(str, range(12)))
        with pytest.warns(UserWarning, match="sorted such names as text"):
            matched(TarFlowConfig(**{**SMALL, "num_classes": 12}), data)
        assert ImageFolderData(tree(tmp_path, "a10", "a2"), "train", 8).classes[-1] == "a2"

    def test_on_the_command_line(self):
        config = TarFlowConfig(**{**SMALL, "num_classes": 3}, class_names=("cat", "dog, black", "7"))
        assert class_numbers("cat", config) == [0] and class_numbers("7,0, cat", config) == [2, 0, 0]
        assert class_numbers("dog, black", config) == [1]
        with pytest.raises(ValueError, match="names are cat, dog, black, 7"):
            class_numbers("cow", config)

    def test_what_a_terminal_would_obey_is_escaped(self, tmp_path):
        assert printable("a\x1b[2Jb\nc\x07") == "a\\x1b[2Jb\nc\\x07"
        tree(tmp_path, "train/\x1b[2Jcat", "test/dog")
        done = CliRunner().invoke(app, ["stats", str(tmp_path), "--image-size", "8"])
        assert done.exit_code == 2 and "\x1b" not in done.stderr and "\\x1b[2Jcat" in done.stderr


class TestSplits:
    @pytest.mark.parametrize(
        ("folders", "held_out"),
        [
            (("Train", "Test"), "Test"),
            (("training", "testing"), "testing"),
            (("train", "valid"), "valid"),
            (("seg_train/seg_train", "seg_test/seg_test"), "seg_test/seg_test"),
            (("train_set", "test_set"), "test_set"),
            (("TRAIN", "validation"), "validation"),
        ],
    )
    def test_known_names(self, tmp_path, folders, held_out):
        tree(tmp_path, *(f"{folder}/{name}" for folder in folders for name in ("cat", "dog")))
        train, test = (ImageFolderData(tmp_path, split, 8) for split in ("train", "test"))
        assert train.classes == test.classes == ("cat", "dog")
        assert train.files == (f"{folders[0]}/cat/0.bmp", f"{folders[0]}/dog/0.bmp")
        assert test.files == (f"{held_out}/cat/0.bmp", f"{held_out}/dog/0.bmp")

    def test_imagenet_as_it_lies(self, tmp_path):
        tree(tmp_path, "train/n01", "train/n02", "val/n01", "val/n02", "test")
        with pytest.warns(UserWarning, match="train and val are read, and test left out"):
            test = ImageFolderData(tmp_path, "test", 8)
        assert test.files == ("val/n01/0.bmp", "val/n02/0.bmp")

    def test_names_that_are_not_known_are_refused(self, tmp_path):
        tree(tmp_path, *(f"{folder}/{name}" for folder in ("first", "second") for name in ("cat", "dog")))
        with pytest.raises(ValueError, match=r"first, second hold the same folders .*they look like splits"):
            ImageFolderData(tmp_path, "train", 8)
        picture(tmp_path / "first" / "x.bmp")
        assert ImageFolderData(tmp_path, "train", 8).classes == ("first", "second")

    def test_two_of_one_meaning_are_refused(self, tmp_path):
        tree(tmp_path, "train/cat", "Training/cat", "test/cat")
        with pytest.raises(ValueError, match="Training and train, which are names of the same split"):
            ImageFolderData(tmp_path, "train", 8)

    def test_classes_are_no_splits(self, tmp_path):
        assert ImageFolderData(tree(tmp_path, "bus", "train", "high_speed_train"), "train", 8).num_classes == 3
        assert [split_of(name) for name in ("Dev", "trains", "high_speed_train", "contest")] == [
            "val",
            None,
            None,
            None,
        ]


def rows(labels, names=None, count=None):
    count = len(labels) if count is None else count
    kind = datasets.Value("int64") if names is None else datasets.ClassLabel(names=names)
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    held = {"image": [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(count)], "label": labels}
    return datasets.Dataset.from_dict(held, features=features)


class TestParquet:
    @pytest.fixture(autouse=True)
    def quiet(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        datasets.disable_progress_bars()

    @pytest.mark.parametrize("name", ["a[12]", "a?", "a*", "a{1,2}", "a**"])
    def test_a_path_is_no_pattern(self, tmp_path, name):
        for folder, count in ((name, 2), ("a1", 3), ("a2", 4)):
            (tmp_path / folder).mkdir()
            rows([0, 1] * (count // 2) + [0] * (count % 2)).to_parquet(tmp_path / folder / "train-0.parquet")
        assert len(load("folder", "train", tmp_path / name, 8)) == 2

    def test_split_names(self, tmp_path):
        for file in ("Training-0.parquet", "Valid-0.parquet"):
            rows([0, 1]).to_parquet(tmp_path / file)
        assert [len(load("folder", split, tmp_path, 8)) for split in ("train", "test")] == [2, 2]

    def test_whole_numbers_become_classes_in_order(self, tmp_path):
        held = datasets.DatasetDict(train=rows([1, 10**9, 3, 1]), test=rows([3, 1]))
        held.save_to_disk(tmp_path / "pets")
        train, test = (load("folder", split, tmp_path / "pets", 8) for split in ("train", "test"))
        assert train.classes == test.classes == ("1", "3", str(10**9))
        assert train.labels.tolist() == [0, 2, 1, 0] and test.labels.tolist() == [1, 0]
        datasets.DatasetDict(train=rows([1, 2]), test=rows([3, 1])).save_to_disk(tmp_path / "other")
        with pytest.raises(ValueError, match="has the label 3, which is not one of the 2 classes of train"):
            load("folder", "test", tmp_path / "other", 8)

    def test_classes_without_images_are_told(self, tmp_path):
        datasets.DatasetDict(train=rows([0, 2], ["a", "b", "c"])).save_to_disk(tmp_path / "pets")
        with pytest.warns(UserWarning, match="1 of 3 classes have no images in train"):
            assert load("folder", "train", tmp_path / "pets", 8).num_classes == 3

    def test_a_picture_does_not_leave_the_folder(self, tmp_path):
        features = {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
        features["label"] = datasets.Value("int64")
        secret = picture(tmp_path / "secret.bmp")
        paths = ["in.bmp", "../secret.bmp", str(secret), "x/../../secret.bmp"]
        held = {"image": [{"bytes": None, "path": path} for path in paths], "label": [0] * len(paths)}
        table = datasets.Dataset.from_dict(held, features=datasets.Features(features))
        datasets.DatasetDict(train=table).save_to_disk(tmp_path / "pets")
        inside = picture(tmp_path / "pets" / "in.bmp", 1)
        data = ArrowData(tmp_path / "pets", "train", 8, 3)
        assert data[0][0].shape == (3, 8, 8)
        for row in (1, 2, 3):
            with pytest.raises(ValueError, match=f"row {row} .* leaves the folder"):
                data[row]
        before = data.fingerprint()
        picture(inside, 250)
        assert data.fingerprint() != before

    def test_tables_of_the_same_length_have_other_fingerprints(self, tmp_path):
        prints = []
        for value in (1, 2):
            table = rows([0, 1]).map(lambda row, value=value: {"note": value})
            datasets.DatasetDict(train=table).save_to_disk(tmp_path / str(value) / "pets")
            prints.append(ArrowData(tmp_path / str(value) / "pets", "train", 8))
        assert prints[0].older_fingerprint() == prints[1].older_fingerprint()
        assert prints[0].fingerprint() != prints[1].fingerprint()


def png(depth: int, kind: int, row: bytes, transparent: bytes, width: int = 4) -> io.BytesIO:
    """A PNG of one row, with a transparent colour."""
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))  # noqa: E731
    head = struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


class TestPictures:
    @pytest.mark.parametrize("depth", [1, 2, 4, 8])
    def test_transparent_grey_is_white(self, depth):
        """The value 1 is transparent; it is the only pixel."""
        row = bytes([1 << (8 - depth)])
        assert read_picture(png(depth, 0, row, struct.pack(">H", 1), 1), 1, 1).item() == 255
        assert read_picture(png(depth, 0, b"\0", struct.pack(">H", 1), 1), 1, 1).item() == 0

    def test_transparent_colour_of_sixteen_bits_is_white(self):
        colour = struct.pack(">HHH", 1000, 20000, 300)
        assert read_picture(png(16, 2, colour, colour, 1), 1, 3).flatten().tolist() == [255] * 3
        other = struct.pack(">HHH", 1000, 30000, 300)
        assert read_picture(png(16, 2, other, colour, 1), 1, 3).flatten().tolist() == [3, 117, 1]


class TestBombs:
    def test_idx(self, tmp_path, monkeypatch):
        monkeypatch.setattr(fashion_mnist, "MOST_BYTES", 1000)
        file = tmp_path / "t10k-images-idx3-ubyte.gz"
        file.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 5000) + bytes(5000)))
        with pytest.raises(ValueError, match="holds more than 1,000 bytes"):
            fashion_mnist.read_idx(file)

    def test_npz_whose_header_claims_more_than_there_is(self, tmp_path):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (40_000, 256, 256, 3)}
        )
        with zipfile.ZipFile(tmp_path / "batch.npz", "w") as archive:
            archive.writestr("arr_0.npy", header.getvalue())
        with pytest.raises(ValueError, match="arrays would take 7,864,320,000 bytes, and the file has"):
            adm._read(tmp_path / "batch.npz")


def test_in_memory(tmp_path):
    data = ImageFolderData(tree(tmp_path, "cat", "dog", each=2), "train", 8)
    held = to_memory(data)
    assert torch.equal(held.images, data.__getitems__(range(4))[0]) and held.classes == data.classes
    assert torch.equal(to_memory(held).images, held.images) and len(spread(held, 2)) == 2
    first = mixed(by_class(100), 250, 0)
    assert len(first) == 250 and first.labels[:50].bincount().min() > 0 and first.labels.bincount().tolist() == [50] * 5
