"""Emoji: the packed set, its split by families, and the same pictures from the font file at any size."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bare import REAL_SHARE
from fontTools import ttLib
from PIL import Image

from labcore.data import emoji, load
from labcore.data.emoji import make
from labcore.data.emoji.font import DEBIAN, REVISION, EmojiFont, find_font
from labcore.data.report import duplicate_groups

LIST = """# group: Smileys & Emotion
1F600                     ; fully-qualified     # x E1.0 grinning face
263A FE0F                 ; fully-qualified     # x E0.6 smiling face
263A                      ; unqualified         # x E0.6 smiling face
# group: People & Body
1F590                     ; fully-qualified     # x
1F44B 1F3FB               ; fully-qualified     # x
1F590 1F3FB               ; fully-qualified     # x
# group: Component
1F3FB                     ; component           # x
"""
"""A part of such a list, with the hand's skin tone behind another emoji."""


def png(colour: tuple[int, ...], alpha: int = 255) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (136, 128), (*colour, alpha)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def font(monkeypatch, tmp_path) -> EmojiFont:
    """A font of five glyphs with a ligature: red, green, a pair of both, a transparent one, and one more red."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "pair": (0, 0, 255), "again": (255, 0, 0)}
    pictures = {name: SimpleNamespace(imageData=png(colour)) for name, colour in colours.items()}
    pictures["clear"] = SimpleNamespace(imageData=png((9, 9, 9), 0))
    table = SimpleNamespace(ligatures={"red": [SimpleNamespace(Component=["green"], LigGlyph="pair")]})
    lookups = [SimpleNamespace(LookupType=1), SimpleNamespace(LookupType=4, SubTable=[table])]
    lookups[0].SubTable = [None]
    glyphs = {0x1F600: "red", 0x263A: "green", 0x1F590: "clear", 0x1F44B: "again", 0x1F3FB: "green"}

    class Font(dict):
        def getBestCmap(self):
            return glyphs

    made = Font(CBDT=SimpleNamespace(strikeData=[pictures]), head=SimpleNamespace(fontRevision=2.0420074))
    made["GSUB"] = SimpleNamespace(table=SimpleNamespace(LookupList=SimpleNamespace(Lookup=lookups)))
    monkeypatch.setattr(ttLib, "TTFont", lambda path: made)
    return EmojiFont(tmp_path / "a.ttf")


@pytest.fixture
def debians_font() -> Path:
    """The font of Debian's package; the test is skipped where that is not installed."""
    for share in REAL_SHARE.split(":"):
        if (found := Path(share, DEBIAN)).is_file():
            return found
    pytest.skip("needs Debian's fonts-noto-color-emoji")


class TestPacked:
    def test_it_is_whole_and_small(self):
        assert emoji.digest(emoji.unpack(), emoji.entries()) == emoji.SHA256
        assert sum(file.stat().st_size for file in emoji.PIXELS.parent.glob("*.xz")) < 2_900_000
        readme = emoji.PIXELS.with_name("README.md").read_text()
        assert emoji.SHA256 in readme
        for label, name in enumerate(emoji.CLASSES):
            counts = [
                sum(each.label == label and each.split == split for each in emoji.entries())
                for split in ("train", "test")
            ]
            assert f"| {name} | {counts[0]} | {counts[1]} |" in readme

    def test_pictures_are_different_and_families_are_on_one_side(self):
        pictures = emoji.unpack()
        assert not duplicate_groups(picture.tobytes() for picture in pictures)
        sides: dict = {}
        for each in emoji.entries():
            sides.setdefault((each.label, make.family_of(each.code_points)), set()).add(each.split)
        assert all(len(splits) == 1 for splits in sides.values())
        assert 0.09 < sum(splits == {"test"} for splits in sides.values()) / len(sides) < 0.11

    def test_splits_as_data_sets(self):
        test = load("emoji-32", "test")
        assert (len(test), test.channels, test.image_size, test.classes) == (431, 3, 32, emoji.CLASSES)
        assert load("emoji-32", "test", image_size=16, channels=1).images.shape == (431, 1, 16, 16)
        flag = test.images[test.labels == 8][0]
        assert torch.equal(flag[:, 0, 0], torch.full((3,), 255, dtype=torch.uint8)), "white behind"

    def test_damaged_files_are_noticed(self, tmp_path, monkeypatch):
        pictures, table = emoji.unpack().copy(), emoji.entries()
        monkeypatch.setattr(emoji, "PIXELS", tmp_path / "a.xz")
        monkeypatch.setattr(emoji, "TABLE", tmp_path / "b.xz")
        pictures[7, 1, 2, 0] ^= 1
        make.pack(pictures[:50], table[:50])
        assert np.array_equal(emoji.unpack(), pictures[:50]) and emoji.entries() == table[:50]
        with pytest.raises(ValueError, match="are not the packed data set"):
            emoji.read_split("train")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (dict(image_size=64), r"load 'emoji', which has up to 128$"),
            (dict(path="x"), r"'emoji-32' ships with labcore; .*from it$"),
        ],
    )
    def test_what_it_does_not_have(self, given, said):
        with pytest.raises(ValueError, match=said):
            load("emoji-32", "test", **given)


class TestMake:
    def test_the_list_is_read(self):
        rows = make.listed(LIST)
        assert rows == [
            ((0x1F600,), 0),
            ((0x263A,), 0),
            ((0x1F590,), 1),
            ((0x1F44B, 0x1F3FB), 1),
            ((0x1F590, 0x1F3FB), 1),
        ]

    def test_skin_tones_and_genders_are_of_one_family(self):
        runner = {(0x1F3C3,), (0x1F3C3, 0x1F3FD), (0x1F3C3, 0x200D, 0x2640), (0x1F3C3, 0x1F3FF, 0x200D, 0x2642)}
        cook = {(0x1F9D1, 0x200D, 0x1F373), (0x1F468, 0x1F3FB, 0x200D, 0x1F373), (0x1F469, 0x200D, 0x1F373)}
        assert len({make.family_of(codes) for codes in runner}) == len({make.family_of(codes) for codes in cook}) == 1
        assert make.family_of((0x1F9D1, 0x200D, 0x1F680)) != make.family_of((0x1F9D1, 0x200D, 0x1F373))

    def test_families_stand_together_and_the_first_of_equal_pictures_stays(self, font, monkeypatch):
        font._ligatures |= {("again", "green"): "again", ("clear", "green"): "pair"}
        pictures, table = make.build(font, LIST)
        assert [each.code_points for each in table] == [
            (0x1F600,),  # red; the waving hand is red too and left out
            (0x263A,),
            (0x1F590,),
            (0x1F590, 0x1F3FB),  # before the waving hand, though behind it in the list
        ]
        assert pictures[:, 16, 16].tolist() == [[255, 0, 0], [0, 255, 0], [255, 255, 255], [0, 0, 255]]
        assert emoji.parse_table(emoji.format_table(table)) == table

    def test_another_list_writes_nothing(self, font, monkeypatch, tmp_path, capsys):
        font._ligatures |= {("again", "green"): "again", ("clear", "green"): "pair"}
        monkeypatch.setattr(make, "find_font", lambda path: tmp_path)
        monkeypatch.setattr(make, "EmojiFont", lambda path: font)
        monkeypatch.setattr(emoji, "PIXELS", tmp_path / "a.xz")
        (tmp_path / "list.txt").write_text(LIST)
        assert make.main(["--list", str(tmp_path / "list.txt")]) == 1 and not (tmp_path / "a.xz").exists()
        assert "nothing was written" in capsys.readouterr().err


class TestFont:
    def test_sequences_and_sizes(self, font):
        found = font.pictures([(0x1F600,), (0x263A, 0xFE0F), (0x1F600, 0x263A), (0x1F590,)], 8)
        assert found.shape == (4, 3, 8, 8) and font.revision == REVISION
        assert found[:, :, 4, 4].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]

    def test_what_it_does_not_have(self, font):
        with pytest.raises(ValueError, match=r"has no picture of U\+263A U\+1F600; give another version"):
            font.pictures([(0x263A, 0x1F600)], 8)
        with pytest.raises(ValueError, match="have sizes of 1 to 128 pixels"):
            font.pictures([], 129)

    def test_a_missing_font_and_another_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="apt-get install fonts-noto-color-emoji"):
            load("emoji", "train", image_size=8)
        (tmp_path / "NotoColorEmoji.ttf").write_text("no font")
        assert find_font(tmp_path) == tmp_path / "NotoColorEmoji.ttf"
        with pytest.raises(ValueError, match="is no font with colour pictures"):
            load("emoji", "train", tmp_path, image_size=8)

    @pytest.mark.installed
    def test_the_packed_pictures_are_the_fonts(self, debians_font):
        font = EmojiFont(debians_font)
        if font.revision != REVISION:
            pytest.skip(f"the installed font is {font.revision}, the packed pictures are of {REVISION}")
        small, packed = load("emoji", "test", debians_font, image_size=32), load("emoji-32", "test")
        assert torch.equal(small.images, packed.images) and torch.equal(small.labels, packed.labels)

    @pytest.mark.installed
    def test_larger_pictures(self, debians_font):
        large = load("emoji", "test", debians_font, image_size=64)
        assert large.images.shape == (431, 3, 64, 64) and large.classes == emoji.CLASSES
        small = load("emoji-32", "test", image_size=16).images.float()
        assert (
            torch.nn.functional.avg_pool2d(large.images.float(), 4) - small
        ).abs().mean() < 8  # of 255; another filter
