"""Shipped models and presets as Markdown: measures of the models, and a list of all presets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from labcore import presets, zoo
from labcore.campaigns.spec import load_spec, resolve
from labcore.config import BaseRunConfig
from labcore.jsonfile import read_object
from labcore.markdown import table
from labcore.runs.configure import as_named


def _record(name: str, file: str = "record.json") -> dict[str, Any]:
    return read_object(zoo.path(name) / file, "restore it from git")


def caption() -> str:
    """Write the sentence below README's picture."""
    one = _record("fashion-tarflow")
    bayes = one["bayes_accuracy"]
    return (
        f"*Samples of `fashion-tarflow`, which is in the package: {one['parameters']:,} parameters, trained in "
        f"{one['training_seconds'] / 60:.0f} minutes on one CPU core; guidance 1. It classifies {bayes['accuracy']:.1%} of the "
        f"{bayes['n']:,} test images correctly (Bayes' rule), and the error of a round trip is "
        f"{one['round_trip_error']:.0e} (float32). [Card with all numbers](labcore/zoo/fashion-tarflow/README.md).*\n"
    )


def flow_measures() -> str:
    """Write six metrics of fashion-tarflow's samples and of held-out real images, and the flow's accuracy."""
    found = _record("fashion-tarflow", "evaluation.json")
    fidelity = found["fidelity_efflite0"]
    lines = [
        [
            f"`{name}`",
            f"{m['value']:.4g} ({m['low']:.4g} to {m['high']:.4g})",
            f"{m['floor']:.{2 if abs(m['floor']) < 1e-3 else 4}g}",
        ]
        for name, m in fidelity["measures"].items()
    ]
    bayes, free = found["bayes_accuracy"], found["training_free_accuracy"]
    heads = [
        f"{fidelity['images']['num']:,} samples, guidance {fidelity['images']['guidance']:g}, denoised",
        "the flow (95% interval)",
    ]
    return "\n".join(
        [
            table([*heads, "held-out real images"], lines),
            f"On {bayes['n']:,} test images its accuracy is {_share(bayes)} by Bayes' rule and {_share(free)} training-free. "
            "Record: [evaluation.json](../labcore/zoo/fashion-tarflow/evaluation.json).",
            "",
        ]
    )


def aligned_pair() -> str:
    """Compare the shipped flow with the same run with alignment, one seed each."""
    names = ("fashion-tarflow", "fashion-r-repa")
    records = [_record(name) for name in names]
    (steps,) = {one["steps"] for one in records}  # the head of the table gives one number for both
    fids = [_record(name, "evaluation.json")["fidelity_efflite0"]["measures"]["fid_efflite0"] for name in names]
    lines = [
        ["training-free accuracy", *(_share(one["training_free_accuracy"]) for one in records)],
        ["FID (efflite0)", *(f"{fid['value']:.2f} ({fid['low']:.2f} to {fid['high']:.2f})" for fid in fids)],
        ["nats/dim", *(_nats(one["likelihood"]) for one in records)],
        ["samples recognised without guidance", *(_share(one["recognised"]["0"]) for one in records)],
    ]
    heads = [f"{steps:,} steps, one seed (95% interval)", "`fashion-tarflow`: no alignment"]
    return table([*heads, "`fashion-r-repa`: `reverse`, weight 0.1"], lines)


def judge() -> str:
    """Write the accuracy of the classifier that judges samples."""
    found = _record(zoo.CLASSIFIER)["accuracy"]
    return f"Its accuracy is {_share(found)} on {found['n']:,} test images.\n"


def preset_list() -> str:
    """List every preset with its cost and its expected numbers."""
    names = (*presets.PRESETS, *presets.STUDENTS)
    return table(["preset", "cost", "expected numbers"], ([f"`{name}`", *presets.about(name)[1:]] for name in names))


PAPER_SPECS = {
    "tarflow": "ImageNet at 64 and 128; the downsampled ImageNet64 for rows without classes; AFHQ at 256",
    "flowback_64": "ImageNet",
    "flowback_64_million": "ImageNet",
    "flowback_latent_256": "ImageNet",
    "flowback_latent_256_million": "ImageNet",
    "itarflow_latent_256": "ImageNet",
    "biflow_latent_256": "ImageNet",
}
"""Specs with rows of papers, and their pictures."""


def paper_needs() -> str:
    """Write the sizes of pictures and the files of weights that the rows of the papers' specs need."""
    lines = []
    for name, pictures in PAPER_SPECS.items():
        configs = [as_named(run.parameters["preset"])[0] for run in resolve(load_spec(name))]
        sizes = sorted({one.data.image_size for one in configs})
        needed = Counter(file for one in configs for file in _weights(one))
        files = ", ".join(
            f"`{file}` ({'all' if rows == len(configs) else f'{rows} of {len(configs)}'} rows)"
            for file, rows in sorted(needed.items())
        )
        lines.append([f"`{name}`", pictures, ", ".join(map(str, sizes)), files or "none"])
    return table(["spec", "pictures", "pixels", "weights"], lines)


def _weights(config: BaseRunConfig) -> set[str]:
    """Return the files of weights that a run needs, without those of FID."""
    encoder = None if config.encoder is None else config.encoder.encoder
    return {*config.distances, encoder, config.model.codec} - {None}


def _share(found: dict[str, Any]) -> str:
    return f"{found['accuracy']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def _nats(found: dict[str, Any]) -> str:
    return f"{found['nats_per_dim']:.4f}"


BLOCKS: dict[str, Callable[[], str]] = {
    "caption": caption,
    "flow-measures": flow_measures,
    "aligned-pair": aligned_pair,
    "judge": judge,
    "presets": preset_list,
    "paper-needs": paper_needs,
}
