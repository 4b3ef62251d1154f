"""A published run as one walk: what a preset trains, the flow that it needs first, its measures, and the paper's beside them.

Notebook 09 and `lab smoke` go through it, at full size or at the preset's smoke size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labcore.config import InversionRunConfig, RunConfig
from labcore.evaluate import fidelity
from labcore.evaluate.extractors import suffix_of
from labcore.evaluate.generate import Sampling
from labcore.evaluate.record import SIMPLE
from labcore.runs.background import show_line, train_streamed
from labcore.runs.configure import as_named, configure, configure_inversion
from labcore.runs.evaluation import Data
from labcore.runs.kinds import AnyRun
from labcore.runs.measuring import evaluate_streamed
from labcore.runs.presets import INVERSIONS, REPORTED, UNREPORTED, smoke, smoke_inversion
from labcore.runs.teachers import trained

DRAWN = ("fid", "sfid", "is")
"""Measures of drawn images in the papers' tables."""
FEW = ("precision", "recall")
"""What is measured in their place where there are too few images for a covariance."""


def prepare(
    preset: str,
    run_dir: str | Path,
    data_path: str | None = None,
    flow: str | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    small: bool = False,
    processes: int = 1,
    show: Callable[[str], None] = show_line,
) -> AnyRun:
    """The run that `preset` stands for, ready to be trained.

    data_path: the folder of pictures that presets of papers need. flow: what a learned inverse inverts (a run's folder, a
    saved model); None trains the flow that its preset names on `processes` devices, or finds it: in the cache folder, where
    all runs share it. settings: as "train.batch_size=128". small: the smoke size instead, of embedded pictures; a flow that it
    needs is trained in `run_dir`. Raises ValueError and FileNotFoundError as `configure`, before anything is trained.
    """
    inverse = preset in INVERSIONS
    named, _ = as_named(preset, [] if small else settings)
    if flow is not None and not inverse:
        raise ValueError(f"flow was {flow!r}; {preset} is a flow itself, so leave it out")
    if small:
        if not inverse:
            return smoke(named)
        before = smoke(as_named(_flow_of(preset)[0])[0])
        train_streamed(before, Path(run_dir) / "flow", processes, False, show)
        return smoke_inversion(named, str(Path(run_dir) / "flow"))
    seeded = [f"train.seed={seed}", *settings]
    if inverse:
        if flow is None:
            of, stopped = _flow_of(preset)
            before = configure(of, data=_needed(of, data_path), settings=[f"train.seed={seed}"])
            show(f"{preset} inverts {of}, which is trained first, or found")
            flow = str(trained(before, processes, show).joinpath(*stopped))
        return configure_inversion(flow, preset, data=data_path, settings=seeded)
    return configure(preset, data=_needed(preset, data_path), settings=seeded)


def _flow_of(preset: str) -> tuple[str, list[str]]:
    """The flow's preset that a learned inverse's names, and the way from its folder to a checkpoint of it, if not its end."""
    _, name, *stopped = Path(INVERSIONS[preset]["flow"]).parts
    return name, stopped


def _needed(preset: str, data_path: str | None) -> str | None:
    """ValueError where a preset of a folder of pictures was given none."""
    if data_path is None and as_named(preset)[0].data.name == "folder":
        raise ValueError(f"{preset} trains on a folder of pictures; give data_path, a folder of class folders")
    return data_path


class Measuring(NamedTuple):
    """What is measured of a trained run.

    samples: images drawn for each guidance. guidances: scales; a flow's grows along the tokens, as in the papers' evaluations.
    extractor: of their features. reference: statistics of `lab stats`, None for those of the training images. attn_temp: of
    an unconditional flow's second branch. limit: test images, None for all. processes: devices that share the work.
    """

    samples: int
    guidances: Sequence[float] = (0.0,)
    extractor: str = "inception"
    reference: str | Path | None = None
    attn_temp: float = 1.0
    limit: int | None = None
    processes: int = 1


def measured(
    config: AnyRun, model: Path, out: Path, how: Measuring, show: Callable[[str], None] = show_line
) -> dict[str, Any]:
    """Measures of a trained run, by name: of the test set, and of drawn images for each guidance.

    model: the run's folder. out: a folder for records, which are found again. The best guidance is that of the least FID.
    Raises as `evaluate_streamed`; ValueError for no guidance.
    """
    samples, guidances, extractor, reference, attn_temp, limit, processes = how
    if not guidances or len(set(guidances)) < len(guidances):
        raise ValueError(f"guidances were {list(guidances)}; give at least one, each once, as [0.0]")
    wanted, is_flow = image_metrics(extractor, samples), isinstance(config, RunConfig)
    simple = ["likelihood", *(["classify"] if config.model.num_classes else [])] if is_flow else []
    d, images, record = config.data, {}, {}
    for i, guidance in enumerate(guidances):
        sampling = Sampling(
            num=samples,
            guidance=guidance,
            guidance_schedule="linear" if is_flow else "constant",
            attn_temp=attn_temp,
            seed=config.train.seed,
        )
        data = Data(d.name, d.path, d.image_size, d.channels, d.crop)
        show(f"--- guidance {guidance:g}")
        metrics = [*(simple if i == 0 else []), *wanted]
        path = out / f"guidance-{guidance:g}.json"
        found = evaluate_streamed(model, data, metrics, sampling, path, reference, limit, processes, show)
        record = {**found, **record}
        measures = found[f"fidelity{suffix_of(extractor)}"]["measures"]
        images[f"{guidance:g}"] = {name: measures[name] for name in wanted}
    values = {g: {name: m["value"] for name, m in each.items()} for g, each in images.items()}
    rank = (lambda g: values[g][wanted[0]]) if wanted[0].startswith("fid") else (lambda g: -values[g][wanted[0]])
    best = min(values, key=rank)
    return {**_of_test_set(record), "images": images, "best": {"guidance": float(best), **values[best]}}


def image_metrics(extractor: str, samples: int) -> list[str]:
    """Names of the measures of so many drawn images: the papers', or where they are too few for those, others."""
    possible = [name for name in DRAWN if fidelity.enough(name, extractor, samples)]
    return [f"{name}{suffix_of(extractor)}" for name in (possible if "fid" in possible else FEW)]


def _of_test_set(record: dict[str, Any]) -> dict[str, float]:
    """nats_per_dim, bits_per_dim and accuracy of a record, those that are there."""
    likelihood, accuracy = record.get(SIMPLE["likelihood"], {}), record.get(SIMPLE["classify"], {})
    found = {name: likelihood.get(name) for name in ("nats_per_dim", "bits_per_dim")}
    found["accuracy"] = accuracy.get("accuracy")
    return {name: value for name, value in found.items() if value is not None}


def beside_paper(preset: str, config: AnyRun, found: dict[str, Any], how: Measuring) -> str:
    """A Markdown table of `measured` beside what the paper reports of `preset`, and in what the two differ."""
    paper, ours = REPORTED.get(preset, UNREPORTED), {**found, **found["best"]}
    theirs = paper.numbers()
    suffix = suffix_of(how.extractor)
    names = {"nats_per_dim": "nats/dim", "bits_per_dim": "bits/dim", "accuracy": "training-free accuracy"}
    names |= {f"{name}{suffix}": f"{name}{suffix}" for name in (*DRAWN, *FEW)} | {"guidance": "guidance"}
    lines = ["| | this run | the paper |", "|---|---|---|"]
    for name, title in names.items():
        if name in ours:
            reported = theirs.get(name)  # one of another extractor has another name
            lines.append(f"| {title} | {ours[name]:.4g} | {'-' if reported is None else f'{reported:.4g}'} |")
    told = f"The paper says: {paper}." if theirs else "No paper reports this preset as it stands."
    return "\n".join([*lines, "", told, *(f"- {each}" for each in differences(preset, config, how))])


def differences(preset: str, config: AnyRun, how: Measuring) -> list[str]:
    """Why a run's numbers and the paper's are not of the same thing, as sentences; none where nothing is known to differ."""
    paper, full = REPORTED.get(preset, UNREPORTED), as_named(preset)[0]
    if not paper.numbers():
        return []
    found = []
    if how.extractor != "inception":
        found.append(f"Features of {how.extractor} and not of Inception: another scale.")
    if paper.samples not in (None, how.samples):
        found.append(f"{how.samples:,} drawn images and not {paper.samples:,}: FID falls with their number.")
    if config.train.steps != full.train.steps:
        found.append(f"{config.train.steps:,} steps and not {full.train.steps:,}.")
    if config.train.batch_size != full.train.batch_size:
        found.append(f"Batches of {config.train.batch_size:,} and not {full.train.batch_size:,}.")
    if config.data.name != "folder":
        found.append(f"Pictures of {config.data.name} and not the paper's.")
    if config.model.width != full.model.width:
        found.append(f"A width of {config.model.width} and not {full.model.width}.")
    if isinstance(config, InversionRunConfig):
        found.append("Architecture details, optimizer and schedule are our choice, since the paper gives none.")
    return found
