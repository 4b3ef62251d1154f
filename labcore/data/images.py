"""A data set held in memory: uint8 images (n, c, h, w), int64 labels (n,), and the names of the classes.

Images stay uint8 until the loader; scaling to [-1, 1], dequantisation and noise happen there, not here.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

RESIZE_CHUNK = 1024  # images resized at a time, so that float copies stay small
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 (0.299, 0.587, 0.114) in 1/65536, as in Pillow


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """Square images with class labels, in memory.

    images: uint8 (n, c, h, w) with h = w; labels: int64 (n,) in 0..len(classes)-1; classes: a name for each label;
    name, split: where the images are from. Raises ValueError if these do not fit together.
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
                "(n, c, h, w) with values 0..255. Convert them, e.g. ((x + 1) * 127.5).round().to(torch.uint8)."
            )
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise ValueError(
                f"{where}: labels are {labels.dtype} of shape {tuple(labels.shape)}; they must be int64 of shape (n,). "
                "Use labels.long() and one label an image."
            )
        if len(images) != len(labels):
            raise ValueError(f"{where}: {len(images)} images but {len(labels)} labels; give one label for each image.")
        if images.numel() == 0:
            raise ValueError(f"{where}: images of shape {tuple(images.shape)} are empty; give at least one image.")
        if images.shape[-2] != images.shape[-1]:
            raise ValueError(
                f"{where}: images are {images.shape[-2]}x{images.shape[-1]}; they must be square. Crop or pad them."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"{where}: labels run from {low} to {high}, but {len(self.classes)} classes allow 0 to "
                f"{len(self.classes) - 1}. Renumber the labels or name every class."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        c, h, w = self.images.shape[1:]
        return f"ImageData({self.name!r}, {self.split!r}: {len(self):,} of {c}x{h}x{w}, {self.num_classes} classes)"

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "c h w"], int]:
        """One image (c, h, w), a view, and its label."""
        return self.images[index], int(self.labels[index])

    def __getitems__(
        self, indices: Sequence[int] | Int[Tensor, " b"]
    ) -> tuple[UInt8[Tensor, "b c h w"], Int64[Tensor, " b"]]:
        """A batch in one indexing operation. DataLoader calls this and hands the result to its collate_fn, which must
        therefore be the identity (the batch is collated already)."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.images[index], self.labels[index]

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def subset(self, indices: Sequence[int] | Int[Tensor, " m"]) -> "ImageData":
        """The images at `indices`, in that order, under the same name, split and classes.

        Raises ValueError if there are none, or one is outside -n..n-1, or they are not integers (a mask, say).
        """
        index = torch.as_tensor(indices)
        if index.numel() == 0:
            raise ValueError("subset: no indices were given; give at least one.")
        if index.dtype == torch.bool or index.is_floating_point() or index.ndim != 1:
            raise ValueError(
                f"subset: indices are {index.dtype} of shape {tuple(index.shape)}; they must be a list of integers. "
                "Turn a mask into indices with mask.nonzero().flatten()."
            )
        if int(index.min()) < -len(self) or int(index.max()) >= len(self):
            raise ValueError(
                f"subset: indices run from {int(index.min())} to {int(index.max())}, but the set has {len(self)} "
                f"images; use 0 to {len(self) - 1}."
            )
        index = index.to(torch.int64)
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index])

    def fingerprint(self) -> str:
        """16 hex digits of the sha256 over name, split, classes, shape, labels and pixels: equal sets, equal digits."""
        header = (self.name, self.split, self.classes, tuple(self.images.shape))
        digest = hashlib.sha256(repr(header).encode())
        digest.update(self.labels.cpu().numpy().tobytes())
        digest.update(self.images.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def resize(images: UInt8[Tensor, "n c h w"], image_size: int) -> UInt8[Tensor, "n c s s"]:
    """Images at `image_size` x `image_size` pixels: bilinear with antialiasing (torch.nn.functional.interpolate) in
    float32, rounded half to even and clamped to 0..255. Images of that size already come back as they are.

    Raises ValueError if image_size is below 1.
    """
    if image_size < 1:
        raise ValueError(f"image_size={image_size}: give the side of the images in pixels, 1 or more.")
    if images.shape[-2:] == (image_size, image_size):
        return images
    size = (image_size, image_size)
    chunks = (
        F.interpolate(chunk.to(torch.float32), size, mode="bilinear", antialias=True)
        for chunk in images.split(RESIZE_CHUNK)
    )
    return torch.cat([chunk.round().clamp(0, 255).to(torch.uint8) for chunk in chunks])


def to_channels(images: UInt8[Tensor, "n c h w"], channels: int) -> UInt8[Tensor, "n k h w"]:
    """Grey (1) to RGB (3) by repeating; RGB to grey by ITU-R BT.601 luma, bit for bit as Pillow's convert("L").

    Raises ValueError unless both counts are 1 or 3.
    """
    given = images.shape[1]
    if channels not in (1, 3) or given not in (1, 3):
        raise ValueError(
            f"channels={channels} for images with {given}: both must be 1 (grey) or 3 (RGB). Leave channels out to keep "
            "the images as they are."
        )
    if channels == given:
        return images
    if channels == 3:
        return images.repeat(1, 3, 1, 1)
    red, green, blue = (weight * plane.to(torch.int32) for weight, plane in zip(LUMA, images.unbind(1), strict=True))
    return ((red + green + blue + 32768) >> 16).to(torch.uint8).unsqueeze(1)
