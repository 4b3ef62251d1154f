"""How the images of a learned inverse are denoised: by its own last block, by the score of the flow that it inverts, or not.

    learned   its last block gives the clean image (`BackwardConfig.denoiser`)
    score     it has no such block, and the flow's score denoises its images (`labcore.inverse.score_denoised`)
    none      it has no such block, and its images stay noisy

None stands for the first of "learned" and "none" that the model can have. A flow is not concerned: its own score denoises.
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
    """ValueError for denoising that a model with this configuration cannot have."""
    if denoising is None:
        return
    if denoising not in get_args(Denoising):
        raise ValueError(f"denoising was {denoising!r}; allowed are {', '.join(get_args(Denoising))}")
    if isinstance(model, TarFlowConfig):
        raise ValueError(
            f"denoising was {denoising!r}; it is for learned inverses, and a flow's own score denoises its images. Leave it "
            "out; noise_std=0 skips a flow's denoising"
        )
    if model.denoiser != (denoising == "learned"):
        has, allowed = ("a", "learned") if model.denoiser else ("no", "score or none")
        raise ValueError(f"denoising was {denoising!r}; a learned inverse with {has} denoising block allows {allowed}")


def with_denoising(
    model: TarFlow | BackwardModel, denoising: str | None, flow: str | Path | None = None
) -> TarFlow | BackwardModel | ScoreDenoised:
    """`model` as images are drawn from it, on its device.

    flow: for "score", the flow that the learned inverse was taught by (what `find_model` takes). Raises as `check_denoising`
    and `find_model`, and ValueError for a flow that the model cannot invert.
    """
    check_denoising(denoising, model.config)
    if denoising != "score":
        return model
    if flow is None:
        raise ValueError("denoising was 'score', and no flow was given; give the flow that the learned inverse inverts")
    teacher = find_model(flow).requires_grad_(False).to(model.device)
    check_pair(teacher, model.config)
    return ScoreDenoised(model, teacher)


def find_denoised(source: str | Path, denoising: str | None = None) -> TarFlow | BackwardModel | ScoreDenoised:
    """`labcore.runs.models.find_sampler` of `source`, denoised; for "score" by the flow that its run names.

    Raises as `find_sampler` and `with_denoising`; ValueError where no run lies beside the model, and where the flow has other
    weights now than it had when it taught.
    """
    model = find_sampler(source)
    check_denoising(denoising, model.config)
    if denoising != "score":
        return model
    flow = run_section(source, "flow")
    if flow is None:
        raise ValueError(f"no run beside {source} says which flow it inverts; denoising 'score' needs the run's folder")
    found = with_denoising(model, denoising, flow)
    taught_by = _teachers_weights(Path(source))
    if taught_by not in (None, provenance.weights_hash(found.flow)):
        raise ValueError(f"{flow} has other weights than the flow that taught {source}; bring that flow back")
    return found


def _teachers_weights(run: Path) -> str | None:
    """The hash of the flow's weights that the checkpoints of a run were taught by; None where there is no checkpoint."""
    places = [run] if checkpoint.is_checkpoint(run) else [*checkpoint.folders(run), *checkpoint.folders(run.parent)]
    return checkpoint.read_state(places[0])["run"].get("flow") if places else None
