"""Autoencoders on this machine: folders that diffusers wrote, found by name, never fetched unless asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from labcore.files import weights_folder
from labcore.jsonfile import read_json
from labcore.tensors import first_not_finite, read_formats
from labcore.torchfile import check_records

KNOWN = {
    "sd-vae-ft-ema": "stabilityai/sd-vae-ft-ema",
    "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
    "taesd": "madebyollin/taesd",
}
"""Names and their repositories on the hub. FlowBack and BiFlow use the first."""

STABLE_DIFFUSION: dict[str, Any] = dict(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    latent_channels=4,
)
"""The layout of sd-vae-ft-ema and -mse: latents at every eighth pixel, a decoder of 49.5 million parameters."""
CLASSES = ("AutoencoderKL", "AutoencoderTiny")
SHIPPED, SHIPPED_FOLDER = "fashion-vae", Path(__file__).parents[1] / "zoo" / "fashion-vae"
"""The autoencoder that comes with labcore, of 28x28 pictures of clothes (`labcore.zoo.autoencoder`)."""
RANDOM = "tiny-random"
"""A name for an autoencoder of Stable Diffusion's layout with few, random weights: for smoke runs, whose pictures say
nothing."""
MOST = (2**17, 256)
"""The largest number in a configuration, and the largest number of layers; far above those of any autoencoder."""
CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def read(source: str, download: bool = False) -> tuple[str, nn.Module]:
    """Name and network of the autoencoder that `source` names; errors as `labcore.latents.load`."""
    if source == RANDOM:
        return RANDOM, _tiny_random()
    folder = find(source, download)
    kind = _class_in(folder)
    _check_file(folder, kind)
    import diffusers

    try:
        model, loading_info = getattr(diffusers, kind).from_pretrained(
            folder, local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False
        )
    except Exception as error:  # whatever its readers meet in files of other people
        raise ValueError(f"{folder} could not be read as an {kind} ({error}); copy it again") from error
    if wrong := [*loading_info["missing_keys"], *loading_info["unexpected_keys"], *loading_info["mismatched_keys"]]:
        raise ValueError(
            f"{folder} is not whole: {len(wrong)} weights are missing or belong elsewhere, as {wrong[0]}; copy it again"
        )
    model = model.float()
    if bad := first_not_finite(model.state_dict()):
        raise ValueError(f"{folder} holds NaN or infinity, first in {bad}; copy it again")
    return source if source in (*KNOWN, SHIPPED) else folder.name, model


def _check_file(folder: Path, kind: str) -> None:
    """ValueError where the configuration claims more weights than the file has bytes, or weights are no floating numbers.

    Nothing of the claimed sizes is allocated. Names are left to diffusers, which knows those of older versions.
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
    except Exception as error:  # whatever it meets in files of other people
        raise ValueError(f"{folder / CONFIG} does not describe an {kind} ({error}); copy it again") from None
    if claimed > file.stat().st_size:
        raise ValueError(
            f"{folder / CONFIG} claims {claimed:,} weights, and {file.name} has {file.stat().st_size:,} bytes: another "
            "autoencoder's; copy both files again"
        )
    if file.suffix == ".safetensors":  # other files are read by diffusers, tensors alone
        formats = read_formats(file)
        if strange := [name for name, kind in formats.items() if kind not in ("F16", "BF16", "F32", "F64")]:
            raise ValueError(
                f"{file} holds {formats[strange[0]]} in {strange[0]}; weights are floating numbers of 16 to 64 bits"
            )


def _largest(value: Any) -> int | float:
    """The largest number in a value of the configuration, or length of a list in it."""
    if isinstance(value, list | tuple):
        return max([len(value), *map(_largest, value)])
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def untrained(source: str) -> nn.Module:
    """The network that `source` names with random weights: by its configuration where that is at hand, and else, for `KNOWN`
    ones, by the layout that all of them share. Raises FileNotFoundError and ValueError as `read`.
    """
    import diffusers

    if source == RANDOM:
        return _tiny_random()
    try:
        folder = find(source)
    except FileNotFoundError:
        if source not in KNOWN:
            raise
        return diffusers.AutoencoderTiny() if source == "taesd" else diffusers.AutoencoderKL(**STABLE_DIFFUSION)
    kind = getattr(diffusers, _class_in(folder))
    return kind.from_config(kind.load_config(folder))


class Layout(NamedTuple):
    """Sizes of an autoencoder: pixels along a side of one latent, channels of the latents and of the images."""

    factor: int
    channels: int
    image_channels: int


def layout(source: str) -> Layout:
    """The sizes of an autoencoder; no weights are read. Raises as `untrained`."""
    import torch

    with torch.device("meta"):
        c = untrained(source).config
    widths = getattr(c, "block_out_channels", None) or c.encoder_block_out_channels
    return Layout(2 ** (len(widths) - 1), c.latent_channels, c.in_channels)


def find(source: str, download: bool = False) -> Path:
    """The folder of an autoencoder: given, in `weights_folder` under its name, or in the hub's cache."""
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
    if (cached := _from_hub_cache(repo)) is not None:
        return cached
    if download:
        return _download(source, repo)
    raise FileNotFoundError(
        f"{source} is not on this machine. It is https://huggingface.co/{repo} ({CONFIG} and {WEIGHTS[0]}). Put both into "
        f"{local_folder} ($LABCORE_WEIGHTS names another folder than {local_folder.parent}), or pass the folder that holds them"
    )


def _tiny_random() -> nn.Module:
    """4 channels at every second pixel; its weights are a function of nothing."""
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


def _from_hub_cache(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found: list[Any] = [try_to_load_from_cache(repo, name) for name in (CONFIG, *WEIGHTS)]
    cached_files = [Path(path) for path in found if isinstance(path, str)]
    if len(cached_files) > 1 and cached_files[0].name == CONFIG:
        return cached_files[0].parent
    return None


def _download(source: str, repo: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=[CONFIG, WEIGHTS[0]]))
    except Exception as error:
        raise FileNotFoundError(
            f"the hub did not give {source} ({type(error).__name__}); put {CONFIG} and {WEIGHTS[0]} of "
            f"https://huggingface.co/{repo} into {weights_folder() / source}"
        ) from error
