"""Conversion of ml-tarflow checkpoints, in both directions.

Apple's published TARFlow code (github.com/apple/ml-tarflow) saves a bare state dict. Its shapes determine widths, depths
and class count. They do not determine patch size, noise and head_dim; the caller gives these, and they are checked
against the file. Every key is accounted for in both directions. Checkpoints of GS-Jacobi's authors have the same form,
with more information in their names (`settings_in_name`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labcore.config import TarFlowConfig
from labcore.flows.parts import choose_part, flatten
from labcore.tensors import check_architecture, load_strictly
from labcore.weight_files import read_weights

# ml-tarflow's name inside a block -> ours; {l} is the layer
BLOCK_NAMES = {
    "proj_in.weight": "token_in.weight",
    "proj_in.bias": "token_in.bias",
    "pos_embed": "position",
    "class_embed": "class_embedding.weight",
    "proj_out.weight": "params_out.weight",
    "proj_out.bias": "params_out.bias",
}
LAYER_NAMES = {
    "attention.norm": "attention_norm",
    "attention.qkv": "attention.qkv",
    "attention.proj": "attention.out",
    "mlp.norm": "mlp_norm",
    "mlp.main.0": "mlp.up",
    "mlp.main.2": "mlp.down",
}


def settings_in_name(file: str | Path) -> dict[str, int | float]:
    """Return patch_size, width, num_blocks, layers_per_block and noise_std if a file's name ends in these; else nothing.

    GS-Jacobi's authors use such names, as in afhq_model_8_768_8_8_0.07.pth.
    """
    match = re.search(r"_(\d+)_(\d+)_(\d+)_(\d+)_(\d*\.\d+)\.pth$", Path(file).name)
    if match is None:
        return {}
    names = "patch_size", "width", "num_blocks", "layers_per_block"
    return {**dict(zip(names, map(int, match.groups()[:4]), strict=True)), "noise_std": float(match[5])}


def our_name(key: str) -> str | None:
    """Return our name of an ml-tarflow key; None for the causal mask, which is no parameter; ValueError if unknown."""
    if key == "var":
        return "prior_var"
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", key):
        block, rest = match.groups()
        if rest == "attn_mask":
            return None
        if rest in BLOCK_NAMES:
            return f"blocks.{block}.{BLOCK_NAMES[rest]}"
        layer = re.fullmatch(r"attn_blocks\.(\d+)\.(.+)\.(weight|bias)", rest)
        if layer and layer[2] in LAYER_NAMES:
            return f"blocks.{block}.layers.{layer[1]}.{LAYER_NAMES[layer[2]]}.{layer[3]}"
    raise ValueError(f"{key!r} is not a key of an ml-tarflow checkpoint; give a state dict saved by its train.py")


@torch.inference_mode(False)  # weights that are made in inference mode can never be trained
def load_apple(
    cls,
    source,
    image_size: int | None,
    patch_size: int,
    head_dim: int = 64,
    noise_std: float | None = None,
    part: str | None = None,
):
    """Return a `cls` (TarFlow) with the weights of an ml-tarflow state dict or .pth file.

    image_size: None takes it from the number of tokens. head_dim is 64 in all of ml-tarflow's code. noise_std is not in
    the file: give the one of its training (0.05 for ImageNet 64, 0.15 for 128, 0.07 for AFHQ 256), because `sample`
    denoises by it. part: name of the state dict if the file holds several, such as "ema" and "model". Raises ValueError
    if the given sizes differ from those of the file, or if it is ambiguous which tensor is meant.
    """
    tensors = choose_part(flatten(_read(source)), part)
    _check_tensors(tensors)
    config = _config(tensors, image_size, patch_size, head_dim, noise_std)
    named = {ours: tensors[key] for key in tensors if (ours := our_name(key)) is not None}
    named = {k: v.squeeze(1) if k.endswith("class_embedding.weight") else v for k, v in named.items()}
    named.setdefault("prior_var", torch.ones(1, 1).expand(config.tokens, config.token_dim))  # older files have no `var`
    where = source if isinstance(source, str | Path) else "the state dict"
    shapes = {name: tuple(x.shape) for name, x in named.items()}
    check_architecture(lambda: cls(config), config.least_weights, shapes, where)
    flow = cls(config)
    load_strictly(flow, named, where)
    return flow.eval()


def to_apple(flow) -> dict[str, Tensor]:
    """Return the state dict that ml-tarflow's Model would have with these weights: every key, causal masks included.

    Raises ValueError for a model with options that ml-tarflow does not have.
    """
    c = flow.config
    beyond = [
        f"{name}={getattr(c, name)!r}"
        for name, published in dict(positions="learned", mlp="gelu", norm="layernorm", affine_clamp=None).items()
        if getattr(c, name) != published
    ]
    if len(set(c.rows_columns)) > 1:
        raise ValueError(f"the model has images of {c.image_size} pixels; ml-tarflow's format has square images only")
    if beyond or c.mlp_ratio != 4:
        raise ValueError(
            f"ml-tarflow has no {', '.join(beyond) or f'mlp_ratio={c.mlp_ratio}'}; its format cannot hold this model"
        )
    ours = {name: x.detach().cpu().contiguous() for name, x in flow.state_dict().items()}
    theirs = {"var": ours["prior_var"].clone()}
    for t in range(c.num_blocks):
        theirs[f"blocks.{t}.attn_mask"] = torch.ones(c.tokens, c.tokens).tril()
        for key in BLOCK_NAMES:
            if (name := our_name(f"blocks.{t}.{key}")) in ours:
                value = ours[name].clone()
                theirs[f"blocks.{t}.{key}"] = value[:, None] if key == "class_embed" else value
        for layer in range(c.layers_per_block):
            for key in LAYER_NAMES:
                for kind in ("weight", "bias"):
                    full = f"blocks.{t}.attn_blocks.{layer}.{key}.{kind}"
                    theirs[full] = ours[our_name(full)].clone()
    return theirs


def _read(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    return read_weights(source, "the .pth that ml-tarflow's train.py saved")


def _check_tensors(tensors: Mapping[str, Any]) -> None:
    """Raise ValueError unless these are dense tensors, each with memory for all the values that its shape requires."""
    for key, x in tensors.items():
        if not isinstance(x, Tensor) or x.layout != torch.strided or x.is_meta or x.is_quantized:
            raise ValueError(f"{key} is no dense tensor with values; an ml-tarflow checkpoint has nothing else in it")
        if x.untyped_storage().nbytes() < x.numel() * x.element_size():
            raise ValueError(
                f"{key} claims {tuple(x.shape)} values and has fewer in its memory: not an ml-tarflow checkpoint"
            )


def _config(
    t: dict[str, Tensor], image_size: int | None, patch_size: int, head_dim: int, noise_std: float | None
) -> TarFlowConfig:
    for key in ("blocks.0.proj_in.weight", "blocks.0.proj_out.weight", "blocks.0.pos_embed"):
        if key not in t:
            raise ValueError(f"no key {key!r}: not an ml-tarflow checkpoint")
        if t[key].ndim != 2:
            raise ValueError(f"{key} has shape {tuple(t[key].shape)}: not an ml-tarflow checkpoint")
    width, token_dim = t["blocks.0.proj_in.weight"].shape
    tokens = t["blocks.0.pos_embed"].shape[0]
    side = round(tokens**0.5)
    if patch_size < 1 or token_dim % patch_size**2 or token_dim // patch_size**2 not in (1, 3, 4):
        fits = [f"{p} ({token_dim // p**2} channels)" for p in range(1, 65) if token_dim / p**2 in (1, 3, 4)]
        raise ValueError(
            f"patch_size was {patch_size}, but the file's tokens have {token_dim} values; sizes that fit: {', '.join(fits)}"
        )
    image_size = side * patch_size if image_size is None else image_size
    if image_size != side * patch_size:
        raise ValueError(
            f"image_size was {image_size} at patch_size {patch_size}, but the file has {tokens} tokens, {side} x {side}: "
            f"images of {side * patch_size} pixels"
        )
    classes = t.get("blocks.0.class_embed")
    return TarFlowConfig(
        image_size=image_size,
        channels=token_dim // patch_size**2,
        patch_size=patch_size,
        width=width,
        num_blocks=_count(t, r"blocks\.(\d+)\."),
        layers_per_block=_count(t, r"blocks\.0\.attn_blocks\.(\d+)\."),
        head_dim=head_dim,
        num_classes=0 if classes is None else classes.shape[0],
        noise_std=noise_std,
        volume_preserving=t["blocks.0.proj_out.weight"].shape[0] == token_dim,
    )


def _count(t: dict[str, Tensor], pattern: str) -> int:
    numbers = {int(m[1]) for key in t if (m := re.match(pattern, key))}
    if numbers != set(range(len(numbers))):
        raise ValueError(f"the checkpoint's {pattern} are numbered {sorted(numbers)}: some are missing")
    return len(numbers)
