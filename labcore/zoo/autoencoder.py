"""The autoencoder that ships: `python -m labcore.zoo.autoencoder RUN` trains it, measures it, and writes its card.

It is small, with Stable Diffusion's layout, for 28x28 pictures of clothes and 4 x 7 x 7 latents, so that all code for latents
runs on two processor cores. `labcore.latents.load("fashion-vae")` loads it.
"""

from __future__ import annotations

import argparse
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labcore import latents, provenance
from labcore.config import TrainConfig
from labcore.data import load
from labcore.data.transforms import to_float, to_model_input
from labcore.evaluate.autoencoding import keep
from labcore.latents.weights import SHIPPED, SHIPPED_FOLDER
from labcore.rng import seed_of
from labcore.train.loop import train
from labcore.train.reconstruction import Compressor, CompressorConfig, Reconstruction, ReconstructionConfig

MODEL, OBJECTIVE = CompressorConfig(), ReconstructionConfig()
TRAINING = TrainConfig(
    steps=3500,
    batch_size=64,
    lr=1e-3,
    warmup_steps=200,
    weight_decay=0.0,
    ema_decay=0.998,
    precision="bf16",
    eval_every=3500,
    save_every=500,
)
"""Training steps, nearly four passes over 60,000 images; our choice."""
SCALED_BY = 5000
"""Number of images whose latents determine the scale: to a standard deviation of 1, as for Stable Diffusion."""


def make(run: Path, data: str = "fashion-mnist") -> Path:
    """Train in `run`, or resume the training there; then store the averaged weights as float16 with their card."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(TRAINING.seed, "initialisation"))
        model = Compressor(MODEL)
    images = load(data, "train")
    found = train(
        model,
        Reconstruction(OBJECTIVE),
        images,
        TRAINING,
        run,
        partial(to_model_input, mirror=True),
        describe={"data": data, "objective": OBJECTIVE.model_dump(mode="json")},
    )
    if not found.finished:
        raise SystemExit(143)
    network = found.ema.network
    network.register_to_config(scaling_factor=scale_of(network, to_float(images.images[:SCALED_BY])))
    network.half().save_pretrained(SHIPPED_FOLDER)
    record = measure(data) | {"training": TRAINING.model_dump(mode="json"), "objective": OBJECTIVE.model_dump()}
    (SHIPPED_FOLDER / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    (SHIPPED_FOLDER / "README.md").write_text(card(record))
    return SHIPPED_FOLDER


@torch.no_grad()
def scale_of(network: Any, x: Tensor) -> float:
    """Return 1 / (standard deviation of the latents' means over images, places and channels), with four digits."""
    means = torch.cat([network.encode(part.to(network.device)).latent_dist.mean for part in x.split(100)])
    return float(f"{1 / float(means.std()):.4g}")


@torch.no_grad()
def measure(data: str) -> dict[str, Any]:
    """Measure the reconstructions of the test split by the stored weights."""
    codec, x = latents.load(SHIPPED), to_float(load(data, "test").images)
    reconstruction = keep(codec, x, 100)
    mean, deviation = reconstruction.raw.chunk(2, dim=1)
    return {
        "data": f"{data}/test",
        "n": len(x),
        "mse": float((reconstruction.back - x).square().mean()),
        "psnr_db": float(reconstruction.psnr.mean()),
        "latents": list(mean.shape[1:]),
        "scaling_factor": codec.network.config.scaling_factor,
        "deviation_of_means": float(mean.std()),
        "mean_posterior_deviation": float(deviation.mean()),
        "parameters": sum(p.numel() for p in codec.network.parameters()),
        "recipe": codec.recipe(),
        "measured_with": provenance.stamp(),
    }


def card(record: dict[str, Any]) -> str:
    """Return the autoencoder's card, with the numbers of `record`."""
    t, shape = record["training"], " x ".join(map(str, record["latents"]))
    share = 784 / math.prod(record["latents"])
    return f"""# {SHIPPED}

An autoencoder of {record["parameters"]:,} parameters, of Stable Diffusion's layout (diffusers' AutoencoderKL), for 28x28 grey
pictures of clothes: {shape} latents, {share:.0f} times fewer values than pixels.
`labcore.latents.load("{SHIPPED}")` loads it; a flow of latents uses it as its `codec`.

| on the {record["n"]:,} test images of {record["data"]} | |
|---|---|
| mean squared error of pixels in [-1, 1] | {record["mse"]:.4f} |
| peak signal-to-noise ratio, mean over images | {record["psnr_db"]:.2f} dB |
| standard deviation of the latents' means | {record["deviation_of_means"]:.3f} (scaling factor {record["scaling_factor"]}) |
| mean standard deviation of one image's raw latents | {record["mean_posterior_deviation"]:.4f} |

It was trained with squared errors and a weak divergence, so details that it loses are blurred. Stable Diffusion's
autoencoder was also trained with perceptual and adversarial losses, so it invents texture.

**Made by** `python -m labcore.zoo.autoencoder runs/{SHIPPED}`: {t["steps"]:,} steps of {t["batch_size"]} images of the
60,000 of Fashion-MNIST, mirrored with probability 1/2. The loss adds {record["objective"]["kl"]:g} times the divergence of
the latents in nats per pixel; seed {t["seed"]}. Weights are averaged and stored as float16.

**Data and licence.** Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747), MIT licence, Copyright 2017 Zalando SE.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    print(make(parser.parse_args().run))
