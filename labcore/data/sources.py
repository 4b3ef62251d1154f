"""Words about the data sets that shipped models are trained on, for their cards: title, subject, classes, licence."""

from __future__ import annotations

from typing import NamedTuple

from labcore.data import emoji, fashion_mnist


class Source(NamedTuple):
    """A data set in words.

    Attributes:
        title: its name in a heading.
        subject: what its pictures show.
        classes: names of its classes, in the order of their numbers.
        licence: origin and licence.
        limits: limits of a model that was trained on it, as sentences; default none.
    """

    title: str
    subject: str
    classes: tuple[str, ...]
    licence: str
    limits: str = ""


_FASHION = Source(
    title="Fashion-MNIST",
    subject="clothes",
    classes=fashion_mnist.CLASSES,
    licence="Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747), MIT licence,\nCopyright 2017 Zalando SE.",
)
_EMOJI = Source(
    title="emoji of Noto",
    subject="emoji",
    classes=emoji.CLASSES,
    licence="the emoji of Google's Noto Color Emoji (<https://github.com/googlefonts/noto-emoji>), as packed in\n"
    "`labcore/data/emoji`. The pictures are under the Apache License 2.0.",
    limits="Its training set is small, so a sample may copy a training image. More than half of the set is of one class; "
    "the measured samples have each class as often as the training images.",
)
SOURCES = {"fashion-mnist-12k": _FASHION, "fashion-mnist": _FASHION, "emoji-32": _EMOJI, "emoji": _EMOJI}
"""Name of a data set (`labcore.data.datasets.NAMES`) -> words about it. A folder of pictures has none."""
