"""`lab cache`: thin over labcore.cache."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", help="A kind that `lab cache list` shows; may be repeated. Default all."),
]


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the group of commands."""
    group = typer.Typer(help="List and delete the entries of the lab's cache folder.", no_args_is_help=True)
    group.command("list")(plain_errors(list_))
    group.command("prune")(plain_errors(prune))
    app.add_typer(group, name="cache")


def list_() -> None:
    """Show the entries of each kind: number, size on disk, and time of last use."""
    import time

    from labcore import cache
    from labcore.files import cache_folder
    from labcore.plan.words import size

    typer.echo(f"cache folder {cache_folder()}")
    found = cache.entries()
    typer.echo(f"{'kind':10s}  {'entries':>7s}  {'size':>9s}  {'last use':10s}  holds")
    for kind, what in cache.KINDS.items():
        of_kind = [entry for entry in found if entry.kind == kind]
        if of_kind:
            used = time.strftime("%Y-%m-%d", time.localtime(max(entry.used for entry in of_kind)))
            live = sum(entry.live for entry in of_kind)
            note = f" ({live} in use now)" if live else ""
            typer.echo(f"{kind:10s}  {len(of_kind):7d}  {size(_sum(of_kind)):>9s}  {used:10s}  {what}{note}")
    typer.echo(f"{'all':10s}  {len(found):7d}  {size(_sum(found)):>9s}")
    if rest := cache.left_behind():
        typer.echo(
            f"killed processes left {len(rest)} half-written folders or files, {size(_sum(rest))}; delete them with  "
            "lab cache prune"
        )


def prune(
    older_than: Annotated[
        float | None,
        typer.Option(help="Delete entries that were last used more than this number of days ago.", min=0.0),
    ] = None,
    kind: Kinds = None,
    max_size: Annotated[
        str | None,
        typer.Option(help="Delete the least recently used entries until the rest has at most this size, as 20GB."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
) -> None:
    """Delete cached entries. The lab computes them again when they are needed, which takes time.

    --kind alone deletes all entries of that kind. Without options only the half-written files of killed processes are deleted.
    What a running process uses is never deleted.
    """
    from labcore import cache
    from labcore.plan.words import size

    cache.check_kinds(kind or [])
    limit = None if max_size is None else cache.parse_size(max_size)
    rest = cache.prune(cache.left_behind()).deleted
    if rest:
        typer.echo(f"deleted {len(rest)} half-written folders or files of killed processes, {size(_sum(rest))}")
    if older_than is None and kind is None and limit is None:
        typer.echo("no entries were chosen; choose some by --older-than DAYS, --kind KIND or --max-size SIZE")
        return
    found = cache.entries(kind or cache.KINDS)
    chosen = cache.choose(found, older_than, limit)
    if live := [entry for entry in found if entry.live]:
        typer.echo(f"{len(live)} entries are in use by running processes and stay, {size(_sum(live))}")
    if not chosen:
        typer.echo("no entries to delete")
        return
    for name in dict.fromkeys(entry.kind for entry in chosen):
        of_kind = [entry for entry in chosen if entry.kind == name]
        typer.echo(f"{name}: {len(of_kind)} entries, {size(_sum(of_kind))}")
    if not yes:
        typer.confirm(f"delete these {len(chosen)} entries, {size(_sum(chosen))}?", abort=True)
    done = cache.prune(chosen)
    if done.kept:
        typer.echo(f"{len(done.kept)} entries have been taken into use meanwhile and stay")
    if done.failed:
        typer.echo(f"{len(done.failed)} entries could not be deleted, the first is {done.failed[0].path}", err=True)
    typer.echo(f"freed {size(_sum(done.deleted))}")


def _sum(entries: list[Any]) -> int:
    """Return the bytes of all entries."""
    return sum(entry.size for entry in entries)
