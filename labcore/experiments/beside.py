"""A run's numbers beside its paper's, and in what the two are known to differ."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from labcore.config import BaseRunConfig, TrainConfig
from labcore.evaluate.extractors import suffix_of
from labcore.presets import REPORTED, UNREPORTED, Paper
from labcore.runs.configure import as_named
from labcore.runs.evaluate import DRAWN, FEW, RunEvaluation

CHOSEN = {
    "tarflow": "The averaged weights are measured, which TARFlow does not have; its code keeps the last ones.",
    "flowback": "Our choice, where FlowBack says nothing: an epoch of warm-up, and at 64 pixels noise of 0.05 and "
    "an encoder that sees the originals at 256.",
    "itarflow": "Our choice, since BiFlow says nothing: what is improved in the flow, its clamp, optimizer and schedule.",
    "biflow": "Our choice, since BiFlow says nothing: architecture in detail, optimizer, schedule and weights of the loss.",
}
"""In what every run of a family may differ from the paper's, by the first word of its presets."""


def beside_paper(preset: str, config: BaseRunConfig, found: dict[str, Any], how: RunEvaluation) -> str:
    """A Markdown table of `evaluate_run` beside what the paper reports of `preset`, and in what the two differ."""
    paper, ours = reported(preset, how), {**found, **found["best"]}
    theirs = paper.numbers()
    suffix = suffix_of(how.extractor)
    names = {"nats_per_dim": "nats/dim", "bits_per_dim": "bits/dim", "accuracy": "training-free accuracy"}
    names |= {f"{name}{suffix}": f"{name}{suffix}" for name in (*DRAWN, *FEW)} | {"guidance": "guidance"}
    lines = ["| | this run | the paper |", "|---|---|---|"]
    for name, title in names.items():
        if name in ours:
            theirs_of_it = theirs.get(name)  # one of another extractor has another name
            lines.append(f"| {title} | {ours[name]:.4g} | {'-' if theirs_of_it is None else f'{theirs_of_it:.4g}'} |")
    told = f"The paper says: {paper}." if theirs else "No paper reports this preset as it stands."
    return "\n".join([*lines, "", told, *(f"- {each}" for each in differences(preset, config, how))])


def reported(preset: str, how: RunEvaluation) -> Paper:
    """What a paper reports of `preset` drawn as `how` says: of several entries, the first with the fewest differences."""
    papers = REPORTED.get(preset, ())
    return min(papers, key=lambda paper: len(drawn_otherwise(paper, how)), default=UNREPORTED)


def drawn_otherwise(paper: Paper, how: RunEvaluation) -> list[str]:
    """In what the drawing of images differs from the paper's, where the paper says it, as sentences."""
    found, scales = [], ", ".join(f"{g:g}" for g in how.guidances)
    if paper.samples not in (None, how.samples):
        found.append(f"{how.samples:,} drawn images and not {paper.samples:,}: FID falls with their number.")
    if paper.guidance is None:
        if {"fid", "sfid", "is"} & paper.numbers().keys():
            found.append("How the paper's images were drawn (guidance, denoising) was not found.")
    elif paper.guidance == "chosen":
        if not any(how.guidances):
            found.append("No guidance, and the paper's number has some.")
    elif paper.guidance == 0:
        if any(how.guidances):
            found.append(f"The best of the guidances {scales}, and the paper's number has none.")
    elif paper.guidance is not None and paper.guidance not in how.guidances:
        found.append(f"Guidances {scales} and not {paper.guidance:g}.")
    if paper.attn_temp not in (None, how.attn_temp):
        found.append(f"attn_temp is {how.attn_temp:g} and not {paper.attn_temp:g}.")
    if paper.noise_std and (how.noise_std is None or not math.isclose(how.noise_std, paper.noise_std, abs_tol=1e-4)):
        denoised = "the flow's own noise_std" if how.noise_std is None else f"noise_std {how.noise_std:g}"
        found.append(f"Denoised with {denoised} and not {paper.noise_std:g}.")
    if "score" in (how.denoising, paper.denoising) and how.denoising != paper.denoising:
        by_score = how.denoising == "score"
        found.append(f"The flow's score denoises {'these images' if by_score else 'the images of the paper'} only.")
    return found


def _changed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """section.key -> (before, now) of two configurations where they differ."""
    old, new = _flat(before), _flat(now)
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """section.key -> value, and the values that are in no section after them."""
    sections = {name: section for name, section in config.items() if isinstance(section, dict)}
    flat = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    return flat | {name: value for name, value in config.items() if name not in sections}


def differences(preset: str, config: BaseRunConfig, how: RunEvaluation) -> list[str]:
    """Why a run's numbers and the paper's are not of the same thing, as sentences; none where no paper reports it."""
    paper, full = reported(preset, how), as_named(preset)[0]
    if not paper.numbers():
        return []
    found = []
    if how.extractor != "inception":
        found.append(f"Features of {how.extractor} and not of Inception: another scale.")
    found += drawn_otherwise(paper, how)
    of = "the training images here" if how.reference is None else Path(how.reference).name
    found.append(f"Compared with statistics of {of}; papers seldom say of which images theirs are.")
    if config.data.name != "folder":
        found.append(f"Pictures of {config.data.name} and not the paper's.")
    if how.limit is not None:
        found.append(f"Likelihood and accuracy of {how.limit:,} test images and not of all.")
    left = {f"train.{name}" for name in (*TrainConfig.OPERATIONAL, "seed", "accumulation")}
    left |= {f"data.{name}" for name in ("name", "path", "image_size", "channels")} | {"flow"}
    for name, (before, now) in _changed(full.model_dump(mode="json"), config.model_dump(mode="json")).items():
        if name not in left:
            found.append(f"{name} is {now} and not the preset's {before}.")
    found.append(CHOSEN[preset.partition("-")[0]])
    return found
