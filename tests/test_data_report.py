"""`lab data`: every picture is looked at, and what is odd about it is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from labcore.cli.app import app
from labcore.config import DataConfig
from labcore.data.datasets import Data
from labcore.data.report import SHOWN, duplicate_groups, examine
from labcore.runs import opening
from labcore.runs.configure import DataOptions, configure_data
from labcore.runs.data_report import report_rows
from labcore.viz.contact_sheet import contact_sheet, save_contact_sheet


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    values = torch.randint(256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


@pytest.fixture
def odd(tmp_path) -> Path:
    """Two classes of 20 and 10 pictures in many formats, with a copy across the split and two damaged files."""
    folder = tmp_path / "odd"
    for name, count in (("cat", 20), ("dog", 10)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise((20, 16), 100 * len(name) + 31 * count + i).save(folder / name / f"{i:02d}.png")
    cat = folder / "cat"
    (cat / "09.png").write_bytes((cat / "00.png").read_bytes())  # a test image that is a training image
    (folder / "dog" / "01.png").write_bytes((cat / "02.png").read_bytes())  # in both classes
    transparent = noise((20, 16), 1).convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((20, 16)))
    transparent.save(cat / "03.png")
    noise((20, 16), 2).convert("RGBA").save(cat / "04.png")  # opaque
    noise((20, 16), 3).convert("P").save(cat / "05.png")
    (cat / "06.png").unlink()
    noise((20, 16), 4).convert("CMYK").save(cat / "06.jpg")
    Image.fromarray(np.arange(320, dtype=np.uint16).reshape(16, 20)).save(cat / "07.png")
    noise((3, 2), 5).save(cat / "08.png")
    noise((400, 3), 6).save(cat / "10.png")
    (cat / "11.png").write_text("no picture")
    (cat / "12.png").write_bytes((cat / "13.png").read_bytes()[:300])
    return folder


class TestReport:
    def test_every_oddity_is_found(self, odd):
        config = configure_data(DataOptions(str(odd), 8))
        report = examine(Data.of(config))
        assert report.counts == {"train": [16, 9], "test": [2, 1]}
        assert [place.called for place, _ in report.unreadable] == ["cat/11.png", "cat/12.png"]
        assert report.sizes[(20, 16)] == 26 and report.small == 2 and report.longest.place.called == "cat/10.png"
        assert report.transparent == 1 and report.grey == 1
        assert report.modes == {"RGB": 23, "RGBA": 2, "P": 1, "CMYK": 1, "I;16": 1}
        said = dict(report_rows(report, config))
        assert said["images"] == "25 for training, 3 for testing"
        assert "without colours: 1 of 28. The presets for colour pictures" in said["colours"]
        assert said["sizes"].startswith("3 x 2 to 400 x 3 pixels, 3 different; smaller than 8 pixels, and enlarged: 2;")
        assert said["sizes"].endswith("of the longest, cat/10.png with 400 x 3, only the middle square is used")
        assert (
            said["transparency"]
            == "1 of 28 pictures with transparent pixels, which are laid on white (data.background)"
        )
        assert (
            "equal to an earlier picture at 8 x 8 pixels: 2, " in said["duplicates"]
            and "train cat/00.png = test cat" in said["duplicates"]
        )
        assert said["duplicates"].endswith("1 of the test images. In more than one class: 1 of these groups")
        assert said["unreadable"].startswith(
            f"2, and training refuses such a folder: {odd / 'cat' / '11.png'} cannot be read"
        )

    def test_pictures_are_equal_as_a_model_reads_them(self, tmp_path):
        (tmp_path / "a").mkdir()
        Image.new("RGBA", (8, 8), (255, 255, 255, 255)).save(tmp_path / "a" / "0.png")
        Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "a" / "1.png")
        both = Data("folder", str(tmp_path), 8, 3)
        assert len(examine(both).duplicates) == 1 and not examine(both._replace(background="black")).duplicates

    def test_limit_classes_and_a_set_in_memory(self):
        config = configure_data(DataOptions("fashion-16"), settings=["data.limit=40"])
        report = examine(Data.of(config), config.limit)
        assert [sum(each) for each in report.counts.values()] == [40, 40] and report.sizes == {(16, 16): 80}
        assert "T-shirt/top" in report.classes and not report.duplicates
        assert dict(report_rows(report, config))["split"] == "the data set's own"

    def test_a_setting_does_not_override_an_option(self, odd):
        for setting, message in (
            ("data.image_size=16", r"--image-size gives data\.image_size 8, and the settings 16"),
            ("data.path=elsewhere", r"the first argument gives data\.path"),
        ):
            with pytest.raises(ValueError, match=message):
                configure_data(DataOptions(str(odd), 8), [setting])
        with pytest.raises(ValueError, match=r"the settings give data\.limit twice"):
            configure_data(DataOptions("emoji-32"), ["data.limit=4", "data.limit=5"])
        assert configure_data(DataOptions("fashion-16", 20), ["data.limit=4"]).image_size == 20

    def test_samples_are_different_pictures(self, odd):
        for path in (odd / "dog").glob("*"):
            path.write_bytes((odd / "dog" / "00.png").read_bytes())
        samples = examine(Data("folder", str(odd), 8, 3)).samples
        assert [len(each) for each in samples] == [SHOWN, 1]

    def test_groups_of_equal_keys(self):
        assert duplicate_groups("abcabd") == [[0, 3], [1, 4]] and duplicate_groups("") == []

    def test_a_folder_without_any_readable_picture(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "0.png").write_text("no")
        with pytest.raises(ValueError, match=r"has no picture that can be read; the first: .*0\.png cannot be read"):
            examine(Data("folder", str(tmp_path), 8, 3))


class TestCommand:
    def test_report_and_sheet_are_written(self, odd, tmp_path):
        line = ["data", str(odd), "--image-size", "8", "--out", str(tmp_path / "out"), "--set", "data.split_seed=0"]
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, done.output
        assert "drawn with split_seed 0" in done.output and "cat" in done.output
        record = json.loads((tmp_path / "out" / "report.json").read_text())
        assert record["classes"] == ["cat", "dog"] and len(record["unreadable"]) == 2 and record["transparent"] == 1
        with Image.open(tmp_path / "out" / "sheet.png") as sheet:
            assert sheet.width > SHOWN * 64 and sheet.height > 2 * 64

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["tarflow-imagenet-64"], "is for a folder that you give: lab data FOLDER"),
            (["no/such/folder"], "does not exist"),
            (["fashion-16", "--set", "train.steps=3"], "write SECTION.KEY=VALUE with section data"),
            (["fashion-16", "--set", "data.background=red"], "these settings are for pictures in a 'folder'"),
        ],
    )
    def test_errors_say_what_to_do(self, words, said):
        done = CliRunner().invoke(app, ["data", *words])
        assert done.exit_code == 2 and said in done.output

    def test_classes_without_pictures_have_no_row(self, tmp_path):
        one = torch.zeros(3, 4, 4, dtype=torch.uint8)
        assert save_contact_sheet([[one], [], [one, one]], ["a", "b", "c"], tmp_path / "sheet.png") == 2
        with pytest.raises(ValueError, match="no pictures for a contact sheet"):
            save_contact_sheet([[], []], ["a", "b"], tmp_path / "sheet.png")


class TestBeforeTraining:
    def test_the_short_summary(self, odd):
        for damaged in ("11.png", "12.png"):
            (odd / "cat" / damaged).unlink()
        config = DataConfig(name="folder", path=str(odd), image_size=8, channels=3, background="black")
        said = dict(opening.of_data(config, *(Data.of(config).split(split) for split in ("train", "test"))))
        assert said["duplicates"].startswith("2 pictures equal an earlier one, and 1 test image is a training image")
        assert said["transparency"] == (
            "2 of 28 pictures opened may have some; transparent pixels are laid on black (data.background)"
        )
        assert said["pixels"].endswith("smaller pictures are enlarged, the smallest from 2 pixels")

    def test_what_is_not_there_is_not_said(self, tmp_path):
        (tmp_path / "a").mkdir()
        for i in range(20):
            noise((8, 8), i).save(tmp_path / "a" / f"{i}.png")
        config = DataConfig(name="folder", path=str(tmp_path), image_size=8)
        said = dict(opening.of_data(config, *(Data.of(config).split(split) for split in ("train", "test"))))
        assert "duplicates" not in said and "enlarged" not in said["pixels"]
        assert said["transparency"] == "no picture of 20 opened has any"


def test_unreadable_pictures_are_an_error_before_training(odd):
    report = examine(Data.of(configure_data(DataOptions(str(odd), 8))))
    with pytest.raises(
        ValueError, match=r"2 pictures cannot be read, and training would stop.*: .*11\.png .*; .*12\.png"
    ):
        report.check()
    report._replace(unreadable=[]).check()


def test_a_contact_sheet_has_the_classes_that_have_pictures():
    of_class = [torch.full((3, 4, 4), 9 * k, dtype=torch.uint8) for k in range(3)]
    sheet = contact_sheet([[of_class[0]], [], [of_class[2]] * 2], ("a", "b", "c"))
    assert sheet["row_names"] == ("a", "c") and sheet["columns"] == 2 and sheet["x"].shape == (4, 3, 4, 4)
    assert contact_sheet([[of_class[0]], [of_class[1]]], ("a", "b"), most=1)["row_names"] == ("a",)
