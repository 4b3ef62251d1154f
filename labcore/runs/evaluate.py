"""Evaluation of a trained run in a notebook's cell: in place with one process, in the background with several.

Images and features are stored on disk. After a kill, run the cell again: it continues where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labcore.config import BaseRunConfig, TarFlowConfig, TokensConfig
from labcore.data.datasets import OF_FOLDERS, Data
from labcore.evaluate import extractors, fidelity
from labcore.evaluate.extractors import suffix_of
from labcore.evaluate.generate import Sampling
from labcore.evaluate.record import SIMPLE
from labcore.evaluate.session import EvaluationRequest, evaluate_model
from labcore.files import check_file
from labcore.jsonfile import read_object
from labcore.kinds import kind_of
from labcore.processes import process_device
from labcore.runs import detached
from labcore.runs.denoising import Denoising, check_denoising, find_denoised
from labcore.train.launch import Nodes, command, environment
from labcore.train.log import print_line

DRAWN = ("fid", "sfid", "is")
"""Measures of drawn images in the papers' tables."""
FEW = ("precision", "recall")
"""Measures that replace those if there are too few images for a covariance."""


class RunEvaluation(NamedTuple):
    """Settings for the evaluation of a trained run.

    Attributes:
        samples: number of images drawn for each guidance.
        guidances: guidance scales; a flow's guidance grows along the tokens, as in the papers' evaluations.
        extractor: network of the images' features.
        reference: statistics of `lab stats`; None: those of the training images.
        attn_temp: attention temperature in the second branch of an unconditional flow.
        limit: number of test images, evenly spread; None: all.
        processes: number of devices that share the work.
        noise_std: noise level of a flow's denoising; None: the flow's own. If a paper multiplies the step of score denoising
            by m, this is the flow's noise times the square root of m.
        denoising: denoising of a student, as in `labcore.runs.denoising`.
    """

    samples: int
    guidances: Sequence[float] = (0.0,)
    extractor: str = "inception"
    reference: str | Path | None = None
    attn_temp: float = 1.0
    limit: int | None = None
    processes: int = 1
    noise_std: float | None = None
    denoising: Denoising | None = None

    def check(self, model: TokensConfig) -> None:
        """Raise ValueError for settings that do not fit a model with this configuration."""
        is_flow = isinstance(model, TarFlowConfig)
        check_denoising(self.denoising, model)
        if self.extractor not in extractors.NAMES:
            raise ValueError(f"extractor was {self.extractor!r}; there are {', '.join(extractors.NAMES)}")
        if not isinstance(self.guidances, Sequence) or len({f"{g:g}" for g in self.guidances}) != len(self.guidances):
            raise ValueError(f"guidances were {self.guidances}; give a list with each once, as [0.0, 1.0]")
        if not self.guidances:
            raise ValueError("guidances were []; give at least one, as [0.0]")
        if self.samples < fidelity.FEWEST:
            raise ValueError(f"samples was {self.samples}; give {fidelity.FEWEST} or more")
        if not is_flow and self.attn_temp != 1:
            raise ValueError(f"attn_temp was {self.attn_temp}; a student has none, so leave it at 1.0")
        if not is_flow and self.noise_std is not None:
            raise ValueError(f"noise_std was {self.noise_std}; a student has none, so leave it at None")
        for guidance in self.guidances:
            self.sampling(guidance, "constant", 0)

    def sampling(self, guidance: float, schedule: str, seed: int) -> Sampling:
        """Return how images are drawn with this guidance and its schedule along the tokens: classes in turn, as in papers."""
        how = dict(guidance=guidance, guidance_schedule=schedule, attn_temp=self.attn_temp, seed=seed)
        return Sampling(num=self.samples, noise_std=self.noise_std, **how)


def evaluate_run(
    config: BaseRunConfig, model: Path, out: Path, how: RunEvaluation, show: Callable[[str], None] = print_line
) -> dict[str, Any]:
    """Return the metrics of a trained run, by name: of the test set, and of drawn images for each guidance.

    model: the run's folder. out: a folder for records, which are reused. The best guidance is the one with the lowest FID.
    Raises as `evaluate_streamed`; ValueError for no guidance.
    """
    kind = kind_of(config)
    how.check(config.model)
    wanted, suffix = image_metrics(how.extractor, how.samples), suffix_of(how.extractor)
    simple = kind.test_metrics(config.model)
    data = Data.of(config.data)
    images, record = {}, {}
    for i, guidance in enumerate(how.guidances):
        show(f"--- guidance {guidance:g}")
        metrics = [*simple, *wanted] if i == 0 else wanted
        sampling = how.sampling(guidance, kind.guidance_schedule, config.train.seed)
        scored = "-score" if how.denoising == "score" else ""
        path = out / f"guidance-{guidance:g}-{how.samples}-{how.extractor}{scored}.json"
        request = EvaluationRequest(metrics, sampling, how.reference, how.limit, sampling.seed)
        found = evaluate_streamed(model, data, request, path, how.processes, show, how.denoising)
        record = {**found, **record}
        measures = found[f"fidelity{suffix}"]["measures"]
        images[f"{guidance:g}"] = {name: measures[name] for name in wanted}
    values = {g: {name: m["value"] for name, m in each.items()} for g, each in images.items()}
    first = wanted[0]
    lower_is_better = first.startswith("fid")
    best = min(values, key=lambda g: values[g][first] if lower_is_better else -values[g][first])
    return {**_of_test_set(record), "images": images, "best": {"guidance": float(best), **values[best]}}


def image_metrics(extractor: str, samples: int) -> list[str]:
    """Return the names of the measures for this number of images: the papers', or others if the images are too few."""
    possible = [name for name in DRAWN if fidelity.enough(name, extractor, samples)]
    names = possible if "fid" in possible else FEW
    return [f"{name}{suffix_of(extractor)}" for name in names]


def _of_test_set(record: dict[str, Any]) -> dict[str, float]:
    """Return those of nats_per_dim, bits_per_dim and accuracy that a record has."""
    likelihood, accuracy = record.get(SIMPLE["likelihood"], {}), record.get(SIMPLE["classify"], {})
    found = {name: likelihood.get(name) for name in ("nats_per_dim", "bits_per_dim")}
    found["accuracy"] = accuracy.get("accuracy")
    return {name: value for name, value in found.items() if value is not None}


def evaluate_streamed(
    model: Path,
    data: Data,
    request: EvaluationRequest,
    out: Path,
    num_processes: int = 1,
    show: Callable[[str], None] = print_line,
    denoising: Denoising | None = None,
) -> dict[str, Any]:
    """Evaluate a run's folder or a saved model on `num_processes` devices, and return the record.

    The measures are those of `labcore.evaluate.session.evaluate_model`. out: file of the record; a record of the same model is
    extended. show: called with each line. Raises as `evaluate_model`, and RuntimeError with the last lines of the output if
    several processes failed.
    """
    if num_processes == 1:

        def show_metric(name: str, value: Any) -> None:
            show(f"{name:24s} {value}")

        flow = find_denoised(model, denoising).to(process_device())
        return evaluate_model(flow, data, request, out, say=show_metric)
    words = _words(model, data, request, out, denoising)
    folder, env = out.with_suffix(""), environment(num_processes)
    check_file(folder / detached.RECORD)
    again = detached.running(folder)
    if again and detached.read(folder)["about"] != words:
        raise ValueError(f"another evaluation runs in {folder}; wait for it, or give another folder")
    process = detached.start(folder, command("labcore.cli", words, num_processes, Nodes()), env, words)
    if process is None and not again:  # another notebook has started one
        return evaluate_streamed(model, data, request, out, num_processes, show, denoising)
    try:
        status = detached.Output(folder, again).stream(show)
    except KeyboardInterrupt:
        detached.ask_to_stop(folder)
        show("interrupted: drawn images are kept; run the cell again to resume")
        raise
    finally:
        if process is not None:
            process.poll()
    if status != 0:
        what = "was killed" if status is None else f"ended with status {status}"
        raise RuntimeError(
            f"the evaluation {what}. Its last lines:\n\n{detached.last_lines(folder)}\n\n"
            "Run it again to resume; drawn images are kept"
        )
    return read_object(out, "remove it and measure again")


def _words(
    model: Path, data: Data, request: EvaluationRequest, out: Path, denoising: Denoising | None = None
) -> list[str]:
    """Return the command line of `lab evaluate` for the same evaluation."""
    s = request.sampling
    if s is None or s.seed != request.seed or request.tf32 or request.about:
        raise ValueError(
            "with several processes sampling and request must have one seed, and tf32 and about are not allowed"
        )
    if s.solver != "sequential" or s.classes not in ("each", "none", "data") or s.class_counts is not None:
        raise ValueError("with several processes the solver must be sequential, and classes 'each', 'none' or 'data'")
    folder = data.name == "folder"
    given = {
        "--metrics": ",".join(request.metrics),
        "--num-samples": s.num,
        "--data": data.path if folder else data.name,
        "--path": None if folder else data.path,
        "--reference": request.reference,
        "--limit": request.limit,
        "--classes": s.classes,
        "--guidance": s.guidance,
        "--schedule": s.guidance_schedule,
        "--attn-temp": s.attn_temp,
        "--noise-std": s.noise_std,
        "--denoising": denoising,
        "--seed": s.seed,
        "--batch-size": s.chunk,
        "--out": out.resolve(),
    }
    named = [[option, str(value)] for option, value in given.items() if value is not None]
    how_read = {name: getattr(data, name) for name in OF_FOLDERS} if folder else {}
    named += [["--set", f"data.{name}={json.dumps(value)}"] for name, value in how_read.items()]
    flags = {None: [], True: ["--compiled"], False: ["--no-compiled"]}[s.compiled]
    words = ["evaluate", str(model.resolve() if model.exists() else model)]
    return [*words, *(word for pair in named for word in pair), *flags]
