"""Fashion-MNIST from IDX files: 60,000 training and 10,000 test images of clothing, 28x28 grey, 10 classes.

Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
arXiv 1708.07747 (2017). The IDX format (LeCun, Cortes, Burges, the MNIST page): two zero bytes, a type code (8 is
uint8), the number of dimensions, each dimension as a big-endian 4-byte integer, then the values in C order.
"""

import gzip
import os
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FILES = {  # split -> names of (images, labels); each may also end in .gz
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DEBIAN = Path("datasets", "fashion-mnist")  # folder of Debian's package dataset-fashion-mnist, below /usr/share
TORCHVISION = Path("FashionMNIST", "raw")  # folder of torchvision's downloader, below its root
MOST_BYTES = 100_000_000  # most unpacked bytes of a file: twice the largest of the four, so no file can fill the memory
HOW_TO_GET = (
    "Ways to get them: `apt-get install dataset-fashion-mnist` (Debian, Ubuntu); "
    "labcore.data.fashion_mnist.download(folder) where there is a network; or path=<folder with the four IDX files>. "
    "The 12,000-image subset 'fashion-mnist-12k' ships with labcore and needs none of this"
)


def read_idx(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "..."]:
    """Read the uint8 array in an IDX file, plain or gzipped; its first bytes decide which, not its name.

    Raises ValueError that names the file if it is not IDX, is not of uint8, or is truncated or too long; FileNotFoundError if
    it is missing.
    """
    path = Path(path)
    data = _read_whole(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8 or data[3] == 0:
        raise ValueError(
            f"{path} begins with bytes {data[:4].hex() or '(none)'}; an IDX file of uint8 begins with 000008 and its "
            "number of dimensions. Is this one of the four Fashion-MNIST files?"
        )
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise ValueError(f"{path} ends within its IDX header, after {len(data)} of {start} bytes; download it again")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    if len(data) - start != prod(shape):
        raise ValueError(
            f"{path} holds {len(data) - start:,} values, but its header says {' x '.join(map(str, shape))} = "
            f"{prod(shape):,}: it is {'truncated' if len(data) - start < prod(shape) else 'too long'}; download it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def _read_whole(path: Path) -> bytes:
    """Read the bytes of a file, unpacked if it is gzipped. Raises ValueError if it is damaged or above `MOST_BYTES`."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(MOST_BYTES + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is a truncated or damaged gzip file ({error}); download it again") from error
    if len(data) > MOST_BYTES:
        raise ValueError(
            f"{path} holds more than {MOST_BYTES:,} bytes; Fashion-MNIST's files hold at most 47,040,016. Download it again"
        )
    return data


def read_split(
    folder: str | os.PathLike[str], split: str
) -> tuple[UInt8[np.ndarray, "n h w"], UInt8[np.ndarray, " n"]]:
    """Read images (n, h, w) and labels (n,) of one split ("train" or "test") from the IDX files in `folder`, in file order.

    Raises ValueError for another split, and for files that are damaged or do not belong together.
    """
    if split not in FILES:
        raise ValueError(f"split={split!r}: Fashion-MNIST has 'train' and 'test'")
    image_file, label_file = (_file(Path(folder), name) for name in FILES[split])
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"{image_file} has shape {images.shape} and {label_file} has shape {labels.shape}; they must be (n, h, w) "
            "and (n,). Put the files of one data set into one folder"
        )
    return images, labels


def find_folder(path: str | os.PathLike[str] | None = None) -> Path:
    """Find the folder with the four IDX files (plain or .gz).

    path: the only folder that is searched, if given. None (default) searches $LABCORE_DATA/fashion-mnist, then Debian's
    folder: datasets/fashion-mnist below each of $XDG_DATA_DIRS (default: /usr/local/share and /usr/share). In each,
    FashionMNIST/raw is searched too, where torchvision puts the files. Raises FileNotFoundError that lists the searched
    folders and the ways to get the files.
    """
    if path is not None:
        roots = [Path(path)]
    else:
        data = os.environ.get("LABCORE_DATA")
        roots = ([Path(data, "fashion-mnist")] if data else []) + system_folders()
    wanted = [name for pair in FILES.values() for name in pair]
    looked = []
    for folder in (candidate for root in roots for candidate in (root, root / TORCHVISION)):
        missing = [name for name in wanted if _file(folder, name) is None]
        if not missing:
            return folder
        if not folder.is_dir():
            looked.append(f"{folder} (no such folder)")
        else:
            looked.append(f"{folder} (lacks {', '.join(missing)})")
    if path is None and not data:
        looked.append("$LABCORE_DATA/fashion-mnist (LABCORE_DATA is not set)")
    places = "\n  ".join(looked)
    raise FileNotFoundError(f"The IDX files of Fashion-MNIST were not found. Looked in\n  {places}\n{HOW_TO_GET}")


def system_folders() -> list[Path]:
    """List the folders where a system package puts the data set, one below each of $XDG_DATA_DIRS."""
    shares = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [Path(share, DEBIAN) for share in shares.split(":") if share]


def download(folder: str | os.PathLike[str]) -> Path:
    """Download Fashion-MNIST into `folder` with torchvision (about 30 MB), unless it is there; return the files' folder.

    Raises ConnectionError with other ways to get the files if the download fails.
    """
    from torchvision import datasets

    try:
        datasets.FashionMNIST(root=folder, train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(f"torchvision could not download Fashion-MNIST ({error}). {HOW_TO_GET}") from error
    return find_folder(folder)


def _file(folder: Path, name: str) -> Path | None:
    """Return the plain or gzipped file of that name in `folder`, or None."""
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)
