"""Make the embedded data set from the IDX files of Fashion-MNIST.

    python -m labcore.data.embedded.make [IDX_FOLDER] [--check]

The command takes the first 1,000 training and the first 200 test images of each class, in file order, and packs them as
labcore.data.embedded describes. With --check it writes nothing and compares the packed arrays with the IDX files.
The arrays are the same on every machine; the file's bytes may differ with Pillow's zlib.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from labcore.data import embedded, fashion_mnist


def select(
    images: UInt8[np.ndarray, "n 28 28"], labels: UInt8[np.ndarray, " n"], per_class: int
) -> tuple[UInt8[np.ndarray, "m 28 28"], UInt8[np.ndarray, " m"]]:
    """Return the first `per_class` images of each class, in file order. Raises ValueError if a class has fewer."""
    picked = [np.flatnonzero(labels == label)[:per_class] for label in range(len(fashion_mnist.CLASSES))]
    short = [name for name, index in zip(fashion_mnist.CLASSES, picked, strict=True) if len(index) < per_class]
    if short:
        raise ValueError(f"fewer than {per_class} images of {', '.join(short)}; give the full set's IDX files")
    keep = np.sort(np.concatenate(picked))
    return images[keep], labels[keep]


def build(folder: str | None = None) -> dict[str, embedded.Arrays]:
    """Return both splits from the IDX files in `folder` (None: where fashion_mnist.find_folder finds them)."""
    source = fashion_mnist.find_folder(folder)
    classes = len(fashion_mnist.CLASSES)
    return {
        split: select(*fashion_mnist.read_split(source, split), per_class=count // classes)
        for split, count in embedded.COUNTS.items()
    }


def pack(splits: dict[str, embedded.Arrays]) -> None:
    """Write embedded.FILE: all transposed images, then all labels, as the rows of one PNG."""
    from PIL import Image

    images = np.concatenate([splits[split][0] for split in embedded.COUNTS]).swapaxes(1, 2)
    labels = np.concatenate([splits[split][1] for split in embedded.COUNTS])
    rows = np.pad(labels, (0, -len(labels) % embedded.SIDE))
    sheet = np.concatenate([images.reshape(-1, embedded.SIDE), rows.reshape(-1, embedded.SIDE)])
    # compress_type 1 is zlib's Z_FILTERED: 2.5 % smaller here than the default strategy
    Image.fromarray(sheet).save(embedded.FILE, "PNG", compress_level=9, compress_type=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status (1: files are missing, or an array has another sha256)."""
    parser = argparse.ArgumentParser(prog="python -m labcore.data.embedded.make", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="folder with the four IDX files (default: look for them)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; compare the packed file with the IDX files"
    )
    options = parser.parse_args(arguments)
    try:
        splits = build(options.folder)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    status = 0
    packed = embedded.unpack() if options.check else splits
    for split, arrays in splits.items():
        digest = embedded.sha256(*arrays)
        same = digest == embedded.SHA256[split] == embedded.sha256(*packed[split])
        print(f"{split}: {len(arrays[0]):,} images, sha256 {digest}{'' if same else ', DIFFERENT'}")
        status |= not same
    if status:
        print("the arrays do not have the sha256 of labcore.data.embedded; nothing was written", file=sys.stderr)
    elif options.check:
        print(f"{embedded.FILE.name} equals the IDX files")
    else:
        pack(splits)
        print(f"wrote {embedded.FILE.name}, {embedded.FILE.stat().st_size:,} bytes")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
