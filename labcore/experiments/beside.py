"""Comparison of a run's numbers with its paper's, and a list of the known differences between the two."""

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
    "tarflow": "The averaged weights are measured; TARFlow's code does not average, and keeps the last weights.",
    "flowback": "Our choice, since FlowBack does not give these: an epoch of warm-up, and at 64 pixels noise of 0.05 and "
    "an encoder that sees the originals at 256.",
    "itarflow": "Our choice, since BiFlow does not give these: the flow's improvements, clamp, optimizer and schedule.",
    "biflow": "Our choice, since BiFlow does not give these: details of the architecture, optimizer, schedule, loss weights.",
}
"""First word of a preset's name -> differences from the paper that every run of this family may have."""


def beside_paper(preset: str, config: BaseRunConfig, found: dict[str, Any], how: RunEvaluation) -> str:
    """Write a Markdown table of the numbers of `evaluate_run` and the paper's numbers of `preset`, with their differences."""
    paper, ours = reported(preset, how), {**found, **found["best"]}
    theirs = paper.numbers()
    suffix = suffix_of(how.extractor)
    names = {"nats_per_dim": "nats/dim", "bits_per_dim": "bits/dim", "accuracy": "training-free accuracy"}
    names |= {f"{name}{suffix}": f"{name}{suffix}" for name in (*DRAWN, *FEW)} | {"guidance": "guidance"}
    lines = ["| | this run | the paper |", "|---|---|---|"]
    for name, title in names.items():
        if name in ours:
            theirs_of_it = theirs.get(name)  # numbers of another extractor have other names
            lines.append(f"| {title} | {ours[name]:.4g} | {'-' if theirs_of_it is None else f'{theirs_of_it:.4g}'} |")
    told = f"The paper says: {paper}." if theirs else "No paper reports a run with exactly these settings."
    return "\n".join([*lines, "", told, *(f"- {each}" for each in differences(preset, config, how))])


def reported(preset: str, how: RunEvaluation) -> Paper:
    """Return a paper's report on `preset`: of several, the one whose images were drawn most similarly to `how`."""
    papers = REPORTED.get(preset, ())
    return min(papers, key=lambda paper: len(drawn_otherwise(paper, how)), default=UNREPORTED)


def drawn_otherwise(paper: Paper, how: RunEvaluation) -> list[str]:
    """List the differences between our sampling of images and the paper's, if the paper states them, as sentences."""
    found, scales = [], ", ".join(f"{g:g}" for g in how.guidances)
    if paper.samples not in (None, how.samples):
        found.append(f"{how.samples:,} drawn images; the paper has {paper.samples:,}. FID is lower for more images.")
    if paper.guidance is None:
        if {"fid", "sfid", "is"} & paper.numbers().keys():
            found.append("How the paper's images were drawn (guidance, denoising) was not found.")
    elif paper.guidance == "chosen":
        if not any(how.guidances):
            found.append("No guidance; the paper's number is with guidance.")
    elif paper.guidance == 0:
        if any(how.guidances):
            found.append(f"The best of the guidances {scales}; the paper's number is without guidance.")
    elif paper.guidance is not None and paper.guidance not in how.guidances:
        found.append(f"Guidances {scales}; the paper uses {paper.guidance:g}.")
    if paper.attn_temp not in (None, how.attn_temp):
        found.append(f"attn_temp is {how.attn_temp:g}; the paper uses {paper.attn_temp:g}.")
    if paper.noise_std and (how.noise_std is None or not math.isclose(how.noise_std, paper.noise_std, abs_tol=1e-4)):
        denoised = "the flow's own noise_std" if how.noise_std is None else f"noise_std {how.noise_std:g}"
        found.append(f"Denoised with {denoised}; the paper uses {paper.noise_std:g}.")
    if "score" in (how.denoising, paper.denoising) and how.denoising != paper.denoising:
        by_score = how.denoising == "score"
        found.append(f"The flow's score denoises only {'these images' if by_score else 'the images of the paper'}.")
    return found


def _changed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return {section.key: (before, now)} of the settings in which two configurations differ."""
    old, new = _flat(before), _flat(now)
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Return {section.key: value}, followed by the values outside of sections."""
    sections = {name: section for name, section in config.items() if isinstance(section, dict)}
    flat = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    return flat | {name: value for name, value in config.items() if name not in sections}


def differences(preset: str, config: BaseRunConfig, how: RunEvaluation) -> list[str]:
    """List the reasons why a run's numbers and the paper's cannot be compared directly, as sentences; [] without a paper."""
    paper, full = reported(preset, how), as_named(preset)[0]
    if not paper.numbers():
        return []
    found = []
    if how.extractor != "inception":
        found.append(f"Features of {how.extractor}; the paper uses Inception, so the scales differ.")
    found += drawn_otherwise(paper, how)
    of = "the training images here" if how.reference is None else Path(how.reference).name
    found.append(f"The reference statistics are those of {of}; papers seldom say which images theirs are from.")
    if config.data.name != "folder":
        found.append(f"Pictures of {config.data.name}, not the paper's.")
    if how.limit is not None:
        found.append(f"Likelihood and accuracy are of {how.limit:,} test images, not of all.")
    left = {f"train.{name}" for name in (*TrainConfig.OPERATIONAL, "seed", "accumulation")}
    left |= {f"data.{name}" for name in ("name", "path", "image_size", "channels")} | {"flow"}
    for name, (before, now) in _changed(full.model_dump(mode="json"), config.model_dump(mode="json")).items():
        if name not in left:
            found.append(f"{name} is {now}; the preset has {before}.")
    found.append(CHOSEN[preset.partition("-")[0]])
    return found
