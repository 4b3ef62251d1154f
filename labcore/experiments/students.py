"""Arms of an experiment on students: their configurations, and their ways from noise to images."""

from __future__ import annotations

import re
from collections.abc import Sequence

from labcore.biflow.model import BackwardModel
from labcore.config import StudentRunConfig
from labcore.experiments.ways import Way, exact, learned
from labcore.flows.tarflow import TarFlow
from labcore.presets import PRESETS
from labcore.presets.biflow import MINUTES, SMALL_ARMS, SMALL_STUDENT
from labcore.runs.configure import at_length, filled_from_flow
from labcore.runs.models import find_model

EXACT = "exact"
ARMS = {arm.name: arm for arm in SMALL_ARMS}


def check_arms(arms: Sequence[str], teacher: str) -> None:
    """Raise ValueError for unknown arms, and for arms whose teacher does not exist."""
    unknown = sorted(set(arms) - {EXACT, *ARMS})
    if isinstance(arms, str):
        raise ValueError(
            f"arms must be a list of names; got the string {arms!r}: give a list (papermill: -y 'arms: [exact, naive]')"
        )
    if unknown or not arms:
        raise ValueError(
            f"arms were {list(arms)}; unknown are {unknown or 'none'}: give some of {EXACT}, {', '.join(ARMS)}"
        )
    unclamped = [arm for arm in arms if arm in ARMS and ARMS[arm].unclamped]
    if unclamped and f"{teacher}-unclamped" not in PRESETS:
        raise ValueError(
            f"{', '.join(unclamped)} need a teacher without clamp, and there is no preset '{teacher}-unclamped'; take teacher "
            "'itarflow-16', or leave these arms out"
        )
    clamped = [arm for arm in ("norm-both", "norm-clamp") if arm in arms]
    if clamped and _clamp(teacher) is None:
        raise ValueError(f"{', '.join(clamped)} need a flow with a clamp, and {teacher!r} has none; take 'itarflow-16'")


def _clamp(teacher: str) -> float | None:
    model = PRESETS[teacher]["model"] if teacher in PRESETS else find_model(teacher).config.model_dump()
    return model.get("affine_clamp")


def teacher_of(arm: str, teacher: str) -> str:
    """Return the name of an arm's teacher: `teacher`, or its preset without clamp."""
    return f"{teacher}-unclamped" if arm in ARMS and ARMS[arm].unclamped else teacher


def student(
    arm: str, flow: str, width: int, steps: int, batch_size: int, save_every: int, seed: int, precision: str = "fp32"
) -> StudentRunConfig:
    """An arm's configuration for a flow (what `find_model` takes): same tokens, blocks and layers, another width.

    Raises as `at_length`.
    """
    chosen = ARMS[arm]
    model, train = {"width": width, **chosen.model}, {**MINUTES, **SMALL_STUDENT}
    sections = filled_from_flow(flow, dict(model=model, data={}, train=train, student=chosen.student))
    return at_length(StudentRunConfig(flow=flow, **sections), steps, batch_size, save_every, seed, precision)


def describe(config: StudentRunConfig) -> str:
    """Describe an arm in words."""
    s, m = config.student, config.model
    terms = " + ".join(["squared errors", *(f"{w:g} {name}" for name, w in s.perceptual.items())])
    return (
        f"{s.strategy}, {terms}, p = {s.adaptive_power:g}, states divided by {s.normalise}, "
        f"{'learned denoising' if m.denoiser else 'no denoiser'}, guidance up to {m.max_guidance:g}"
    )


def exact_ways(flow: TarFlow, guidance: float, more: Sequence[float] = ()) -> dict[str, Way]:
    """Return the ways of the flow's own inverse: denoised by its score, not denoised, and guided. more: further guidances."""
    found = {"exact, score": exact(flow), "exact, no denoising": exact(flow, score=False)}
    if flow.config.num_classes:
        found["exact, score, guided"] = exact(flow, guidance)
        found |= {f"exact, score, guided {w:g}": exact(flow, w) for w in more}
    return found


def learned_ways(
    arm: str, model: BackwardModel, flow: TarFlow, guidance: float, more: Sequence[float] = ()
) -> dict[str, Way]:
    """Return the ways of an arm's model: each kind of denoising that it has, with and without guidance.

    more: further guidances.
    """
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
    """Return the row of the exact inverse, denoised by the score, of the same teacher as a row of a campaign's table.

    A row that has another teacher than the campaign's names it at its end in parentheses.
    """
    other = re.search(r" \(.*\)$", way)
    return "exact, score" + (other[0] if other else "")
