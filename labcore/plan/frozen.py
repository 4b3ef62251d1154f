"""Requirements of a run's frozen networks: an alignment's encoder, perceptual distances, and the autoencoder of latents.

The networks are built with random weights and run on tensors without values, so no weights are needed. They are used as in
`labcore.train`: tokens are computed without gradient; a distance has a gradient in the student's images only; and pictures are
decoded once without and once with a gradient, whose activations are computed again in the backward pass, a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from labcore.config import AlignConfig, BaseRunConfig
from labcore.encoders import untrained as untrained_encoder
from labcore.encoders.perceptual import OfCrops, untrained_perceptual
from labcore.evaluate.flops import count_flops, count_saved
from labcore.latents.codec import CHUNK
from labcore.latents.weights import untrained as untrained_autoencoder


class Frozen(NamedTuple):
    """Requirements of frozen networks.

    Attributes:
        flops: FLOPs of one image in a step.
        once: FLOPs of one training image before the first step, including its mirror image if training mirrors.
        held: bytes on a GPU that do not depend on the batch.
        activations: bytes that one image holds between forward and backward pass.
    """

    flops: int = 0
    once: int = 0
    held: int = 0
    activations: int = 0

    def __add__(self, other: Frozen) -> Frozen:  # type: ignore[override]
        return Frozen(*(a + b for a, b in zip(self, other, strict=True)))


def frozen(config: BaseRunConfig) -> Frozen:
    """Return the requirements of all frozen networks of a run. Raises ValueError or FileNotFoundError for unknown ones."""
    m, d, found = config.model, config.data, Frozen()
    side = m.image_shape[1]
    network = None if m.codec is None else untrained_autoencoder(m.codec).eval().requires_grad_(False)
    if network is not None:
        side = m.side * _factor(network)
        shape = (1, network.config.in_channels, side, side)
        found += Frozen(once=(1 + d.flip) * _counted(lambda: network.encode(torch.zeros(shape))))
    found += _of_distances(config, network, side)
    if config.encoder is not None:
        found += _of_tokens(config, config.encoder, side)
    return found


def _of_tokens(config: BaseRunConfig, a: AlignConfig, side: int) -> Frozen:
    """Return the requirements of an alignment's encoder: once for tokens on disk, else in every step."""
    encoder = untrained_encoder(a.encoder)
    tokens = _counted(lambda: encoder.tokens(torch.zeros(1, 1, side, side), config.model.grid, a.stage))
    if a.targets == "cached":
        return Frozen(once=(1 + config.data.flip) * tokens)
    return Frozen(flops=tokens, held=_bytes(encoder._model))


def _of_distances(config: BaseRunConfig, network: nn.Module | None, side: int) -> Frozen:
    """Return the requirements of a student's perceptual distances, and of the decoding for them."""
    found, share = Frozen(), 0.0
    for name in config.distances:
        distance = untrained_perceptual(name)
        compared = 1.0 if distance.most is None else min(1.0, distance.most / config.train.batch_size)
        share = max(share, compared)
        found += _of_distance(distance, compared, config.train.precision != "fp32")
    if network is None or not config.distances:
        return found
    return found + _of_decoding(config, network, side, share)


def _of_distance(distance: OfCrops, share: float, half: bool) -> Frozen:
    """Return the requirements of one distance that compares this share of the images."""
    network = distance.network if hasattr(distance, "network") else distance.encoder._model

    def compared() -> Tensor:
        ours, theirs = (torch.zeros(1, 3, distance.size, distance.size) for _ in range(2))
        return distance.compare(ours.requires_grad_(), theirs).sum()

    flops = _counted(lambda: compared().backward())
    activation_bytes = _activation_bytes(compared, network, half)
    return Frozen(flops=round(share * flops), held=_bytes(network), activations=round(share * activation_bytes))


def _of_decoding(config: BaseRunConfig, network: nn.Module, side: int, share: float) -> Frozen:
    """Return the requirements of decoding the student's and the true pictures.

    They include the network, the activations of one chunk in the backward pass, and the pictures.
    """
    m = config.model

    def decoded(with_gradient: bool) -> Tensor:
        z = torch.zeros(1, *m.image_shape, requires_grad=with_gradient)
        return network.decode(z).sample if not with_gradient else _again(network, z)

    def step() -> None:
        with torch.no_grad():
            decoded(False)
        decoded(True).sum().backward()

    flops = _counted(step)
    z = torch.zeros(1, *m.image_shape, requires_grad=True)
    chunk = CHUNK * _activation_bytes(lambda: network.decode(z).sample, network, config.train.precision != "fp32")
    pictures = 2 * 4 * network.config.in_channels * side**2
    return Frozen(round(share * flops), held=_bytes(network) + chunk, activations=round(share * pictures))


def _again(network: nn.Module, z: Tensor) -> Tensor:
    """Decode pictures; the backward pass computes their activations again."""
    return checkpoint(lambda z: network.decode(z).sample, z, use_reentrant=False)


def _counted(call: Callable[[], Any]) -> int:
    with _without_values():
        return count_flops(call)


def _activation_bytes(call: Callable[[], Tensor], network: nn.Module, half: bool) -> int:
    with _without_values(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return count_saved(call, network.parameters())


def _without_values() -> Any:
    """Inside, new tensors have a shape but no values; networks that were made before can be used."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def _bytes(network: nn.Module) -> int:
    return 4 * sum(p.numel() for p in network.parameters())


def _factor(network: nn.Module) -> int:
    c = network.config
    return 2 ** (len(getattr(c, "block_out_channels", None) or c.encoder_block_out_channels) - 1)
