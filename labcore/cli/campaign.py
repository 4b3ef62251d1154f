"""`lab run`, `lab runs`, `lab presets` and `lab smoke`: thin over labcore.campaigns, cli.listing and labcore.presets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Root = Annotated[
    Path | None, typer.Option(help="Folder of the runs' folders. Default: papermill_runs/executed next to the specs.")
]


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the commands."""
    app.command("run")(plain_errors(run))
    app.command("runs")(plain_errors(runs))
    app.command("presets")(plain_errors(presets))
    app.command("smoke")(plain_errors(smoke))


def run(
    spec: Annotated[str, typer.Argument(help="A run spec: a name in papermill_runs/specs, or a .yaml file.")],
    smoke: Annotated[bool, typer.Option("--smoke", help="Run at the smoke size, in a separate folder.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="Run only this row; may be repeated.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of all runs, as in data_path=FOLDER or processes=4.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time. Default: one per GPU, or one.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs with what would be done, and start none.")
    ] = False,
    root: Root = None,
    cluster: Annotated[
        str | None, typer.Option(help="Run as cluster jobs: slurm, or local to try it on this machine.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="File with the resources of a job. Default: papermill_runs/profiles/CLUSTER.yaml."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the jobs of --cluster and do not wait.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Add finished runs to papermill_runs/results.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also run published rows and seeds; --publish then replaces their records.")
    ] = False,
) -> None:
    """Run a notebook with every row and seed of a spec. The same command again skips finished runs and resumes the others.

    Runs whose records are in papermill_runs/results, with the same parameters and code, count as finished.
    """
    from labcore.campaigns.results import published_records
    from labcore.campaigns.runner import run_spec
    from labcore.campaigns.spec import FOLDER, load_spec, resolve

    _check_options(smoke, publish, cluster, profile, detach, jobs)
    loaded = load_spec(spec)
    chosen = resolve(loaded, smoke, only or (), _parameters(set_ or ()))
    root = (root or loaded.project / FOLDER / "executed").resolve()
    published = {} if again else published_records(loaded, chosen)
    if dry_run:
        _show_plan(loaded, chosen, root, published)
        return

    if published:
        typer.echo(f"{len(published)} of {len(chosen)} runs are published in {loaded.results}; --again runs them here")
    open_runs = [one for one in chosen if one.id not in published]
    if not open_runs:
        status = 0
    elif cluster is None:
        status = run_spec(open_runs, root, jobs)
    else:
        status = _on_cluster(loaded, open_runs, root, cluster, profile, detach)
    _report(loaded, chosen, root, again)
    if publish:
        _publish(loaded, chosen, root, status, again)
    if status:
        raise typer.Exit(status)


def _check_options(
    smoke: bool, publish: bool, cluster: str | None, profile: Path | None, detach: bool, jobs: int | None
) -> None:
    """Raises ValueError for options that exclude each other."""
    if publish and smoke:
        raise ValueError("numbers of smoke runs are not results; leave out --smoke or --publish")
    if cluster is None and (profile is not None or detach):
        raise ValueError("--profile and --detach are for jobs of a cluster; give --cluster slurm too")
    if cluster is not None and jobs is not None:
        raise ValueError("--jobs is for runs on this machine; a profile's `parallel` limits the jobs at a time")
    if detach and publish:
        raise ValueError("--detach returns before there are results; give the same line with --publish later")


def _show_plan(spec: Any, chosen: list, root: Path, published: dict) -> None:
    """Show what `lab run` would do with each run."""
    typer.echo(f"{spec.name}: {spec.about}\nexpected cost: {spec.expected.cost}")
    for one in chosen:
        action = "skip" if one.id in published else _action(one, root)
        note = "  (published)" if one.id in published else ""
        typer.echo(f"{one.id}  {action:7s}  {one.name}  {_settings(one.changed)}{note}")


def _publish(spec: Any, chosen: list, root: Path, status: int, again: bool) -> None:
    """Publish the finished runs; say what was added, what was replaced, and what is missing."""
    from labcore.campaigns.execute import STOPPED
    from labcore.campaigns.publishing import publish

    if status == STOPPED:
        typer.echo("stopped by a signal: nothing is published; give the same line again")
        return
    try:
        outcome = publish(spec, chosen, root, again)
    except ValueError as error:
        if not status:
            raise
        typer.echo(f"nothing is published: {error}")
        return
    typer.echo(f"published in {outcome.folder}: {len(outcome.added)} new records, {len(outcome.replaced)} replaced")
    for one in outcome.replaced:
        typer.echo(f"replaced: {one}")
    for reason in outcome.waiting:
        typer.echo(f"not published: {reason}")
    if outcome.missing:
        typer.echo(f"not finished, so without a record: {', '.join(outcome.missing)}; give the same line again")


def runs(
    spec: Annotated[str | None, typer.Argument(help="Name of a spec; default: all specs that have runs.")] = None,
    status: Annotated[
        str | None,
        typer.Option(help="List only runs that are new, queued, running, done, failed, stopped, killed or published."),
    ] = None,
    where: Annotated[list[str] | None, typer.Option("--where", help="List only runs with parameter=value.")] = None,
    compare: Annotated[
        list[str] | None, typer.Option("--compare", help="Show this number of result.json, given as a dotted path.")
    ] = None,
    root: Root = None,
) -> None:
    """List runs: id, spec, row, seed, status, seconds, and chosen numbers.

    "published" are runs that have a record in papermill_runs/results and are not finished here.
    """
    from labcore.cli.listing import list_runs

    for line in list_runs(spec, status, where or (), compare or (), root):
        typer.echo(line)


def presets(
    name: Annotated[str | None, typer.Argument(help="Name of a preset, to show it in full.")] = None,
) -> None:
    """List the presets with their cost and expected numbers, or show one preset in full."""
    import yaml

    from labcore.presets import ALL, about
    from labcore.runs.configure import preset_sections

    if name is None:
        for each in ALL:
            _, cost, expected = about(each)
            typer.echo(f"{each}\n    cost: {cost}\n    expected: {expected}")
        return
    sections = preset_sections(name)
    command, cost, expected = about(name)
    typer.echo(f"# {command}\n# cost: {cost}\n# expected: {expected}")
    plain = {name: _plain(section) for name, section in sections.items()}
    typer.echo(yaml.safe_dump(plain, sort_keys=False).rstrip())


def _plain(section: Any) -> Any:
    """Convert a section of a preset to YAML's types: sites become lists."""
    if not isinstance(section, dict) or "sites" not in section:
        return section
    return {key: [list(site) for site in value] if key == "sites" else value for key, value in section.items()}


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    """Read all NAME=VALUE, by name. Raises ValueError for a name that is given twice."""
    chosen: dict[str, Any] = {}
    for text in texts:
        name, value = _parameter(text)
        if name in chosen:
            raise ValueError(f"--set gives {name} twice, as {chosen[name]!r} and {value!r}; give it once")
        chosen[name] = value
    return chosen


def _parameter(text: str) -> tuple[str, Any]:
    """Split NAME=VALUE, with the value read as YAML. Raises ValueError for anything else."""
    from labcore.yamlfile import parse_value

    name, equals, value = text.partition("=")
    write = "write NAME=VALUE, as in data_path=FOLDER, processes=4 or guidances=[1.0, 2.0]"
    if not equals or not name.strip():
        raise ValueError(f"--set was {text!r}; {write}")
    try:
        parsed = parse_value(value)
    except ValueError as error:
        raise ValueError(f"--set was {text[:60]!r}, and its value is not YAML ({error}); {write}") from None
    return name.strip(), parsed


def _on_cluster(spec: Any, chosen: list, root: Path, cluster: str, profile: Path | None, detach: bool) -> int:
    """Queue the runs that are not finished, and follow them to their end unless detached; return the exit status."""
    from labcore.campaigns import slurm

    jobs = slurm.submit(spec, chosen, root, cluster, slurm.load_profile(spec, cluster, profile))
    for name, job in jobs.items():
        typer.echo(f"{name}: job {job}")
    typer.echo(f"{len(jobs)} of {len(chosen)} runs queued; all others are done, queued or running already")
    return 0 if detach else slurm.follow(chosen, root)


def _action(one: Any, root: Path) -> str:
    """Return the action of `lab run` for a run that is not published: start, resume, skip or wait."""
    from labcore.campaigns import state

    try:
        found = state.read(one.folder(root))
    except ValueError:
        return "resume"
    if found is None or found.status == "new":
        return "start"
    if found.done:
        return "skip"
    return "wait" if state.status_of(found) == "running" else "resume"


def _report(spec: Any, chosen: list, root: Path, again: bool) -> None:
    """Show the table of all finished runs, and the numbers outside of the spec's expected range."""
    from labcore.campaigns.results import finished_records
    from labcore.campaigns.tables import metric, tables

    records = list(finished_records(spec, chosen, root, again).values())
    if records and spec.table.columns:
        typer.echo("\n" + tables(records, spec.table, list(spec.row_parameters()))["table.md"].rstrip())
    if any(one.smoke for one in chosen):
        return
    for path, expected in spec.expected.numbers.items():
        low, high = expected if isinstance(expected, list) else (expected, expected)
        for one in records:
            value = metric(one["metrics"], path)
            if value is None or not low <= value <= high:
                typer.echo(f"note: {one['row']}-seed{one['seed']}: {path} is {value}, expected {low:g} to {high:g}")


def _settings(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value!r}" for name, value in values.items())


def smoke(
    preset: Annotated[str, typer.Argument(help="A preset; `lab presets` lists them.")],
    out: Annotated[Path, typer.Option(help="A new folder for the results.")],
) -> None:
    """Run a preset at its smoke size, from training to measurement, in about a minute. Checks that every stage runs."""
    from labcore.experiments.smoke import run_smoke

    run_smoke(preset, out, typer.echo)
    typer.echo(f"every stage of {preset} ran; {out} has the results and can be deleted")
