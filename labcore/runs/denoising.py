"""Denoising of a student's images: by its own last block, by the score of the flow that it inverts, or not at all.

    learned   its last block gives the clean image (`BackwardConfig.denoiser`)
    score     it has no such block, and the flow's score denoises its images (`labcore.inverse.score_denoised`)
    none      it has no such block, and its images stay noisy

None chooses "learned" if the model has such a block, else "none". This is for students only: a flow's own score denoises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from labcore import provenance
from labcore.biflow.model import BackwardModel
from labcore.config import TarFlowConfig, TokensConfig
from labcore.flows.tarflow import TarFlow
from labcore.inverse.score_denoised import ScoreDenoised
from labcore.runs.models import find_model, find_sampler, run_section
from labcore.train import checkpoint
from labcore.train.distillation import check_pair

Denoising = Literal["learned", "score", "none"]


def check_denoising(denoising: str | None, model: TokensConfig) -> None:
    """Raise ValueError for denoising that a model with this configuration does not allow."""
    if denoising is None:
        return
    if denoising not in get_args(Denoising):
        raise ValueError(f"denoising was {denoising!r}; allowed are {', '.join(get_args(Denoising))}")
    if isinstance(model, TarFlowConfig):
        raise ValueError(
            f"denoising was {denoising!r}; it is for students, and a flow's own score denoises its images. Leave it "
            "out; noise_std=0 skips a flow's denoising"
        )
    if model.denoiser != (denoising == "learned"):
        has, allowed = ("a", "learned") if model.denoiser else ("no", "score or none")
        raise ValueError(f"denoising was {denoising!r}; a student with {has} denoising block allows {allowed}")


def with_denoising(
    model: TarFlow | BackwardModel, denoising: str | None, flow: str | Path | None = None
) -> TarFlow | BackwardModel | ScoreDenoised:
    """Return the model that draws images with this denoising, on the device of `model`.

    flow: for "score", the flow that taught the student, as `find_model` takes it. Raises as `check_denoising` and
    `find_model`, and ValueError for a flow that the model cannot invert.
    """
    check_denoising(denoising, model.config)
    if denoising != "score":
        return model
    if flow is None:
        raise ValueError("denoising was 'score', and no flow was given; give the flow that the student inverts")
    teacher = find_model(flow).requires_grad_(False).to(model.device)
    check_pair(teacher, model.config)
    return ScoreDenoised(model, teacher)


def find_denoised(source: str | Path, denoising: str | None = None) -> TarFlow | BackwardModel | ScoreDenoised:
    """Load `source` as `labcore.runs.models.find_sampler`, with this denoising; for "score" by the flow that its run names.

    Raises as `find_sampler` and `with_denoising`; ValueError if there is no run next to the model, and if the flow's weights
    have changed since it taught the student.
    """
    model = find_sampler(source)
    check_denoising(denoising, model.config)
    if denoising != "score":
        return model
    flow = run_section(source, "flow")
    if flow is None:
        raise ValueError(
            f"no run next to {source} names the flow that it inverts; denoising 'score' needs the run's folder"
        )
    found = with_denoising(model, denoising, flow)
    taught_by = _teachers_weights(Path(source))
    if taught_by not in (None, provenance.weights_hash(found.flow)):
        raise ValueError(f"{flow} has other weights than the flow that taught {source}; restore that flow")
    return found


def _teachers_weights(run: Path) -> str | None:
    """Return the hash of the flow's weights that taught a run, from its checkpoints; None if there is no checkpoint."""
    places = [run] if checkpoint.is_checkpoint(run) else [*checkpoint.folders(run), *checkpoint.folders(run.parent)]
    return checkpoint.read_state(places[0])["run"].get("flow") if places else None
