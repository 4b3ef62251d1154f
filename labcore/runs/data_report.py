"""Sentences of `lab data`: a description of the pictures of a data set, and remedies for their problems."""

from __future__ import annotations

from collections.abc import Sequence

from labcore.config import DataConfig
from labcore.data.picture import WHITE
from labcore.data.report import SPLITS, DataReport, Place
from labcore.runs.opening import Rows, imbalance_of, split_rule

SHOWN = 5
"""Number of pictures that are named individually; our choice."""
MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I;16": "grey of 16 bits",
    "I;16B": "grey of 16 bits",
    "I": "grey of more than 8 bits",
    "P": "with a palette",
    "RGBA": "RGB with transparency",
}
"""Descriptions of pixel formats by Pillow's name, for names that are not understood without one."""
LONG = 2.0
"""Ratio of a picture's longer side to its shorter one, above which the report mentions it; our choice."""


def report_rows(report: DataReport, config: DataConfig) -> Rows:
    """Describe the pictures: names and sentences."""
    counts = report.counts
    rows = [
        ("data", report.data),
        ("images", ", ".join(f"{sum(counts[split]):,} for {split}ing" for split in SPLITS)),
    ]
    if uneven := imbalance_of(report.classes, counts["train"]):
        rows.append(("imbalance", f"{uneven}; train.sampling=balanced draws all classes equally often"))
    return [
        *rows,
        ("split", split_rule(config)),
        ("sizes", _sizes(report)),
        ("colours", _colours(report)),
        ("transparency", _transparency(report, config.background or WHITE)),
        ("duplicates", _duplicates(report)),
        ("unreadable", _unreadable(report)),
    ]


def class_lines(report: DataReport) -> list[str]:
    """Return a table of the number of pictures in each class, by split, as lines."""
    counts = report.counts
    rows = [("class", *SPLITS), *zip(report.classes, *(counts[split] for split in SPLITS), strict=True)]
    width = max(len(name) for name, *_ in rows)
    return [f"{name:{width}s}" + "".join(f"  {number:>9}" for number in numbers) for name, *numbers in rows]


def _sizes(report: DataReport) -> str:
    sizes = sorted(report.sizes, key=lambda size: size[0] * size[1])
    smallest, largest = (f"{w} x {h}" for w, h in (sizes[0], sizes[-1]))
    said = f"all {smallest} pixels" if len(sizes) == 1 else f"{smallest} to {largest} pixels, {len(sizes):,} different"
    if report.small:
        said += f"; smaller than {report.image_size} pixels, and enlarged: {report.small:,}"
    long, (w, h) = report.longest, report.longest.facts.size
    if max(w, h) > LONG * min(w, h):
        said += f"; of the longest, {long.place.called} with {w} x {h}, only the middle square is used"
    return said


def _colours(report: DataReport) -> str:
    said = ", ".join(f"{count:,} {MODES.get(mode, mode)}" for mode, count in report.modes.most_common())
    if 0 < report.grey < len(report.pictures):
        said += (
            f"; without colours: {report.grey:,} of {len(report.pictures):,}. The presets for colour pictures (pictures-...) "
            "read all of them as RGB; other trainings need --channels 1 or --channels 3"
        )
    return said


def _transparency(report: DataReport, background: str) -> str:
    if not report.transparent:
        return "no picture has transparent pixels"
    of = f"{report.transparent:,} of {len(report.pictures):,} pictures"
    return f"{of} with transparent pixels, which are laid on {background} (data.background)"


def _duplicates(report: DataReport) -> str:
    if not (groups := report.duplicates):
        return f"no two pictures are equal at {report.image_size} x {report.image_size} pixels"
    repeated = sum(len(group) - 1 for group in groups)
    said = f"equal to an earlier picture at {report.image_size} x {report.image_size} pixels: {repeated:,}, {_named(groups)}"
    in_test = sum(place.split == "test" for group in groups if _several(group, "split") for place in group)
    if in_test:
        said += f". Equal to a training image: {in_test:,} of the test images"
    if several := sum(_several(group, "label") for group in groups):
        said += f". In more than one class: {several:,} of these groups"
    return said


def _several(group: Sequence[Place], what: str) -> bool:
    """Whether the pictures of a group differ in their split or label."""
    return len({getattr(place, what) for place in group}) > 1


def _named(groups: Sequence[Sequence[Place]]) -> str:
    said = [" = ".join(f"{place.split} {place.called}" for place in group[:3]) for group in groups[:SHOWN]]
    return "; ".join(said) + (f"; and {len(groups) - SHOWN:,} more" if len(groups) > SHOWN else "")


def _unreadable(report: DataReport) -> str:
    if not report.unreadable:
        return "none"
    reasons = "; ".join(reason.rstrip(".") for _, reason in report.unreadable[:SHOWN])
    more = f"; and {len(report.unreadable) - SHOWN:,} more" if len(report.unreadable) > SHOWN else ""
    return f"{len(report.unreadable):,}, and training refuses such a folder: {reasons}{more}"
