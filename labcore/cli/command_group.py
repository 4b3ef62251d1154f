"""The group of `lab`'s commands: what holds for all of them."""

from __future__ import annotations

import re
from typing import Any

import typer.core

from labcore.terminal import show_any_character


class Commands(typer.core.TyperGroup):
    """The commands; a value that is empty text, as of an unset variable in a script, is refused for all of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's, after the check."""
        show_any_character()
        for before, word in zip(["lab", *args], args, strict=False):
            if word == "" or re.fullmatch(r"--[\w-]+=", word):
                ctx.fail(f"{word.rstrip('=') or before} was given an empty value; give a value, or leave it out")
        return super().parse_args(ctx, args)
