"""The group of `lab`'s commands, with checks that apply to all of them."""

from __future__ import annotations

import re
from typing import Any

import typer.core

from labcore.terminal import show_any_character


class Commands(typer.core.TyperGroup):
    """The commands. Two errors are reported for all of them: an empty value, as from an unset variable in a script, and an
    option that is given twice, of which only the last one would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's, after the check."""
        show_any_character()
        for before, word in zip(["lab", *args], args, strict=False):
            if word == "" or re.fullmatch(r"--[\w-]+=", word):
                ctx.fail(f"{word.rstrip('=') or before} was given an empty value; give a value, or leave it out")
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer's, after the check."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and (twice := _given_twice(command, ctx, rest)):
            ctx.fail(f"{twice} was given more than once; give it once")
        return name, command, rest


def _given_twice(command: Any, ctx: Any, words: list[str]) -> str | None:
    """Return the name of an option with a value or an opposite that is given twice and may be given only once; else None."""
    parser = command.make_parser(ctx)
    parser.allow_interspersed_args = True  # the context is the group's, whose options come first
    try:
        _, _, order = parser.parse_args(list(words))
    except Exception:  # other errors in the words are reported when the command parses them
        return None
    options = [each for each in order if each.param_type_name == "option" and not (each.multiple or each.count)]
    valued = [each for each in options if not each.is_flag or each.secondary_opts]
    return next((each.opts[0] for i, each in enumerate(valued) if each in valued[:i]), None)
