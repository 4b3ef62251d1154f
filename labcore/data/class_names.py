"""Names of classes: store them in a model, compare them with the classes of a data set, and read them from options."""

from __future__ import annotations

import warnings
from typing import Protocol, TypeVar, runtime_checkable

from labcore.config import BaseRunConfig, TokensConfig
from labcore.data.datasets import renumbered
from labcore.data.protocol import Dataset
from labcore.types import NULL

AnyRun = TypeVar("AnyRun", bound=BaseRunConfig)
Names = tuple[str, ...]


@runtime_checkable
class HasClasses(Protocol):
    """A model's configuration, or a set of drawn images: both have the classes of a model."""

    num_classes: int
    class_names: Names | None


def with_names(config: AnyRun, classes: Names) -> AnyRun:
    """Return the run's configuration with the data's class names in its model. Raises ValueError if the model has others."""
    m = config.model
    if not m.num_classes or m.class_names == classes:
        return config
    if m.class_names is not None:
        raise ValueError(
            f"model.class_names are {_listed(m.class_names)}, and the data's classes are {_listed(classes)}; leave "
            "class_names out, or give the data that they belong to"
        )
    return config.replace(model=m.replace(class_names=classes).model_dump())


def matched(config: HasClasses, images: Dataset) -> Dataset:
    """Return the data set with labels numbered as the model's classes.

    If the names are the same in another order, labels are renumbered, with a warning. Names that are only numbers cannot be
    compared: labels then stay as they are, with a warning if the model's names differ. Raises ValueError if the model has
    another number of classes, or other names.
    """
    own, given = config.class_names, images.classes
    if config.num_classes not in (0, images.num_classes):
        raise ValueError(
            f"{images.name} has {images.num_classes} classes and the model {config.num_classes}; give the data that the model "
            "was trained on"
        )
    if not config.num_classes or own == given:
        return images
    if own is None:
        if _are_numbers(given) and list(given) != sorted(given):
            warnings.warn(
                f"the model does not name its classes, and {images.name} has numbers as names: {_listed(given)}. Earlier "
                "versions sorted such names as text, so a model of those versions may have another order",
                stacklevel=2,
            )
        return images
    if set(own) == set(given):
        warnings.warn(f"classes of {images.name} are in another order than the model's; matched by name", stacklevel=2)
        return renumbered(images, own)
    if _are_numbers(own) or _are_numbers(given):
        warnings.warn(
            f"the model's classes are {_listed(own)}, and {images.name} has {_listed(given)}; matched in this order",
            stacklevel=2,
        )
        return images
    raise ValueError(
        f"the model's classes are {_listed(own)}, and {images.name} has {_listed(given)}; give data with the model's classes"
    )


def class_numbers(words: str, config: TokensConfig) -> list[int]:
    """Return the class numbers that the text of `--classes` gives: names, or numbers from 0; -1 is no class.

    words: names or numbers, separated by commas. A word is a number only if no class has that name. Raises ValueError for
    other words, and for numbers outside the model's classes.
    """
    names = config.class_names or ()
    if words in names:  # a name may contain a comma
        return [names.index(words)]
    numbers = [_number(word.strip(), words, names) for word in words.split(",")]
    if any(not NULL <= number < config.num_classes for number in numbers):
        allowed = f"0..{config.num_classes - 1}, and -1 for none" if config.num_classes else '"none"'
        raise ValueError(
            f"classes was {_shortened(words)!r}; the model has {config.num_classes}: allowed are {allowed}"
        )
    return numbers


def _number(word: str, words: str, names: Names) -> int:
    if word in names:
        return names.index(word)
    try:
        return int(word)
    except ValueError:
        known = f"; the names are {_listed(names)}" if names else ""
        raise ValueError(
            f'classes was {_shortened(words)!r}; write "each", "none", names of classes, or numbers like 3 or 0,5,9{known}'
        ) from None


def _shortened(words: str, most: int = 80) -> str:
    return words if len(words) <= most else f"{words[:most]}..."


def _are_numbers(names: Names) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)


def _listed(names: Names, most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
