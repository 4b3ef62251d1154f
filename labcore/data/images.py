"""A data set in memory: uint8 images (n, c, h, w), int64 labels (n,), and the names of the classes.

`labcore.data.picture_set` has the methods that read it and make subsets.
"""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from labcore.data.picture_set import HeldPictures

RESIZE_CHUNK = 1024  # images that are resized at a time, to keep the float32 copy small
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 (0.299, 0.587, 0.114) in 1/65536, as in Pillow


@dataclass(frozen=True, eq=False, repr=False)
class ImageData(HeldPictures):
    """Square images with class labels, in memory: a `labcore.data.protocol.Dataset`.

    Attributes:
        images: uint8 (n, c, h, w) with h = w and values 0..255; n at least 1.
        labels: int64 (n,) in 0..len(classes)-1.
        classes: a name for each label.
        name: the name of the data set.
        split: the name of the split, such as "train" or "test".

    Raises:
        ValueError: dtypes, shapes, labels and classes do not fit together.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        images, labels, where = self.images, self.labels, f"ImageData {self.name!r} {self.split!r}"
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"{where}: images are {images.dtype} of shape {tuple(images.shape)}; they must be uint8 of shape "
                "(n, c, h, w) with values 0..255. Convert them, e.g. ((x + 1) * 127.5).round().to(torch.uint8)"
            )
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise ValueError(
                f"{where}: labels are {labels.dtype} of shape {tuple(labels.shape)}; they must be int64 of shape (n,). "
                "Use labels.long(), and one label for each image"
            )
        if len(images) != len(labels):
            raise ValueError(f"{where}: {len(images)} images but {len(labels)} labels; give one label for each image")
        if images.numel() == 0:
            raise ValueError(f"{where}: images of shape {tuple(images.shape)} are empty; give at least one image")
        if images.shape[-2] != images.shape[-1]:
            raise ValueError(
                f"{where}: images are {images.shape[-2]}x{images.shape[-1]}; they must be square. Crop or pad them"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"{where}: labels run from {low} to {high}, but {len(self.classes)} classes allow 0 to "
                f"{len(self.classes) - 1}. Renumber the labels, or name every class"
            )

    def __repr__(self) -> str:
        c, h, w = self.images.shape[1:]
        return f"ImageData({self.name!r}, {self.split!r}: {len(self):,} of {c}x{h}x{w}, {self.num_classes} classes)"

    def fingerprint(self) -> str:
        """Return 16 hex digits of a sha256 over name, split, classes, shape, labels and pixels."""
        header = (self.name, self.split, self.classes, tuple(self.images.shape))
        digest = hashlib.sha256(repr(header).encode())
        digest.update(self.labels.cpu().numpy().tobytes())
        digest.update(self.images.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def resize(images: UInt8[Tensor, "n c h w"], image_size: int) -> UInt8[Tensor, "n c s s"]:
    """Resize images to `image_size` x `image_size` pixels; images of that size are returned unchanged.

    The filter is bilinear with antialiasing in float32 (torch.nn.functional.interpolate). Values are rounded half to even and
    clamped to 0..255. Raises ValueError if image_size is below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size={image_size}: give the side of the images in pixels, 1 or more")
    if images.shape[-2:] == (image_size, image_size):
        return images
    size = (image_size, image_size)
    chunks = (
        F.interpolate(chunk.to(torch.float32), size, mode="bilinear", antialias=True)
        for chunk in images.split(RESIZE_CHUNK)
    )
    return torch.cat([chunk.round().clamp(0, 255).to(torch.uint8) for chunk in chunks])


def to_channels(images: UInt8[Tensor, "n c h w"], channels: int) -> UInt8[Tensor, "n k h w"]:
    """Convert grey (1) to RGB (3) by repeating, or RGB to grey by ITU-R BT.601 luma, bit-identical to Pillow's convert("L").

    Raises ValueError unless both numbers of channels are 1 or 3.
    """
    given = images.shape[1]
    if channels not in (1, 3) or given not in (1, 3):
        raise ValueError(
            f"channels={channels} for images with {given}: both must be 1 (grey) or 3 (RGB). Leave channels out to keep "
            "the images as they are"
        )
    if channels == given:
        return images
    if channels == 3:
        return images.repeat(1, 3, 1, 1)
    red, green, blue = (weight * plane.to(torch.int32) for weight, plane in zip(LUMA, images.unbind(1), strict=True))
    return ((red + green + blue + 32768) >> 16).to(torch.uint8).unsqueeze(1)
