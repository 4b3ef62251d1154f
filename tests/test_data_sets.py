"""The data sets: what ships, IDX files, folders of images, and what each says when it is given something wrong."""

import gzip
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader

from labcore.data import ImageData, ImageFolderData, embedded, fashion_mnist, folder, load
from labcore.data.embedded import make
from labcore.data.images import resize, to_channels

TINY = 3  # images a class in IDX files written by the tests


@pytest.fixture(scope="module")
def shipped() -> ImageData:
    return load("fashion-mnist-12k", "test")


def fake_torchvision(monkeypatch, fashion_mnist_class) -> None:
    """Stands in for torchvision, whose import takes longer than all these tests."""
    datasets = SimpleNamespace(FashionMNIST=fashion_mnist_class)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=datasets))


def write_idx(path: Path, array: np.ndarray, compress: bool = False) -> Path:
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


def write_idx_set(root: Path, compress: bool = True) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A Fashion-MNIST of TINY random images a class; returns its arrays."""
    rng, splits = np.random.default_rng(0), {}
    for split, names in fashion_mnist.FILES.items():
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), TINY))
        splits[split] = rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8), labels
        for name, array in zip(names, splits[split], strict=True):
            write_idx(root / (name + ".gz" * compress), array, compress)
    return splits


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 8), colour=None, **options) -> Path:
    """An image of one colour (default: random pixels) at path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if colour is None:
        channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
        pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
        image = Image.fromarray(pixels, mode) if mode == "CMYK" else Image.fromarray(pixels)
    else:
        image = Image.new(mode, size, colour)
    image.save(path, **options)
    return path


def tree(root: Path, counts: dict[str, int], **options) -> Path:
    """root/<class>/NN.png, counts[class] of each."""
    for name, count in counts.items():
        for i in range(count):
            save(root / name / f"{i:02d}.png", **options)
    return root


def only(tmp_path: Path, file: Path, **options) -> torch.Tensor:
    """The one image of a folder that holds `file` in class a, as (c, s, s)."""
    assert file.parent == tmp_path / "a"
    return ImageFolderData(tmp_path, "train", **({"image_size": 8} | options))[0][0]


class TestEmbedded:
    def test_sizes_and_balance(self, shipped: ImageData):
        train = load()
        assert (len(train), len(shipped)) == (10_000, 2_000)
        assert train.images.shape[1:] == (1, 28, 28)
        assert train.labels.bincount().tolist() == [1000] * 10
        assert shipped.labels.bincount().tolist() == [200] * 10
        assert train.classes[5] == "Sandal" and train.num_classes == 10
        assert embedded.FILE.stat().st_size <= 5_000_000

    def test_readme_states_the_hashes(self):
        readme = embedded.FILE.with_name("README.md").read_text()
        for split, digest in embedded.SHA256.items():
            assert embedded.sha256(*embedded.unpack()[split]) == digest
            assert digest in readme

    @pytest.mark.installed
    def test_is_what_make_makes(self, installed_fashion_mnist):
        for split, (images, labels) in make.build(str(installed_fashion_mnist)).items():
            packed_images, packed_labels = embedded.read_split(split)
            assert np.array_equal(images, packed_images)
            assert np.array_equal(labels, packed_labels)

    def test_select_keeps_file_order(self):
        images = np.arange(40, dtype=np.uint8).repeat(784).reshape(40, 28, 28)
        labels = np.tile(np.arange(10, dtype=np.uint8), 4)[::-1].copy()
        kept, kept_labels = make.select(images, labels, 2)
        assert kept[:, 0, 0].tolist() == list(range(20))
        assert kept_labels.tolist() == labels[:20].tolist()
        with pytest.raises(ValueError, match="fewer than 5 images of T-shirt"):
            make.select(images, labels, 5)

    def test_pack_and_unpack(self, tmp_path, monkeypatch):
        splits = write_idx_set(tmp_path)
        monkeypatch.setattr(embedded, "FILE", tmp_path / "packed.png")
        monkeypatch.setattr(embedded, "COUNTS", {split: 10 * TINY for split in splits})
        make.pack(splits)
        for split, arrays in embedded.unpack().items():
            assert all(np.array_equal(a, b) for a, b in zip(arrays, splits[split], strict=True))
        with pytest.raises(ValueError, match="not the data set of this version"):
            embedded.read_split("train")
        before = embedded.FILE.read_bytes()
        assert make.main([str(tmp_path)]) == 1  # other images than those of SHA256: refused, nothing written
        assert embedded.FILE.read_bytes() == before


class TestIdx:
    @pytest.mark.parametrize("compress", [False, True])
    def test_round_trip(self, tmp_path, compress):
        array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
        read = fashion_mnist.read_idx(write_idx(tmp_path / "file", array, compress))
        assert np.array_equal(read, array) and read.dtype == np.uint8

    @pytest.mark.parametrize("compress", [False, True])
    def test_set(self, tmp_path, compress):
        splits = write_idx_set(tmp_path, compress)
        data = load("fashion-mnist", "test", path=tmp_path)
        assert np.array_equal(data.images.squeeze(1).numpy(), splits["test"][0])
        assert data.labels.tolist() == splits["test"][1].tolist()

    @pytest.mark.parametrize("compress", [False, True])
    def test_truncated(self, tmp_path, compress):
        file = write_idx(tmp_path / "train-images", np.zeros((5, 28, 28), np.uint8), compress)
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(ValueError, match=r"train-images.*truncated"):
            fashion_mnist.read_idx(file)

    @pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\x0d\x01\0\0\0\0", b"PK\x03\x04", b"\0\0\x08\x03\0\0"])
    def test_not_idx(self, tmp_path, data):
        file = tmp_path / "strange-file"
        file.write_bytes(data)
        with pytest.raises(ValueError, match="strange-file"):
            fashion_mnist.read_idx(file)

    def test_files_of_two_sets(self, tmp_path):
        write_idx_set(tmp_path, compress=False)
        write_idx(tmp_path / fashion_mnist.FILES["test"][1], np.zeros(7, np.uint8))
        with pytest.raises(ValueError, match="one data set into one folder"):
            fashion_mnist.read_split(tmp_path, "test")

    def test_find_order(self, tmp_path, monkeypatch):
        debian = tmp_path / "share" / "datasets" / "fashion-mnist"
        monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'nothing'}:{tmp_path / 'share'}")
        with pytest.raises(FileNotFoundError) as error:
            fashion_mnist.find_folder()
        for hint in (str(debian), "LABCORE_DATA", "apt-get install dataset-fashion-mnist", "download("):
            assert hint in str(error.value)
        assert not str(error.value).endswith(".")
        write_idx_set(debian)
        assert fashion_mnist.find_folder() == debian
        monkeypatch.setenv("LABCORE_DATA", str(tmp_path / "mine"))
        assert fashion_mnist.find_folder() == debian
        write_idx_set(tmp_path / "mine" / "fashion-mnist")
        assert fashion_mnist.find_folder() == tmp_path / "mine" / "fashion-mnist"
        write_idx_set(tmp_path / "given")
        assert fashion_mnist.find_folder(tmp_path / "given") == tmp_path / "given"
        (tmp_path / "given" / "t10k-labels-idx1-ubyte.gz").unlink()
        with pytest.raises(FileNotFoundError, match=r"given \(lacks t10k-labels-idx1-ubyte\)"):
            fashion_mnist.find_folder(tmp_path / "given")

    def test_download(self, tmp_path, monkeypatch):
        class FakeFashionMNIST:
            def __init__(self, root, train, download):
                assert download
                write_idx_set(Path(root) / "FashionMNIST" / "raw")

        fake_torchvision(monkeypatch, FakeFashionMNIST)
        where = fashion_mnist.download(tmp_path)
        assert where == tmp_path / "FashionMNIST" / "raw"
        assert len(load("fashion-mnist", path=tmp_path)) == 10 * TINY

    def test_download_without_network(self, tmp_path, monkeypatch):
        def unreachable(**_):
            raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

        fake_torchvision(monkeypatch, unreachable)
        with pytest.raises(ConnectionError, match="apt-get install"):
            fashion_mnist.download(tmp_path)


class TestImageData:
    GOOD = dict(  # noqa: RUF012
        images=torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels=torch.tensor([0, 1, 2, 0]), classes=("a", "b", "c")
    )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"images": torch.zeros(4, 1, 2, 2)}, "must be uint8"),
            ({"images": torch.zeros(4, 2, 2, dtype=torch.uint8)}, "n, c, h, w"),
            ({"images": torch.zeros(4, 1, 2, 3, dtype=torch.uint8)}, "2x3; they must be square"),
            ({"labels": torch.zeros(4)}, "must be int64"),
            ({"labels": torch.tensor([0, 1])}, "4 images but 2 labels"),
            ({"labels": torch.tensor([0, 1, 2, 3])}, "from 0 to 3, but 3 classes"),
            ({"labels": torch.tensor([0, 1, -1, 2])}, "from -1 to 2"),
            (
                {"images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)},
                "empty",
            ),
        ],
    )
    def test_refuses(self, as_users_run, change, message):
        ImageData(**self.GOOD, name="n", split="train")
        with pytest.raises(ValueError, match=message):
            ImageData(**(self.GOOD | change), name="n", split="train")

    def test_items_agree(self, shipped: ImageData):
        indices = [3, 1999, 0, 3]
        images, labels = shipped.__getitems__(indices)
        assert images.shape == (4, 1, 28, 28)
        for i, image, label in zip(indices, images, labels, strict=True):
            assert torch.equal(shipped[i][0], image) and shipped[i][1] == label
        with pytest.raises(IndexError):
            shipped[2000]

    def test_subset(self, as_users_run, shipped: ImageData):
        part = shipped.subset([5, 2])
        assert torch.equal(part.images[1], shipped.images[2])
        assert part.labels.tolist() == shipped.labels[[5, 2]].tolist()
        for bad in ([], [2000], [0.5], (shipped.labels == 3).tolist()):
            with pytest.raises(ValueError, match="indices"):
                shipped.subset(torch.tensor(bad))

    def test_fingerprint(self, shipped: ImageData):
        part = shipped.subset(range(20))
        same = ImageData(part.images.clone(), part.labels.clone(), part.classes, part.name, part.split)
        assert part.fingerprint() == same.fingerprint()
        others = [
            ImageData(part.images ^ 1, part.labels, part.classes, part.name, part.split),
            ImageData(part.images, part.labels.flip(0), part.classes, part.name, part.split),
            ImageData(part.images, part.labels, part.classes, "else", part.split),
            ImageData(part.images.view(20, 4, 14, 14), part.labels, part.classes, part.name, part.split),
        ]
        assert len({each.fingerprint() for each in [part, *others]}) == 5


class TestLoad:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"name": "cifar"}, "'fashion-mnist-12k', 'fashion-mnist', 'emoji-32', 'emoji', 'folder'"),
            ({"split": "validation"}, "'train' and 'test'"),
            ({"image_size": 0}, "image_size=0"),
            ({"channels": 2}, "channels=2"),
            ({"path": "somewhere"}, "leave path out"),
            ({"name": "folder", "image_size": 8}, "it needs both"),
            ({"name": "folder", "path": "somewhere"}, "it needs both"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            load(**arguments)

    def test_size_and_channels(self):
        data = load("fashion-mnist-12k", "test", image_size=16, channels=3)
        assert data.images.shape == (2000, 3, 16, 16)
        assert (data.image_size, data.channels) == (16, 3)
        assert torch.equal(data.images[:, 0], data.images[:, 2])

    @pytest.mark.parametrize(("size", "allowed"), [(12, 0.1), (18, 0.1), (25, 0.5), (48, 0.5)])
    def test_resize_keeps_mean(self, shipped: ImageData, size, allowed):
        # on a black margin, as weights at the very border differ; 12 and 18 divide 36, so only rounding is left
        images = F.pad(shipped.images, (4, 4, 4, 4))
        change = resize(images, size).double().mean((1, 2, 3)) - images.double().mean((1, 2, 3))
        assert change.abs().max() < allowed

    def test_resize_constants_and_identity(self, shipped: ImageData):
        for value in (0, 7, 255):
            flat = torch.full((2, 1, 28, 28), value, dtype=torch.uint8)
            assert (resize(flat, 11) == value).all() and (resize(flat, 40) == value).all()
        assert torch.equal(resize(shipped.images, 28), shipped.images)

    def test_luma_is_pillows(self):
        pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        ours = to_channels(pixels, 1)
        pillows = np.asarray(Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).convert("L"))
        assert np.array_equal(ours[0, 0].numpy(), pillows)
        grey = pixels[:, :1]
        assert torch.equal(to_channels(to_channels(grey, 3), 1), grey)


class TestFolder:
    def test_held_out(self, tmp_path):
        tree(tmp_path, {"cat": 21, "dog": 9}, mode="L")
        train, test = (ImageFolderData(tmp_path, split, 8) for split in ("train", "test"))
        assert test.files == ("cat/09.png", "cat/19.png")
        assert sorted(train.files + test.files) == sorted(
            p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*")
        )
        assert train.labels.bincount().tolist() == [19, 9]
        assert train.classes == test.classes == ("cat", "dog")
        assert (train.channels, train.image_size, train.num_classes) == (1, 8, 2)

    def test_no_file_left_for_test(self, tmp_path):
        tree(tmp_path, {"cat": 9})
        with pytest.raises(ValueError, match=r"1 of 10 files of each class.* enough files for one test image; add"):
            ImageFolderData(tmp_path, "test", 8)

    @pytest.mark.parametrize("held_out", ["val", "test"])
    def test_split_folders(self, tmp_path, held_out):
        tree(tmp_path / "train", {"cat": 3, "dog": 2})
        tree(tmp_path / held_out, {"cat": 1, "dog": 2})
        data = load("folder", "test", path=tmp_path, image_size=8)
        assert data.files == tuple(f"{held_out}/{file}" for file in ("cat/00.png", "dog/00.png", "dog/01.png"))
        assert data.labels.tolist() == [0, 1, 1]

    def test_a_class_may_be_called_train(self, tmp_path):
        tree(tmp_path, {"car": 2, "train": 2})
        assert ImageFolderData(tmp_path, "train", 8).classes == ("car", "train")

    def test_pixels_of_the_right_size_are_untouched(self, tmp_path):
        file = save(tmp_path / "a" / "x.png", "RGB", (8, 8))
        expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        assert torch.equal(only(tmp_path, file), expected)

    def test_centre_crop(self, tmp_path):
        pixels = np.zeros((8, 24), np.uint8)
        pixels[:, 8:16] = 200  # the centre square
        (tmp_path / "a").mkdir()
        Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
        image = only(tmp_path, tmp_path / "a" / "x.png")
        assert image.shape == (1, 8, 8) and (image == 200).all()

    def test_uneven_sizes_and_formats(self, tmp_path):
        for i, size in enumerate([(1, 1), (3, 40), (40, 3), (200, 100), (8, 8)]):
            save(tmp_path / "a" / f"{i}.{('png', 'jpg', 'webp', 'bmp', 'gif')[i]}", "RGB", size)
        data = ImageFolderData(tmp_path, "train", 16, channels=3)
        images, labels = data.__getitems__(range(5))
        assert images.shape == (5, 3, 16, 16) and images.dtype == torch.uint8
        assert labels.tolist() == [0] * 5

    def test_exif_rotation(self, tmp_path):
        pixels = np.full((16, 16, 3), 255, np.uint8)
        pixels[:8] = 0  # dark above; orientation 6 turns it a quarter clockwise: dark on the right
        exif = Image.Exif()
        exif[0x0112] = 6
        (tmp_path / "a").mkdir()
        file = tmp_path / "a" / "x.jpg"
        Image.fromarray(pixels).save(file, exif=exif, quality=95)
        image = only(tmp_path, file, image_size=16)
        assert image[:, :, 9:].max() < 20 and image[:, :, :7].min() > 235

    def test_transparency_lies_on_white(self, tmp_path):
        file = save(tmp_path / "a" / "x.png", "RGBA", (8, 8), (255, 0, 0, 0))
        assert (only(tmp_path, file) == 255).all()
        file = save(tmp_path / "a" / "x.png", "RGBA", (8, 8), (255, 0, 0, 255))
        assert only(tmp_path, file)[:, 0, 0].tolist() == [255, 0, 0]
        file = save(tmp_path / "a" / "x.png", "LA", (8, 8), (10, 0))
        image = only(tmp_path, file)
        assert image.shape[0] == 1 and (image == 255).all()

    def test_palette_with_transparency(self, tmp_path):
        palette = Image.new("P", (8, 8), 1)
        palette.putpalette([0, 0, 0, 10, 200, 30])
        (tmp_path / "a").mkdir()
        palette.save(tmp_path / "a" / "x.png")
        assert only(tmp_path, tmp_path / "a" / "x.png")[:, 0, 0].tolist() == [10, 200, 30]
        palette.save(tmp_path / "a" / "x.png", transparency=1)
        assert (only(tmp_path, tmp_path / "a" / "x.png") == 255).all()

    def test_cmyk(self, tmp_path):
        file = save(tmp_path / "a" / "x.jpg", "CMYK", (16, 16), (0, 255, 255, 0), quality=95)
        red, green, blue = only(tmp_path, file)[:, 4, 4].tolist()
        assert red > 245 and green < 10 and blue < 10

    @pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
    def test_sixteen_bit_grey_keeps_its_range(self, tmp_path, suffix):
        ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
        (tmp_path / "a").mkdir()
        file = tmp_path / "a" / f"x.{suffix}"
        Image.fromarray(ramp).save(file)
        image = only(tmp_path, file)
        assert torch.equal(image[0], torch.from_numpy((ramp / 257).round().astype(np.uint8)))

    def test_mixed_channels(self, tmp_path):
        save(tmp_path / "a" / "grey.png", "L")
        save(tmp_path / "a" / "more.png", "L")
        save(tmp_path / "a" / "red.png", "RGB")
        with pytest.raises(ValueError, match=r"2 grey files .*grey\.png.* and 1 RGB files .*red\.png.*channels 1 or 3"):
            ImageFolderData(tmp_path, "train", 8)
        for channels in (1, 3):
            data = ImageFolderData(tmp_path, "train", 8, channels).to_memory()
            assert data.images.shape == (3, channels, 8, 8)

    def test_splits_must_agree_on_channels(self, tmp_path):
        tree(tmp_path / "train", {"a": 1}, mode="L")
        tree(tmp_path / "test", {"a": 1}, mode="RGB")
        with pytest.raises(ValueError, match="mixes 1 grey"):
            ImageFolderData(tmp_path, "train", 8)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "gif"])
    def test_a_file_that_was_cut_off_is_an_error_at_once(self, tmp_path, suffix):
        noise = torch.randint(256, (20, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        (tmp_path / "a").mkdir()
        for name in ("whole", "padded", "cut"):
            Image.fromarray(noise.numpy()).save(tmp_path / "a" / f"{name}.{suffix}")
        padded, cut = tmp_path / "a" / f"padded.{suffix}", tmp_path / "a" / f"cut.{suffix}"
        padded.write_bytes(padded.read_bytes() + bytes(30))
        cut.write_bytes(cut.read_bytes()[:-100])
        with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be read as an image \(.*truncated.*; repair it"):
            ImageFolderData(tmp_path, "train", 8, 3)
        cut.unlink()
        assert len(ImageFolderData(tmp_path, "train", 8, 3)) == 2

    def test_all_files_that_are_no_pictures_are_named_together(self, tmp_path):
        tree(tmp_path, {"a": 3})
        for i in range(7):
            (tmp_path / "a" / f"note{i}.txt").write_text("no pixels here")
        with pytest.raises(
            ValueError, match=r"note0\.txt .*nor can 6 other files: .*note1\.txt.*note4\.txt.*; and 2 more\. Rep"
        ):
            ImageFolderData(tmp_path, "train", 8, 3)

    @pytest.mark.parametrize(
        ("files", "error", "message"),
        [
            (None, FileNotFoundError, "does not exist"),
            ([], ValueError, "is empty"),
            (["x.png"], ValueError, "holds 1 files and no class folders"),
            (["train/x.png", "test/x.png"], ValueError, "train holds 1 files and no class folders"),
            (["a/x.png", "b/"], ValueError, "class folder .*b has no images"),
            (["a/x.png", "b/.hidden", "b/Thumbs.db"], ValueError, "class folder .*b has no images"),
            (["train/a/x.png", "test/b/x.png"], ValueError, r"only train has \['a'\] and only test has \['b'\]"),
            (["test/a/x.png"], ValueError, "It has test: add the missing folder"),
            (["a/x.png", "a/notes.txt"], ValueError, r"notes\.txt cannot be read as an image"),
            (["a/x.png", "a/broken.jpg"], ValueError, r"broken\.jpg cannot be read as an image"),
        ],
    )
    def test_refuses(self, tmp_path, files, error, message):
        root = tmp_path / "root"
        if files is not None:
            root.mkdir()
        for file in files or []:
            if file.endswith("/"):
                (root / file).mkdir(parents=True)
            elif file.endswith("x.png"):
                save(root / file)
            else:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).write_bytes(b"no pixels here")
        with pytest.raises(error, match=message):
            ImageFolderData(root, "train", 8)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"image_size": 0}, "image_size=0"),
            ({"image_size": -3}, "image_size=-3"),
            ({"channels": 4}, "channels=4"),
            ({"split": "valid"}, "split='valid'"),
        ],
    )
    def test_refuses_arguments(self, tmp_path, arguments, message):
        tree(tmp_path, {"a": 1})
        with pytest.raises(ValueError, match=message):
            ImageFolderData(**({"path": tmp_path, "split": "train", "image_size": 8} | arguments))

    def test_damage_behind_the_header_is_named_when_read(self, tmp_path):
        tree(tmp_path, {"a": 2}, size=(64, 64))
        file = tmp_path / "a" / "01.png"
        contents = file.read_bytes()
        file.write_bytes(contents[:2000] + contents[-12:])  # its last bytes are those of a complete file
        data = ImageFolderData(tmp_path, "train", 8)
        assert data[0][0].shape == (3, 8, 8)
        with pytest.raises(ValueError, match=r"01\.png cannot be read"):
            data[1]

    def test_large_folders_are_sampled(self, tmp_path, monkeypatch):
        monkeypatch.setattr(folder, "CHECK_ALL", 10)
        monkeypatch.setattr(folder, "CHECK_SOME", 4)
        tree(tmp_path, {"a": 12})
        (tmp_path / "a" / "01.png").write_bytes(b"not among the sample 0, 3, 6, 9")
        assert len(ImageFolderData(tmp_path, "train", 8)) == 11
        (tmp_path / "a" / "notes.txt").write_text("an unfamiliar suffix is opened in any case")
        with pytest.raises(ValueError, match=r"notes\.txt"):
            ImageFolderData(tmp_path, "train", 8)

    def test_fingerprint_and_memory(self, tmp_path):
        tree(tmp_path, {"a": 3, "b": 2})
        data = ImageFolderData(tmp_path, "train", 8)
        assert data.fingerprint() == ImageFolderData(tmp_path, "train", 8).fingerprint()
        assert data.fingerprint() != ImageFolderData(tmp_path, "train", 9).fingerprint()
        memory = data.to_memory()
        assert (memory.name, memory.split, memory.classes) == (tmp_path.name, "train", ("a", "b"))
        assert torch.equal(memory.images, data.__getitems__(range(5))[0])
        assert torch.equal(memory.labels, data.labels)
        before = data.fingerprint()
        save(tmp_path / "a" / "00.png", size=(30, 30))
        assert data.fingerprint() != before


def test_workers_return_what_indexing_returns(tmp_path, shipped: ImageData):
    tree(tmp_path, {"a": 7, "b": 5})
    for data in (shipped.subset(range(12)), ImageFolderData(tmp_path, "train", 8)):
        loader = DataLoader(data, batch_size=5, num_workers=2, collate_fn=lambda batch: batch)
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == [5, 5, 2]
        images, labels = data.__getitems__(range(12))
        assert torch.equal(torch.cat([batch[0] for batch in batches]), images)
        assert torch.equal(torch.cat([batch[1] for batch in batches]), labels)


def test_links_in_circles_and_pipes_are_passed_over(tmp_path):
    import os

    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("L", (4, 4), i).save(tmp_path / name / f"{i}.png")
    for link in ("loop", "again"):
        (tmp_path / "a" / link).symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "a" / "pipe")
    assert len(load("folder", "train", tmp_path, 4)) == 18
