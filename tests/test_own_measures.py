"""Measures of one's own pictures: as many as their number allows, in a table."""

import pytest

from labcore.experiments.own_pictures import MEANINGS, measures_for, side_by_side


def test_few_pictures_have_few_measures():
    assert measures_for(1000, 3000) == list(MEANINGS)
    assert measures_for(1000, 60) == ["power_pixels"]
    with pytest.raises(ValueError, match="samples was 99; give 100 or more"):
        measures_for(99, 3000)


def test_models_stand_side_by_side():
    one = dict(value=0.5, low=0.4, high=0.6, n=100, floor=None)
    found = {"flow": {"power_pixels": one}, "student": {"power_pixels": {**one, "value": -2.0, "floor": 0.1}}}
    head, _, row = side_by_side(found).splitlines()
    assert head == "| measure | flow | student | held-out images | what it says |"
    assert row.startswith("| `power_pixels` | 0.5 (0.4 to 0.6) | -2 (0.4 to 0.6) | too few | fine detail")
