"""Splits of a data set: their usual names, such as Train and Test or seg_train and seg_test, and a rule for other data.

The rule takes a share of the files of each class for testing, evenly spread over the sorted list of files, or over a list that
a random seed shuffles. Rule and default are our choice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}
ADDED = "set|data|images|imgs|split|folder|seg"
NAME = re.compile(rf"(?:(?:{ADDED})[ _.-]?)?({'|'.join(WORDS)})(?:[ _.-]?(?:{ADDED}))?")


def split_of(name: str) -> str | None:
    """Return "train", "test" or "val" for a usual name of that split, in any case; None for any other name."""
    found = NAME.fullmatch(name.lower())
    return WORDS[found[1]] if found else None


class SplitRule(NamedTuple):
    """Rule that chooses the test images of each class in a folder without splits of its own.

    test_share: share of the files of each class that are test images, above 0 and below 1. 0.1 takes every 10th file.
    seed: random seed that shuffles the files of each class first; None (default): sorted order. A file's place depends on the
    seed and its path in the folder, so that new files hardly move the others.
    """

    test_share: float = 0.1
    seed: int | None = None

    def test_files(self, files: Sequence[str]) -> list[str]:
        """Return the test images among the files of one class, in sorted order. files: paths relative to the folder."""
        share = Fraction(repr(self.test_share))
        ordered = sorted(files) if self.seed is None else sorted(files, key=self._place)
        return sorted(f for i, f in enumerate(ordered) if int((i + 1) * share) > int(i * share))

    def _place(self, file: str) -> str:
        return hashlib.sha256(f"{self.seed} {file}".encode(errors="surrogateescape")).hexdigest()

    def __str__(self) -> str:
        ordinal = Fraction(repr(self.test_share))
        if ordinal.numerator == 1:
            count = f"1 of {ordinal.denominator} files"
        else:
            count = f"{self.test_share:.3g} of the files"
        order = "evenly spread in sorted order" if self.seed is None else f"drawn with split_seed {self.seed}"
        return f"{count} of each class, {order}, are for testing"


def chosen_rule(test_share: float | None, split_seed: int | None) -> SplitRule | None:
    """Return the rule that data.test_share and data.split_seed set; None if neither is given.

    Raises ValueError for a share that is not between 0 and 1.
    """
    if test_share is not None and not 0 < test_share < 1:
        raise ValueError(f"test_share={test_share}: give a share of the files above 0 and below 1, such as 0.2")
    if test_share is None and split_seed is None:
        return None
    return SplitRule(SplitRule().test_share if test_share is None else test_share, split_seed)
