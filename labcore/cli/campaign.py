"""`lab run`, `lab runs`, `lab presets` and `lab smoke`: thin over labcore.campaigns and labcore.presets."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Root = Annotated[
    Path | None, typer.Option(help="Where runs' folders go. Default: papermill_runs/executed beside the spec's folder.")
]


def add_to(app: typer.Typer, plain_errors: Any) -> None:
    """Register the commands."""
    app.command("run")(plain_errors(run))
    app.command("runs")(plain_errors(runs))
    app.command("presets")(plain_errors(presets))
    app.command("smoke")(plain_errors(smoke))


def run(
    spec: Annotated[str, typer.Argument(help="A run spec: a name in papermill_runs/specs, or a .yaml file.")],
    smoke: Annotated[bool, typer.Option("--smoke", help="At its smoke size, in a folder of its own.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="This row only; may be given again.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of all runs, as in data_path=FOLDER or processes=4.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time. Default: one a GPU, or one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    root: Root = None,
    cluster: Annotated[
        str | None, typer.Option(help="Run as jobs of a cluster: slurm, or local to try it here.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="What jobs ask for. Default: papermill_runs/profiles/CLUSTER.yaml.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the jobs of --cluster and do not wait.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Add finished runs to papermill_runs/results.")] = False,
) -> None:
    """Run a notebook as its spec says, every row and seed. The same line again skips what is done and resumes the rest."""
    from labcore.campaigns.runner import run_spec
    from labcore.campaigns.spec import load_spec, resolve

    loaded = load_spec(spec)
    chosen = resolve(loaded, smoke, only or (), dict(_parameter(text) for text in set_ or ()))
    root = (root or loaded.project / "papermill_runs" / "executed").resolve()
    if publish and smoke:
        raise ValueError("numbers of smoke runs are not results; leave out --smoke or --publish")
    if cluster is None and (profile is not None or detach):
        raise ValueError("--profile and --detach are for jobs of a cluster; give --cluster slurm too")
    if cluster is not None and jobs is not None:
        raise ValueError("--jobs is for runs on this machine; a profile's `parallel` says how many jobs run at a time")
    if detach and publish:
        raise ValueError("--detach returns before there are results; give the same line with --publish later")
    if dry_run:
        typer.echo(f"{loaded.name}: {loaded.about}\nexpected cost: {loaded.expected.cost}")
        for one in chosen:
            typer.echo(f"{one.id}  {_plan(one, root):7s}  {one.name}  {_settings(one.changed)}")
        return
    status = (
        run_spec(chosen, root, jobs) if cluster is None else _on_cluster(loaded, chosen, root, cluster, profile, detach)
    )
    _report(loaded, chosen, root, smoke)
    if publish and status == 0:
        from labcore.campaigns.results import publish as write

        typer.echo(f"published in {write(loaded, chosen, root)}")
    if status:
        raise typer.Exit(status)


def runs(
    spec: Annotated[str | None, typer.Argument(help="A spec's name; default: all that have run.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only new, queued, running, done, failed, stopped or killed ones.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option("--where", help="Only with parameter=value.")] = None,
    compare: Annotated[
        list[str] | None, typer.Option("--compare", help="Show this number of result.json, a dotted path.")
    ] = None,
    root: Root = None,
) -> None:
    """List runs: id, spec, row, seed, status, seconds, and chosen numbers."""
    from labcore.campaigns import state
    from labcore.campaigns.results import metric
    from labcore.campaigns.slurm import has_job, queued
    from labcore.campaigns.spec import load_spec

    if status is not None and status not in (known := (*state.STATUSES, "queued")):
        raise ValueError(f"status was {status!r}; it is one of {', '.join(known)}")
    wanted = [_condition(text) for text in where or ()]
    columns = {path: path for path in compare or ()}
    if root is None:
        root = (load_spec(spec).project if spec else _project()) / "papermill_runs" / "executed"
    if spec and not columns and Path(spec).suffix == "" and (root / spec).is_dir():
        columns = _columns(spec)
    name = Path(spec).stem if spec else None
    lines = [["id", "spec", "row", "seed", "status", "seconds", *columns]]
    damaged: list[Path] = []
    listed = state.states(root, [name, f"{name}-smoke"] if name else None, damaged)
    _check_filters(listed, [key for key, _ in wanted], compare or (), root)
    queue: set[str] = set()
    with contextlib.suppress(OSError):  # a cluster that does not answer is no reason to list nothing
        queue = queued(found.folder for found in listed)
    for found in listed:
        values, now = found.values, state.status_of(found)
        now = "queued" if now in ("new", "stopped", "killed") and has_job(found.folder, queue) else now
        if status not in (None, now) or not all(_matches(values, key, text) for key, text in wanted):
            continue
        result = _result(found.folder) if now == "done" else {}
        numbers = [metric(result, path) for path in columns.values()]
        lines.append(
            [
                *(str(values[key]) for key in ("id",)),
                found.folder.parent.name,
                *(str(values[key]) for key in ("row", "seed")),
                now,
                f"{found.seconds:.1f}",
                *("-" if number is None else f"{number:.6g}" for number in numbers),
            ]
        )
    lines += [["?", at.parent.name, at.name, "?", "damaged", "?", *("-" for _ in columns)] for at in damaged]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())


def presets(
    name: Annotated[str | None, typer.Argument(help="One preset, in full.")] = None,
) -> None:
    """List named runs with their cost and the numbers to expect; one of them in full."""
    import yaml

    from labcore.presets import INVERSIONS, PRESETS, about
    from labcore.runs.configure import preset_sections

    if name is None:
        for each in (*PRESETS, *INVERSIONS):
            _, cost, expected = about(each)
            typer.echo(f"{each}\n    cost: {cost}\n    expected: {expected}")
        return
    sections = preset_sections(name)
    command, cost, expected = about(name)
    typer.echo(f"# {command}\n# cost: {cost}\n# expected: {expected}")
    plain = {
        key: {k: [list(v) for v in value] if k == "sites" else value for k, value in part.items()}
        if isinstance(part, dict)
        else part
        for key, part in sections.items()
    }
    typer.echo(yaml.safe_dump(plain, sort_keys=False).rstrip())


def _parameter(text: str) -> tuple[str, Any]:
    """Name and value of a NAME=VALUE, the value as YAML has it; ValueError for anything else."""
    from labcore.yamlfile import parse_yaml

    name, equals, value = text.partition("=")
    write = "write NAME=VALUE, as in data_path=FOLDER, processes=4 or guidances=[1.0, 2.0]"
    if not equals or not name.strip():
        raise ValueError(f"--set was {text!r}; {write}")
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise ValueError(f"--set was {text[:60]!r}, whose value is no YAML ({error}); {write}") from None
    return name.strip(), parsed


def _on_cluster(spec: Any, chosen: list, root: Path, cluster: str, profile: Path | None, detach: bool) -> int:
    """Queue what is to do, and follow it to its end unless detached; the exit status."""
    from labcore.campaigns import slurm

    jobs = slurm.submit(spec, chosen, root, cluster, slurm.load_profile(spec, cluster, profile))
    for name, job in jobs.items():
        typer.echo(f"{name}: job {job}")
    typer.echo(f"{len(jobs)} of {len(chosen)} runs queued; the others are done, queued or running already")
    return 0 if detach else slurm.follow(chosen, root)


def _plan(one: Any, root: Path) -> str:
    """What `lab run` would do with a run."""
    from labcore.campaigns import state

    try:
        found = state.read(one.folder(root))
    except ValueError:
        return "resume"
    if found is None or found.status == "new":
        return "start"
    now = state.status_of(found)
    return {"done": "skip", "running": "wait"}.get(now, "resume")


def _report(spec: Any, chosen: list, root: Path, smoke: bool) -> None:
    """The table of what is done so far, and numbers outside what the spec expects."""
    from labcore.campaigns.results import collect, metric, tables

    records = collect(chosen, root)
    if records and spec.table.columns:
        typer.echo("\n" + tables(records, spec.table, list(spec.row_parameters()))["table.md"].rstrip())
    for path, expected in spec.expected.numbers.items() if not smoke else ():
        low, high = expected if isinstance(expected, list) else (expected, expected)
        for one in records:
            value = metric(one["metrics"], path)
            if value is None or not low <= value <= high:
                typer.echo(f"note: {one['row']}-seed{one['seed']}: {path} is {value}, expected {low:g} to {high:g}")


def _check_filters(listed: list, keys: list[str], paths: Sequence[str], root: Path) -> None:
    """ValueError for what no run has: it would look like an empty result."""
    from labcore.campaigns.results import metric
    from labcore.hints import nearest

    if not listed:
        raise ValueError(f"there are no such runs in {root}; `lab run SPEC` makes them")
    known = {"id", "row", "seed"}.union(*(found.values["parameters"] for found in listed))
    for key in keys:
        if key not in known:
            raise ValueError(f"--where names {key!r}{nearest(key, dict.fromkeys(known))}, which no run here has")
    done = [_result(found.folder) for found in listed if found.done]
    for path in paths:
        if done and all(metric(result, path) is None for result in done):
            raise ValueError(f"--compare names {path!r}, and no result.json here has a number there")


def _columns(spec: str) -> dict[str, str]:
    """The columns of a spec's table."""
    from labcore.campaigns.spec import load_spec

    return load_spec(spec).table.columns


def _settings(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value!r}" for name, value in values.items())


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--where was {text!r}; write a parameter and its value, like width=64")
    return key, value


def _matches(values: dict[str, Any], key: str, text: str) -> bool:
    """Whether a run's parameter, row or seed is what the text says."""
    from labcore.yamlfile import parse_yaml

    given = values.get(key) if key in ("row", "seed", "id") else values["parameters"].get(key)
    with contextlib.suppress(ValueError):  # 1e-3 is 0.001 here, though a text in YAML
        if isinstance(given, int | float) and not isinstance(given, bool):
            return given == float(text)
    with contextlib.suppress(ValueError):
        return given == parse_yaml(text) or str(given) == text
    return str(given) == text


def _result(folder: Path) -> dict[str, Any]:
    from labcore.campaigns.execute import read_result
    from labcore.campaigns.state import RESULT

    try:
        return read_result(folder / RESULT)
    except ValueError:
        return {}


def _project() -> Path:
    """The folder with papermill_runs/: here, above, or labcore's checkout."""
    places = [Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[2]]
    return next((place for place in places if (place / "papermill_runs").is_dir()), Path.cwd())


def smoke(
    preset: Annotated[str, typer.Argument(help="A preset; `lab presets` lists them.")],
    out: Annotated[Path, typer.Option(help="A new folder for what is made.")],
) -> None:
    """Walk through a preset at its smoke size, from training to measures, in about a minute: does all of it go here?"""
    from labcore.experiments.smoke import run_smoke

    run_smoke(preset, out, typer.echo)
    typer.echo(f"all of {preset} goes; {out} holds what was made, and can be thrown away")
