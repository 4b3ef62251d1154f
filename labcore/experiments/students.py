"""The arms of an experiment on learned inverses: which student is trained, and its ways from noise to images."""

from __future__ import annotations

import re
from collections.abc import Sequence

from labcore.biflow.model import BackwardModel
from labcore.config import StudentRunConfig
from labcore.experiments.ways import Way, exact, learned
from labcore.flows.tarflow import TarFlow
from labcore.presets import PRESETS
from labcore.presets.biflow import MINUTES, SMALL_ARMS, SMALL_STUDENT
from labcore.runs.configure import at_length, follow
from labcore.runs.models import find_model

EXACT = "exact"
ARMS = {arm.name: arm for arm in SMALL_ARMS}


def check_arms(arms: Sequence[str], teacher: str) -> None:
    """ValueError for names that are no arms, and for a flow without clamp that nobody knows how to make."""
    unknown = sorted(set(arms) - {EXACT, *ARMS})
    if isinstance(arms, str):
        raise ValueError(f"arms were the text {arms!r}; give a list (papermill: -y 'arms: [exact, naive]')")
    if unknown or not arms:
        raise ValueError(f"arms were {list(arms)}; give some of {EXACT}, {', '.join(ARMS)}, and not {unknown}")
    unclamped = [arm for arm in arms if arm in ARMS and ARMS[arm].unclamped]
    if unclamped and f"{teacher}-unclamped" not in PRESETS:
        raise ValueError(
            f"{', '.join(unclamped)} need a flow without clamp, and {teacher!r} is no preset that has one beside it; take "
            "teacher 'itarflow-16', or leave them out"
        )
    clamped = [arm for arm in ("norm-both", "norm-clamp") if arm in arms]
    if clamped and _clamp(teacher) is None:
        raise ValueError(f"{', '.join(clamped)} need a flow with a clamp, and {teacher!r} has none; take 'itarflow-16'")


def _clamp(teacher: str) -> float | None:
    model = PRESETS[teacher]["model"] if teacher in PRESETS else find_model(teacher).config.model_dump()
    return model.get("affine_clamp")


def teacher_of(arm: str, teacher: str) -> str:
    """The name of the flow that teaches an arm: `teacher`, or its preset without clamp."""
    return f"{teacher}-unclamped" if arm in ARMS and ARMS[arm].unclamped else teacher


def student(
    arm: str, flow: str, width: int, steps: int, batch_size: int, save_every: int, seed: int, precision: str = "fp32"
) -> StudentRunConfig:
    """An arm's configuration for a flow (what `find_model` takes): same tokens, blocks and layers, another width.

    Raises as `at_length`.
    """
    chosen = ARMS[arm]
    model, train = {"width": width, **chosen.model}, {**MINUTES, **SMALL_STUDENT}
    sections = follow(flow, dict(model=model, data={}, train=train, student=chosen.student))
    return at_length(StudentRunConfig(flow=flow, **sections), steps, batch_size, save_every, seed, precision)


def describe(config: StudentRunConfig) -> str:
    """An arm in words."""
    s, m = config.student, config.model
    terms = " + ".join(["squared errors", *(f"{w:g} {name}" for name, w in s.perceptual.items())])
    return (
        f"{s.strategy}, {terms}, p = {s.adaptive_power:g}, states divided by {s.normalise}, "
        f"{'learned denoising' if m.denoiser else 'no denoiser'}, guidance up to {m.max_guidance:g}"
    )


def exact_ways(flow: TarFlow, guidance: float, more: Sequence[float] = ()) -> dict[str, Way]:
    """The flow's own inverse: denoised by its score, not denoised, and denoised with guidance. more: further guidances."""
    found = {"exact, score": exact(flow), "exact, no denoising": exact(flow, score=False)}
    if flow.config.num_classes:
        found["exact, score, guided"] = exact(flow, guidance)
        found |= {f"exact, score, guided {w:g}": exact(flow, w) for w in more}
    return found


def learned_ways(
    arm: str, model: BackwardModel, flow: TarFlow, guidance: float, more: Sequence[float] = ()
) -> dict[str, Way]:
    """What an arm's model gives: denoised in the ways there are, with and without guidance. more: further guidances."""
    if not model.config.denoiser:
        return {f"{arm}, no denoising": learned(model), f"{arm}, score": learned(model, flow=flow)}
    found = {arm: learned(model, has_states=arm != "naive")}
    if model.config.max_guidance:
        found = {f"{arm}, w = 0": found[arm], f"{arm}, 1 evaluation": learned(model, guidance)}
        found |= {f"{arm} {w:g}, 1 evaluation": learned(model, w) for w in more}
    elif arm == "hidden-alignment" and model.config.num_classes:
        found[f"{arm}, guided, 2 evaluations"] = learned(model, guidance)
        found |= {f"{arm}, guided {w:g}, 2 evaluations": learned(model, w) for w in more}
    return found


def same_teacher(way: str) -> str:
    """The way of the exact inverse, denoised by its score, of the teacher that a row of a campaign's table has.

    A row names its teacher, where that is not the campaign's, at its end in parentheses.
    """
    other = re.search(r" \(.*\)$", way)
    return "exact, score" + (other[0] if other else "")
