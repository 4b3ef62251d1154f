"""Splits of a data set by the names that people give them: Train and Test, training and testing, seg_train and seg_test."""

from __future__ import annotations

import re

WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}
ADDED = "set|data|images|imgs|split|folder|seg"
NAME = re.compile(rf"(?:(?:{ADDED})[ _.-]?)?({'|'.join(WORDS)})(?:[ _.-]?(?:{ADDED}))?")


def split_of(name: str) -> str | None:
    """ "train", "test" or "val" for a name of such a split, in small or capital letters; None for any other name."""
    found = NAME.fullmatch(name.lower())
    return WORDS[found[1]] if found else None
