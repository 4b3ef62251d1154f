"""Sites: the layers whose hidden features are read, as (block, layer) pairs. This module parses, checks and groups them.

`depths` is the number of layers of each block, block 1 first.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

Site = tuple[int, int]
"""(block, layer), both counted from 1 as in the papers: block 1 is next to the image, the last block next to z."""


def parse_sites(text: str) -> list[Site]:
    """Return the sites that the text of `--sites` names, as in "1.2,4.1"; ValueError for another form."""
    try:
        return [_as_site([int(number) for number in word.split(".")]) for word in text.split(",")]
    except ValueError:
        raise ValueError(f'--sites was {text!r}; write "all", or pairs block.layer like 1.2,4.1') from None


def check_inside(sites: Iterable[Any], depths: Sequence[int]) -> list[Site]:
    """Return the sites as pairs of ints, in the given order; there may be none.

    Raises ValueError for a site that is no pair of whole numbers, and for sites outside the model.
    """
    found = [_as_site(site) for site in sites]

    def is_inside(block: int, layer: int) -> bool:
        return 1 <= block <= len(depths) and 1 <= layer <= depths[block - 1]

    if outside := [site for site in found if not is_inside(*site)]:
        raise ValueError(
            f"sites {outside} are outside the model; give (block, layer) with blocks 1..{len(depths)} and layers "
            f"1..{max(depths)}, both counted from 1"
        )
    return found


def check_sites(sites: Iterable[Any], depths: Sequence[int]) -> list[Site]:
    """Return at least one site inside the model, as `check_inside`; ValueError also for none."""
    found = check_inside(sites, depths)
    if not found:
        raise ValueError("no sites were given; give (block, layer) pairs, both counted from 1")
    return found


def check_distinct(sites: Sequence[Site]) -> None:
    """Raise ValueError if a site is given more than once."""
    if repeated := sorted({site for site in sites if sites.count(site) > 1}):
        raise ValueError(f"sites {repeated} were given more than once; give each once")


def layers_by_block(sites: Iterable[Site]) -> dict[int, list[int]]:
    """Return {block: its layers among the sites, in rising order}, with blocks in the order of `sites`."""
    layers: dict[int, list[int]] = {}
    for block, layer in sites:
        layers.setdefault(block, []).append(layer)
    return {block: sorted(of_block) for block, of_block in layers.items()}


def _as_site(site: Any) -> Site:
    try:
        block, layer = site
        return operator.index(block), operator.index(layer)
    except (TypeError, ValueError):
        raise ValueError(
            f"{site!r} is no site; give (block, layer), two whole numbers counted from 1, as (2, 1)"
        ) from None
