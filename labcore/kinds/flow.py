"""The kind of run that trains a flow: by likelihood, alone or with features aligned to an encoder's tokens (R-REPA)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from labcore import encoders
from labcore.config import RunConfig, TarFlowConfig, TokensConfig
from labcore.data.datasets import Data
from labcore.data.protocol import Dataset
from labcore.data.sources import SOURCES
from labcore.encoders.specs import token_width
from labcore.evaluate.likelihood import likelihood
from labcore.flows.tarflow import TarFlow
from labcore.kinds.kind import Kind, Parts, small_sections, without_label_check
from labcore.processes import process_device
from labcore.progress import show_progress
from labcore.sites import Site
from labcore.spread import spread, spread_rows
from labcore.train import monitor, same_run
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.train.objectives import Likelihood, once_noised
from labcore.train.targets import Cached, Computed
from labcore.types import Batch

EVALUATED = 1000
"""Number of test images, evenly spread, for the likelihood that is logged during training; our choice."""


class FlowKind(Kind):
    """The kind of run that trains a flow."""

    name, config, model = "flow", RunConfig, TarFlow
    guidance_schedule = "linear"  # as in the papers' evaluations

    def validated(self, sections: dict[str, dict[str, Any]]) -> RunConfig:
        """As `Kind.validated`; without sites, `default_sites` are used, and an empty `align` means no alignment."""
        align = sections["align"]
        if not align:
            return RunConfig(**{**sections, "align": None})
        if "sites" not in align:
            align["sites"] = default_sites(align.get("direction", "reverse"), TarFlowConfig(**sections["model"]))
        return RunConfig(**sections)

    def identity(self, config: RunConfig, teacher: TarFlow | None) -> dict[str, str]:
        """Return the hash of the encoder's weights. Raises FileNotFoundError if their file is missing."""
        if config.align is None:
            return {}
        return {same_run.ENCODER: encoders.weights_hash(encoders.spec(config.align.encoder), config.align.weights)}

    def objective(self, config: RunConfig, images: Dataset, teacher: TarFlow | None) -> nn.Module:
        """Return the likelihood, with the alignment if there is one. Encoder tokens to be kept on disk are computed here.

        Raises as `labcore.encoders.load`.
        """
        a, t = config.align, config.train
        if a is None:
            return Likelihood(t.label_dropout)
        encoder, grid = encoders.load(a.encoder, a.weights, device=process_device()), config.model.grid
        if a.targets == "cached":
            seen = encoder_images(config, images)
            targets = Cached(encoder, seen, grid, a.stage, config.data.flip, show_progress())
        elif config.model.codec is not None:
            raise ValueError(
                "align.targets was 'computed' for a flow of latents; an encoder takes pixels: give 'cached'"
            )
        else:
            targets = Computed(encoder, grid, a.stage)
        return LikelihoodAndAlignment(a, config.model, targets, t.label_dropout, t.seed)

    def evaluation(self, model: TarFlow, objective: nn.Module, test: Dataset) -> dict[str, float]:
        """Return the test likelihood with labels, and the round-trip error, on images spread over the test set."""
        record = likelihood(model, test, limit=EVALUATED)
        pixels, labels = test.__getitems__(spread_rows(len(test), 4))
        x = once_noised(model, test.floats(pixels.to(model.device)))
        y = labels.to(model.device) if model.config.num_classes else None
        return {"test_nats_per_dim": record.nats_per_dim, "round_trip_error": monitor.round_trip_error(model, x, y)}

    def diagnose(self, model: TarFlow, x: Tensor, y: Tensor | None) -> Any:
        """Return the RMS of the state after every block."""
        return monitor.state_rms(model, once_noised(model, x), y)

    def parts(self, config: RunConfig, teacher: TarFlowConfig | None) -> Parts:
        """As `Kind.parts`; zeros of the same shape replace the encoder's tokens."""
        model, t = without_label_check(TarFlow(config.model)), config.train
        if config.align is None:
            return Parts(model, Likelihood(t.label_dropout))
        return Parts(
            model, LikelihoodAndAlignment(config.align, config.model, _Tokens(config), t.label_dropout, t.seed)
        )

    def test_metrics(self, model: TokensConfig) -> list[str]:
        """Return the likelihood, and training-free classification for a flow with classes."""
        return ["likelihood", *(["classify"] if model.num_classes else [])]

    def smoke(self, config: RunConfig, flow: str | None = None) -> RunConfig:
        """As `Kind.smoke`; sites and direction are kept, and the encoder is the embedded one."""
        align = None
        if config.align:
            targets = "computed" if config.model.codec is None else "cached"
            align = config.align.replace(encoder="efficientnet-lite0", targets=targets, image_size=None).model_dump()
        return RunConfig(**small_sections(config), align=align)

    def card(
        self, name: str, model: TarFlow, config: RunConfig, record: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], str, str]:
        """As `Kind.card`; the rows are likelihood, classification and round trip."""
        c, n = model.config, record["likelihood"]
        subject, colour = SOURCES[config.data.name].subject, "colour " if c.channels == 3 else ""
        kind = "TARFlow"
        if c.positions == "rope" and c.affine_clamp is not None:
            kind += f" with RoPE, SwiGLU and RMSNorm, affine parameters clamped to [-{c.affine_clamp:g}, {c.affine_clamp:g}],"
        if (align := config.align) is not None:
            sites = ", ".join(f"block {block} layer {layer}" for block, layer in align.sites)
            kind += f""" trained with R-REPA ({align.direction}, weight {align.weight:g},
{sites}, {align.encoder})"""
        head = f"""A {kind} of {record["parameters"]:,} parameters
for {c.image_size}x{c.image_size} {colour}images of {subject} in {c.num_classes} classes:"""
        rows = [
            (
                f"negative log-likelihood of {n['n']:,} test images, with labels",
                f"{n['nats_per_dim']:.4f} +- {n['standard_error'] / c.dims:.4f} nats/dim ({n['density']})",
            ),
            *(
                (
                    f"{way} classification of the same images, without noise",
                    f"{a['accuracy']:.1%} (95%: {a['low']:.1%} to {a['high']:.1%})",
                )
                for way, a in (("Bayes", record["bayes_accuracy"]), ("training-free", record["training_free_accuracy"]))
            ),
            *_guessing(record),
            (
                "largest round-trip error of invert(flow(x)), float32, 64 images",
                f"{record['round_trip_error']:.1e}",
            ),
        ]
        limits = f"""It was trained only on {c.image_size}x{c.image_size} {colour or "grey "}pictures of
{subject} in [-1, 1] with noise of sigma {c.noise_std:g}; values far outside that range overflow."""
        return head, rows, limits, f"lab train --config labcore/zoo/{name}/spec.yaml --out runs/{name}"


def _guessing(record: dict[str, Any]) -> list[tuple[str, str]]:
    """A row of a card: the accuracy of always answering with the largest class; none for records of earlier versions."""
    if "largest_class" not in record:
        return []
    return [("share of the largest class among these images, which guessing reaches", f"{record['largest_class']:.1%}")]


def default_sites(direction: str, model: TarFlowConfig) -> tuple[Site, ...]:
    """Return the two blocks nearest z, or nearest the image for "forward", after three quarters of their layers.

    For 8 blocks of 8 layers that is (7, 6) and (8, 6), the best of FlowBack's Table 1; the rule for other sizes is ours.
    """
    last, layer = model.num_blocks, math.ceil(0.75 * model.layers_per_block)
    blocks = (1, 2) if direction == "forward" else (last - 1, last)
    return tuple((block, layer) for block in sorted({min(max(block, 1), last) for block in blocks}))


def encoder_images(config: RunConfig, images: Dataset) -> Dataset:
    """Return the encoder's pictures of `images`: the flow's own, or the same pictures read at `align.image_size`."""
    d = config.data
    if config.align.image_size is not None:
        return spread(Data.of(d)._replace(image_size=config.align.image_size).split("train"), d.limit)
    return images.pictures


class _Tokens:
    """Replacement for an encoder's tokens: zeros of their shape."""

    about = "no values"

    def __init__(self, config: RunConfig):
        self.tokens = config.model.tokens
        self.width = token_width(config.align.encoder, config.model.grid, config.align.stage)

    def __call__(self, batch: Batch) -> Tensor:
        return torch.zeros(len(batch.x), self.tokens, self.width)
