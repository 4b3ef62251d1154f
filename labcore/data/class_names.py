"""Names of classes: stored with a model from its data, compared with those of other data, and taken from a command line."""

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
    """A model's configuration, or images that keep the classes of the model that drew them."""

    num_classes: int
    class_names: Names | None


def with_names(config: AnyRun, classes: Names) -> AnyRun:
    """The run's configuration with the names of its data's classes in the model; ValueError where the model has others."""
    m = config.model
    if not m.num_classes or m.class_names == classes:
        return config
    if m.class_names is not None:
        raise ValueError(
            f"model.class_names are {_listed(m.class_names)}, and the data's classes are {_listed(classes)}; leave "
            "class_names out for another model, or give the data that the model is for"
        )
    return config.replace(model=m.replace(class_names=classes).model_dump())


def matched(config: HasClasses, images: Dataset) -> Dataset:
    """The images with labels in the order of the model's classes.

    The same names in another order are renumbered, and a warning says so. Names that are only numbers say nothing: classes
    are then taken in the order of the data, with a warning where the model's have other names. Raises ValueError where the
    model has another number of classes, or other names.
    """
    own, given = config.class_names, images.classes
    if config.num_classes not in (0, images.num_classes):
        raise ValueError(
            f"{images.name} has {images.num_classes} classes and the model {config.num_classes}; give the data it was "
            "trained on"
        )
    if not config.num_classes or own == given:
        return images
    if own is None:
        if _are_numbers(given) and list(given) != sorted(given):
            warnings.warn(
                f"the model does not name its classes, and those of {images.name} are numbers: {_listed(given)}. A model of a "
                "version that sorted them as text had another order",
                stacklevel=2,
            )
        return images
    if set(own) == set(given):
        warnings.warn(f"classes of {images.name} are in another order than the model's; taken by name", stacklevel=2)
        return renumbered(images, own)
    if _are_numbers(own) or _are_numbers(given):
        warnings.warn(
            f"the model's classes are {_listed(own)}, those of {images.name} {_listed(given)}; taken in this order",
            stacklevel=2,
        )
        return images
    raise ValueError(
        f"the model's classes are {_listed(own)}, those of {images.name} {_listed(given)}; give data with the model's classes"
    )


def class_numbers(words: str, config: TokensConfig) -> list[int]:
    """Class numbers of `--classes`: names of classes, or numbers from 0 where no class has that name; -1 is none.

    Raises ValueError for words that are neither, and for numbers that no class has.
    """
    names = config.class_names or ()
    if words in names:  # with a comma in it
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
