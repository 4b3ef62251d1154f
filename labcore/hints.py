"""Words for messages that are made of other libraries' errors."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
