"""Folders of one's own pictures: which files are test images, and the colour behind transparent pixels."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from labcore import config
from labcore.data import Data, ImageFolderData, load
from labcore.data.picture import read_picture
from labcore.data.splits import SplitRule, chosen_rule
from labcore.rehearsal.planned import planned
from labcore.runs import opening
from labcore.runs.configure import DataOptions, configure_run
from labcore.runs.own_data import source_of
from labcore.train.same_run import changes

FILES = [f"cat/{i:02d}.png" for i in range(40)]


def pictures(folder: Path, parts: dict[str, int], mode: str = "RGB") -> Path:
    """A folder of pictures, each of a colour of its own, in class folders: {"cat": 12}."""
    for k, (part, count) in enumerate(parts.items()):
        (folder / part).mkdir(parents=True)
        for i in range(count):
            colour = (5 * i, 40 * k, 9, 128)[: len(mode)]
            Image.new(mode, (9, 7), colour).save(folder / part / f"{i:02d}.png")
    return folder


class TestSplitRule:
    def test_the_default_takes_every_10th_file(self):
        assert SplitRule().test_files(FILES) == FILES[9::10]
        assert SplitRule(0.25).test_files(FILES) == FILES[3::4]

    @pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.75, 0.99])
    def test_a_share_is_kept_and_leaves_training_images(self, share):
        for n in range(1, 41):
            found = SplitRule(share).test_files(FILES[:n])
            assert int(share * n + 1e-9) == len(found) < n
            assert len(SplitRule(share, 3).test_files(FILES[:n])) == len(found)

    def test_a_seed_shuffles_whatever_the_order_of_the_files(self):
        found = [SplitRule(0.5, seed).test_files(FILES) for seed in (0, 1)]
        assert found[0] != found[1] and all(len(each) == 20 for each in found)
        assert SplitRule(0.5, 0).test_files(FILES[::-1]) == found[0]

    def test_a_new_file_moves_few_others(self):
        before, after = (set(SplitRule(0.5, 7).test_files(files)) for files in (FILES[:-1], FILES))
        assert len(before ^ after) < 30  # of shuffled numbers half would move: 39

    def test_shares_that_leave_nothing_are_refused(self):
        for share in (0.0, 1.0, -0.1, 1.5):
            with pytest.raises(ValueError, match=r"test_share=.*above 0 and below 1"):
                chosen_rule(share, None)
        assert chosen_rule(None, None) is None and chosen_rule(None, 4) == SplitRule(0.1, 4)


class TestSplitOfAFolder:
    def test_splits_are_complementary_and_the_default_is_unchanged(self, tmp_path):
        path = pictures(tmp_path, {"cat": 12, "dog": 30})
        for rule in (None, SplitRule(0.2), SplitRule(0.5, 1)):
            parts = [ImageFolderData(path, split, 8, rule=rule) for split in ("train", "test")]
            assert sorted(parts[0].files + parts[1].files) == sorted(str(f.relative_to(path)) for f in path.glob("*/*"))
            assert parts[0].fingerprint() != parts[1].fingerprint()
        assert ImageFolderData(path, "test", 8).files == ("cat/09.png", "dog/09.png", "dog/19.png", "dog/29.png")
        same, other = (ImageFolderData(path, "train", 8, rule=SplitRule(s)).fingerprint() for s in (0.1, 0.2))
        assert same == ImageFolderData(path, "train", 8).fingerprint() != other

    def test_a_rule_for_a_folder_with_splits_is_refused(self, tmp_path):
        path = pictures(tmp_path, {f"{split}/{name}": 2 for split in ("train", "val") for name in "ab"})
        with pytest.raises(ValueError, match=r"has splits of its own \(train, val\).*leave them out"):
            load("folder", "train", path, 8, split_seed=3)

    @pytest.mark.parametrize("given", [dict(test_share=0.5), dict(split_seed=1), dict(background="black")])
    def test_other_data_sets_have_no_such_settings(self, given):
        with pytest.raises(ValueError, match="these settings are for pictures in a 'folder'"):
            load("fashion-mnist-12k", "test", **given)

    def test_a_run_says_the_rule_and_a_model_is_measured_by_it(self, tmp_path):
        path = pictures(tmp_path / "data", {"cat": 8, "dog": 8})
        run = configure_run(images=DataOptions(str(path), 8), settings=["data.test_share=0.25", "data.split_seed=2"])
        read = Data.of(run.data)
        said = dict(opening.of_data(run.data, read.split("train"), read.split("test")))
        assert said["images"] == "12 for training, 4 for testing"
        assert said["split"] == "1 of 4 files of each class, drawn with split_seed 2, are for testing"

    def test_a_folder_with_another_place_is_split_as_in_training(self, tmp_path, monkeypatch):
        path = pictures(tmp_path / "moved", {"cat": 8, "dog": 8})
        own = dict(name="folder", path="gone", image_size=8, test_share=0.25, split_seed=2, background="black")
        monkeypatch.setattr("labcore.runs.own_data.run_section", lambda model, section: own)
        model = config.TarFlowConfig(
            image_size=8, patch_size=4, width=32, num_blocks=1, layers_per_block=1, head_dim=32
        )
        found = source_of("runs/a", model, str(path))
        assert found == Data("folder", str(path), 8, 3, None, "black", 0.25, 2)
        assert str(found) == f"{path}, 8 pixels, background black, test_share 0.25, split_seed 2"
        settings = ["data.split_seed=5", "data.background=#ff0000"]
        changed = source_of("runs/a", model, str(path), settings=settings)
        assert changed == found._replace(split_seed=5, background="#ff0000")
        split = pictures(tmp_path / "split", {f"{part}/cat": 2 for part in ("train", "test")})
        assert source_of("runs/a", model, str(split)).test_share is None

    def test_runs_of_earlier_versions_go_on(self):
        now = {"data": config.DataConfig(name="folder", path="p", image_size=8).model_dump(mode="json")}
        later = ("background", "test_share", "split_seed")
        before = {"data": {key: value for key, value in now["data"].items() if key not in later}}
        assert changes(before, now) == []
        now["data"]["split_seed"] = 1
        assert changes(before, now) == ["data.split_seed was None, now 1"]


class TestBackground:
    @pytest.mark.parametrize(("background", "expected"), [("white", 255), ("black", 0), ("#336699", (51, 102, 153))])
    def test_transparent_pixels_have_its_colour(self, tmp_path, background, expected):
        for name, image in {
            "rgba": Image.new("RGBA", (4, 4), (200, 0, 0, 0)),
            "grey": Image.new("LA", (4, 4), (200, 0)),
        }.items():
            image.save(tmp_path / f"{name}.png")
            found = read_picture(tmp_path / f"{name}.png", 4, 3, background=background)
            assert torch.equal(found[:, 0, 0], torch.tensor(expected, dtype=torch.uint8).expand(3))

    def test_a_transparent_grey_value_of_16_bits_too(self, tmp_path):
        Image.fromarray(torch.full((4, 4), 3, dtype=torch.uint16).numpy()).save(tmp_path / "a.png", transparency=3)
        assert [int(read_picture(tmp_path / "a.png", 1, 1, background=b)[0, 0, 0]) for b in ("white", "black")] == [
            255,
            0,
        ]

    def test_it_is_part_of_the_data_sets_identity_and_white_is_the_default(self, tmp_path):
        path = pictures(tmp_path, {"cat": 20}, "RGBA")
        prints = [
            load("folder", "train", path, 8, background=b).fingerprint() for b in (None, "#fff", "white", "black")
        ]
        assert len(set(prints)) == 2 and prints[0] == prints[1] == prints[2]

    def test_a_colour_in_hexadecimal_can_be_set(self, tmp_path):
        path = pictures(tmp_path, {"cat": 12}, "RGBA")
        run = configure_run("pictures-32-small", images=DataOptions(str(path)), settings=["data.background=#336699"])
        assert run.data.background == "#336699"

    @pytest.mark.parametrize("background", ["no colour", "", "#12", "#11223344"])
    def test_what_is_no_colour_is_refused(self, tmp_path, background):
        path = pictures(tmp_path, {"cat": 10}, "RGBA")
        with pytest.raises(ValueError, match=r"background=.*give a colour by its name, such as white, or as #rrggbb"):
            ImageFolderData(path, "train", 8, background=background)


class TestPresets:
    """Presets for colour pictures follow the pictures that are given."""

    @pytest.mark.parametrize(("name", "side"), [("pictures-32-small", 32), ("pictures-32", 32), ("pictures-64", 64)])
    def test_they_take_classes_from_a_folder(self, tmp_path, name, side):
        path = pictures(tmp_path, {"cat": 10, "dog": 10})
        run = configure_run(name, images=DataOptions(str(path)))
        assert run.model.image_shape == (3, side, side) and run.model.num_classes == 2 and run.data.flip
        assert Data.of(run.data).split("train").image_size == side

    def test_a_plan_has_the_size_of_the_pictures(self, tmp_path):
        path = pictures(tmp_path, {"cat": 10, "dog": 10, "hen": 10})
        grey = planned("fashion-small", images=DataOptions(str(path), 16, 1)).config.model
        colour = planned("fashion-small", images=DataOptions(str(path), 32)).config.model
        assert (grey.image_shape, grey.tokens) == ((1, 16, 16), 16)
        assert (colour.image_shape, colour.tokens, colour.num_classes) == ((3, 32, 32), 64, 3)
        assert planned("fashion-small", images=DataOptions("emoji-32")).config.model.num_classes == 9

    def test_the_emoji_are_drawn_balanced_and_not_mirrored(self):
        run = configure_run("emoji-32")
        assert run.train.sampling == "balanced" and not run.data.flip and run.data.name == "emoji-32"
