"""Training of a backward model to invert a frozen flow (BiFlow)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labcore.biflow.cfg import draw_guidance
from labcore.biflow.distill import adaptive, check_strategy, squared_errors
from labcore.biflow.norm_control import rms, scales
from labcore.biflow.trajectory import Trajectory, check_teacher, trajectory
from labcore.config import BackwardConfig, StudentConfig
from labcore.encoders.perceptual import PerceptualDistance, some
from labcore.flows.tarflow import TarFlow
from labcore.nn.patch import unpatchify
from labcore.rng import StepNoise
from labcore.train.objectives import Logs, drop_labels, noised
from labcore.train.stopwatch import Stopwatch
from labcore.types import BackwardOutput, Batch

IMAGE = "image"
SAME = ("image_size", "channels", "patch_size", "num_blocks", "num_classes", "codec")
"""Settings that flow and backward model have in common; a model without classes may learn from a flow with classes."""


class Distillation(nn.Module):
    """Distances between a backward model's states and a flow's trajectory, each adaptively weighted, and summed:

        image_weight D(x, x') + sum_k weight_k D_k(x, x') + align_weight mean_i D(x^i, h^i)

    The flow is frozen, kept out of the parameters and of every checkpoint, and sees images with the noise of its
    training. The model sees the flow's z. `block_rms` (states,) are the constants of normalise "block". D_k compare the
    pictures that `decode` makes of images, if these are latents. Logged: every raw distance before weighting, the RMS of
    every target, and the seconds of flow and model.
    """

    def __init__(
        self,
        config: StudentConfig,
        model: BackwardConfig,
        flow: TarFlow,
        block_rms: Float[Tensor, " s"],
        label_dropout: float = 0.1,
        perceptual: Mapping[str, PerceptualDistance] | None = None,
        decode: Callable[[Tensor], Tensor] = lambda x: x,
    ):
        super().__init__()
        check_pair(flow, model)
        check_strategy(config.strategy, model.handover)
        self.config, self.label_dropout = config, label_dropout
        self.perceptual, self.decode = dict(perceptual or {}), decode
        if missing := config.perceptual.keys() - self.perceptual.keys():
            raise ValueError(f"no distance was given for {', '.join(sorted(missing))}")
        # x^(B-1) ... x^1, and x^0 too if a denoiser gives the image after it
        state_names = [f"state-{i}" for i in range(model.num_blocks - 1, -model.denoiser, -1)]
        self.names = [*state_names, IMAGE]
        # 0, and not absent, for the hidden states of "naive": data parallelism waits for the gradients of all heads
        state_weight = 0.0 if config.strategy == "naive" else config.align_weight / max(len(state_names), 1)
        self.weights = {name: state_weight for name in state_names} | {IMAGE: config.image_weight, **config.perceptual}
        self.register_buffer("block_rms", block_rms.float().clone())
        self._flow = (flow.eval().requires_grad_(False),)  # in a tuple, where torch does not look for parameters
        self._watch = Stopwatch()

    @property
    def flow(self) -> TarFlow:
        """The teacher, a frozen flow."""
        return self._flow[0]

    def forward(self, model: nn.Module, batch: Batch, noise: StepNoise) -> tuple[Float[Tensor, ""], Logs]:
        c, watch = self.config, self._watch
        watch.start(batch.x.device)
        with watch.part("flow"):
            taught = self.taught(batch, noise)
        with watch.part("model"):
            out = self.predict(model, taught.z, batch.y, noise)
        targets = taught.targets(model.config.denoiser)
        raw = self.distances(out, targets)
        image = unpatchify(targets[-1], model.config.patch_size, model.config.image_shape)
        if c.perceptual:
            raw |= self.perceptual_distances(out.x, image, noise)
        loss = sum(
            weight * self.mean(name, adaptive(raw[name], c.adaptive_power, c.adaptive_offset), noise)  # equation 7
            for name, weight in self.weights.items()
        )
        logs = {f"distance/{name}": self.mean(name, d.detach(), noise) for name, d in raw.items() if self.weights[name]}
        logs |= {f"rms/{name}": r.mean() for name, r in zip(self.names, rms(targets), strict=True)}
        logs |= {f"seconds/{part}": torch.full_like(loss, seconds) for part, seconds in watch.seconds().items()}
        return loss, logs

    def mean(self, name: str, values: Float[Tensor, " n"], noise: StepNoise) -> Float[Tensor, ""]:
        """Return this micro-batch's part of the mean over the step's compared images; micro-batches average to the mean."""
        most = getattr(self.perceptual.get(name), "most", None)
        if most is None:
            return values.mean()
        images_of_step, compared = noise.total, min(most, noise.total)
        images_of_micro_batch = len(range(images_of_step)[noise.rows])
        return values.sum() * images_of_step / (compared * images_of_micro_batch)

    def taught(self, batch: Batch, noise: StepNoise) -> Trajectory:
        """Return the flow's trajectory of a batch."""
        if self.flow.device != batch.x.device:
            self.flow.to(batch.x.device)
        return trajectory(self.flow, noised(self.flow, batch.x, noise), batch.y, batch.x)

    def predict(self, model: nn.Module, z: Tensor, y: Tensor | None, noise: StepNoise) -> BackwardOutput:
        """Return the model's states, with labels dropped, and blended if guidance is an input."""
        y = drop_labels(y, self.label_dropout, noise)
        most = model.config.max_guidance
        return model.blended(z, y, draw_guidance(noise, most, y)) if most else model(z, y)

    def perceptual_distances(self, x: Tensor, image: Tensor, noise: StepNoise) -> dict[str, Float[Tensor, " n"]]:
        """Return distances of pictures; of latents, distances of their decoded pictures."""
        rows = self._compared(x, noise)
        with torch.no_grad():
            target = _at(rows, self.decode(image[rows]), len(x))
        drawn = _at(rows, self.decode(x[rows]), len(x))
        return {name: self.perceptual[name](drawn, target, noise) for name in self.config.perceptual}

    def _compared(self, x: Tensor, noise: StepNoise) -> Int[Tensor, " n"]:
        """Return the rows of this micro-batch that any distance compares; the first row if there is none."""
        numbers = [self.perceptual[name].most for name in self.config.perceptual]
        if None in numbers:
            return torch.arange(len(x), device=x.device)
        rows: set[int] = set()
        for most in numbers:
            rows.update(some(noise, most))
        return torch.tensor(sorted(rows) or [0]).to(x.device, non_blocking=True)

    def distances(self, out: BackwardOutput, targets: tuple[Tensor, ...]) -> dict[str, Float[Tensor, " b"]]:
        """Return the squared errors of the states by name: "state-i" for x^i, "image" for the last one."""
        divisors = scales(targets, self.config.normalise, self.block_rms)
        return dict(zip(self.names, squared_errors(out.states, targets, divisors), strict=True))


def _at(rows: Int[Tensor, " n"], images: Float[Tensor, "n c h w"], total: int) -> Float[Tensor, "b c h w"]:
    """Put images into their rows of a batch, with zeros in all other rows."""
    return images.new_zeros(total, *images.shape[1:]).index_copy(0, rows, images)


def check_pair(flow: TarFlow, model: BackwardConfig) -> None:
    """Raise ValueError unless a model of this configuration can learn to invert the flow."""
    check_teacher(flow)
    both = {key: (getattr(flow.config, key), getattr(model, key)) for key in SAME}
    wrong = [f"{key} ({a} and {b})" for key, (a, b) in both.items() if a != b and (key != "num_classes" or b)]
    if wrong:
        raise ValueError(f"flow and backward model differ in {', '.join(wrong)}; both need the same")


@torch.no_grad()
def measure_rms(flow: TarFlow, batch: Batch, noise: StepNoise, denoiser: bool) -> Float[Tensor, " s"]:
    """Measure the root mean square of each state of the flow over a batch: the constants of normalise "block"."""
    taught = trajectory(flow, noised(flow, batch.x, noise), batch.y, batch.x)
    return rms(taught.targets(denoiser)).square().mean(1).sqrt()
