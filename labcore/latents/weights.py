"""Autoencoders on this machine: folders that diffusers wrote, found by name. A download happens only if it is requested."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from labcore import weight_files
from labcore.files import weights_folder
from labcore.jsonfile import read_json
from labcore.tensors import check_finite, check_formats, read_formats
from labcore.torchfile import check_records
from labcore.weight_files import in_hub_cache, not_here

KNOWN = {
    "sd-vae-ft-ema": "stabilityai/sd-vae-ft-ema",
    "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
    "taesd": "madebyollin/taesd",
}
"""Name -> repository on the hub. FlowBack and BiFlow use the first."""

STABLE_DIFFUSION: dict[str, Any] = dict(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    latent_channels=4,
)
"""Architecture of sd-vae-ft-ema and -mse: factor 8, and a decoder of 49.5 million parameters."""
CLASSES = ("AutoencoderKL", "AutoencoderTiny")
SHIPPED, SHIPPED_FOLDER = "fashion-vae", Path(__file__).parents[1] / "zoo" / "fashion-vae"
"""Name and folder of the autoencoder that ships with labcore, for 28x28 pictures of clothes (`labcore.zoo.autoencoder`)."""
RANDOM = "tiny-random"
"""Name of a small autoencoder of Stable Diffusion's kind with random weights, for smoke runs; its pictures are meaningless."""
MOST = (2**17, 256)
"""Largest allowed number in a configuration, and largest number of layers; both far above those of any autoencoder."""
CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def read_autoencoder(source: str, download: bool = False) -> tuple[str, nn.Module]:
    """Return name and network of the autoencoder that `source` names. Raises as `labcore.latents.load`."""
    if source == RANDOM:
        return RANDOM, _tiny_random()
    folder = find_autoencoder(source, download)
    kind = _class_in(folder)
    _check_file(folder, kind)
    import diffusers

    try:
        model, loading_info = getattr(diffusers, kind).from_pretrained(
            folder, local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False
        )
    except Exception as error:  # diffusers raises many kinds for damaged files
        raise ValueError(f"{folder} could not be read as an {kind} ({error}); copy it again") from error
    if wrong := [*loading_info["missing_keys"], *loading_info["unexpected_keys"], *loading_info["mismatched_keys"]]:
        raise ValueError(
            f"{folder} is incomplete: {len(wrong)} weights are missing or unexpected, such as {wrong[0]}; copy it again"
        )
    model = model.float()
    state = model.state_dict()
    check_finite(state, {name: x.dtype for name, x in state.items()}, folder, remedy="copy it again")
    return source if source in (*KNOWN, SHIPPED) else folder.name, model


def _check_file(folder: Path, kind: str) -> None:
    """Raise ValueError if the configuration needs more weights than the file has bytes, or if weights are not floating-point.

    No memory is allocated for this. diffusers checks the names, because it knows those of older versions.
    """
    import diffusers

    values, file = read_json(folder / CONFIG), next(folder / name for name in WEIGHTS if (folder / name).is_file())
    check_records(file)
    if too_large := [name for name, value in values.items() if _largest(value) > MOST[name == "layers_per_block"]]:
        raise ValueError(f"{folder / CONFIG} has sizes that no autoencoder has, first {too_large[0]}; copy it again")
    network = getattr(diffusers, kind)
    try:
        with torch.device("meta"):
            claimed = sum(p.numel() for p in network.from_config(dict(values)).parameters())
    except Exception as error:  # diffusers raises many kinds for damaged files
        raise ValueError(f"{folder / CONFIG} does not describe an {kind} ({error}); copy it again") from None
    if claimed > file.stat().st_size:
        raise ValueError(
            f"{folder / CONFIG} claims {claimed:,} weights, and {file.name} has {file.stat().st_size:,} bytes: another "
            "autoencoder's; copy both files again"
        )
    if file.suffix == ".safetensors":  # other files are read by diffusers, tensors alone
        check_formats(read_formats(file), file)


def _largest(value: Any) -> int | float:
    """Return the largest number in a value of the configuration; a list's length counts too."""
    if isinstance(value, list | tuple):
        return max([len(value), *map(_largest, value)])
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def untrained(source: str) -> nn.Module:
    """Return the network that `source` names, with random weights; its configuration is enough, weights are not read.

    The configuration of a `KNOWN` autoencoder need not be on this machine. Raises FileNotFoundError and ValueError as
    `read_autoencoder`.
    """
    import diffusers

    if source == RANDOM:
        return _tiny_random()
    try:
        folder = find_autoencoder(source)
    except FileNotFoundError:
        if source not in KNOWN:
            raise
        return diffusers.AutoencoderTiny() if source == "taesd" else diffusers.AutoencoderKL(**STABLE_DIFFUSION)
    kind = getattr(diffusers, _class_in(folder))
    return kind.from_config(kind.load_config(folder))


class Layout(NamedTuple):
    """Sizes of an autoencoder.

    Attributes:
        factor: pixels along the side of one latent position.
        channels: channels of the latents.
        image_channels: channels of the images.
    """

    factor: int
    channels: int
    image_channels: int


def layout(source: str) -> Layout:
    """Return the sizes of an autoencoder; weights are not read. Raises as `untrained`."""
    import torch

    with torch.device("meta"):
        c = untrained(source).config
    widths = getattr(c, "block_out_channels", None) or c.encoder_block_out_channels
    return Layout(2 ** (len(widths) - 1), c.latent_channels, c.in_channels)


def find_autoencoder(source: str, download: bool = False) -> Path:
    """Find the folder of an autoencoder: the given one, the one of its name in `weights_folder`, or that in the hub's cache.

    download: fetch a known one from the hub if it is not found; default False. Raises FileNotFoundError.
    """
    given = SHIPPED_FOLDER if source == SHIPPED else Path(source).expanduser()
    if given.is_dir():
        return given
    if source not in KNOWN:
        raise FileNotFoundError(
            f"no folder {source!r}, and no autoencoder of that name; known are pixels, {SHIPPED}, {', '.join(KNOWN)}, "
            f"{RANDOM}. Give one of them, or a folder that diffusers' save_pretrained wrote"
        )
    local_folder, repo = weights_folder() / source, KNOWN[source]
    if local_folder.is_dir():
        return local_folder
    config, weights = in_hub_cache(repo, [CONFIG]), in_hub_cache(repo, WEIGHTS)
    if config is not None and weights is not None:
        return config.parent
    files, put = f"https://huggingface.co/{repo} ({CONFIG} and {WEIGHTS[0]})", f"Put both into {local_folder}"
    if not download:
        raise not_here([source], files, put)
    return weight_files.download(source, repo, [CONFIG, WEIGHTS[0]], f"it is {files}. {put}")


def _tiny_random() -> nn.Module:
    """Build a network of 4 channels and factor 2; its weights are deterministic (fixed seed)."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
        )


def _class_in(folder: Path) -> str:
    try:
        kind = read_json(folder / CONFIG).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder} has no readable {CONFIG} ({error}); give a folder that diffusers' save_pretrained wrote"
        ) from None
    if kind not in CLASSES:
        raise ValueError(f"{folder} holds a {kind}; autoencoders that the lab knows are {', '.join(CLASSES)}")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ValueError(f"{folder} has no {' and no '.join(WEIGHTS)}; copy the weights beside its {CONFIG}")
    return kind
