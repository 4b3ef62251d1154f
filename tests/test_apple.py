"""ml-tarflow checkpoints in and out. Their layout is written down here from its published shapes; none of its code is."""

import re

import pytest
import torch
from conftest import perturbed
from typer.testing import CliRunner

from labcore import TarFlow
from labcore.cli.app import app


def apple_state(blocks=3, layers=2, width=64, token_dim=12, tokens=16, classes=5, scales=True, seed=0):
    """Random tensors with every key and shape that ml-tarflow's Model has."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"var": (tokens, token_dim)}
    for t in range(blocks):
        block = {
            "attn_mask": (tokens, tokens),
            "proj_in.weight": (width, token_dim),
            "proj_in.bias": (width,),
            "pos_embed": (tokens, width),
            "proj_out.weight": (token_dim * (1 + scales), width),
            "proj_out.bias": (token_dim * (1 + scales),),
        }
        if classes:
            block["class_embed"] = (classes, 1, width)
        for layer in range(layers):
            for name, (rows, columns) in {
                "attention.qkv": (3 * width, width),
                "attention.proj": (width, width),
                "mlp.main.0": (4 * width, width),
                "mlp.main.2": (width, 4 * width),
            }.items():
                block[f"attn_blocks.{layer}.{name}.weight"] = (rows, columns)
                block[f"attn_blocks.{layer}.{name}.bias"] = (rows,)
            for name in ("attention.norm", "mlp.norm"):
                block[f"attn_blocks.{layer}.{name}.weight"] = (width,)
                block[f"attn_blocks.{layer}.{name}.bias"] = (width,)
        shapes.update({f"blocks.{t}.{k}": v for k, v in block.items()})
    state = {k: 0.05 * torch.randn(v, generator=g) for k, v in shapes.items()}
    for k in state:
        if k.endswith("attn_mask"):
            state[k] = torch.ones(tokens, tokens).tril()
    state["var"] = torch.rand(tokens, token_dim, generator=g) + 0.5
    return state


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("scales", [True, False])
def test_every_key_goes_in_and_comes_back(classes, scales):
    state = apple_state(classes=classes, scales=scales)
    flow = TarFlow.from_apple(state, image_size=8, patch_size=2)
    c = flow.config
    assert (c.width, c.num_blocks, c.layers_per_block, c.num_classes, c.channels) == (64, 3, 2, classes, 3)
    assert c.volume_preserving is not scales
    back = flow.to_apple()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)
    copied = sum(v.numel() for k, v in state.items() if not k.endswith("attn_mask"))
    assert copied == sum(v.numel() for v in flow.state_dict().values())


def test_the_same_function_after_a_round_trip(images):
    flow = perturbed(dtype=torch.float32)
    again = TarFlow.from_apple(flow.to_apple(), 8, 2, head_dim=8)
    x, y = images(flow)
    assert torch.equal(again(x, y).z, flow(x, y).z)


def test_from_a_file_and_with_wrappers_prefixes(tmp_path):
    state = apple_state()
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "m.pth")
    flow = TarFlow.from_apple(tmp_path / "m.pth", 8, 2, noise_std=0.05)
    assert flow.config.noise_std == 0.05
    assert torch.equal(flow.to_apple()["blocks.0.pos_embed"], state["blocks.0.pos_embed"])


def test_wrong_sizes_say_what_the_file_has():
    state = apple_state()
    for sizes, message in (
        ((8, 4), "tokens have 12 values; sizes that fit: 2 \\(3 channels\\)"),
        ((16, 2), "file has 16 tokens, 4 x 4: images of 8 pixels"),
        ((8, 0), "patch_size was 0"),
    ):
        with pytest.raises(ValueError, match=message):
            TarFlow.from_apple(state, *sizes)
    with pytest.raises(ValueError, match="head_dim 48 does not divide"):
        TarFlow.from_apple(state, 8, 2, head_dim=48)


def test_damaged_checkpoints_are_refused(tmp_path):
    missing = apple_state()
    del missing["blocks.1.attn_blocks.0.mlp.norm.bias"]
    extra = apple_state() | {"blocks.0.rotary": torch.zeros(1)}
    holes = {k: v for k, v in apple_state().items() if not k.startswith("blocks.1.")}
    nan = apple_state()
    nan["blocks.0.proj_in.bias"][0] = float("nan")
    for state, message in (
        (missing, "1 missing, first blocks.1.layers.0.mlp_norm.bias"),
        (extra, "not a key of an ml-tarflow checkpoint"),
        (holes, "some are missing"),
        (nan, "NaN"),
        ({}, "non-empty"),
        ({"a": torch.zeros(2)}, "not an ml-tarflow checkpoint"),
    ):
        with pytest.raises(ValueError, match=message):
            TarFlow.from_apple(state, 8, 2)
    with pytest.raises(FileNotFoundError, match=r"none\.pth is not a file; give the \.pth that ml-tarflow"):
        TarFlow.from_apple(tmp_path / "none.pth", 8, 2)
    torch.save(apple_state(), tmp_path / "cut.pth")
    data = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged or not a file of weights"):
        TarFlow.from_apple(tmp_path / "cut.pth", 8, 2)
    import pickle

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match=r"damaged or not a file of weights|holds more than tensors"):
        TarFlow.from_apple(tmp_path / "evil.pth", 8, 2)


def test_options_that_the_format_cannot_hold():
    with pytest.raises(ValueError, match="positions='rope', mlp='swiglu', norm='rmsnorm'"):
        perturbed(positions="rope", mlp="swiglu", norm="rmsnorm").to_apple()


def test_images_that_are_not_square_are_refused():
    """16 tokens of 4 x 16 pixels would be read again as 8 x 8."""
    with pytest.raises(ValueError, match="ml-tarflow's format has square images only"):
        perturbed(image_size=(4, 16)).to_apple()


def imported(*words):
    return CliRunner().invoke(app, ["import", *map(str, words)])


def test_lab_import_reads_the_sizes_off_the_file_and_its_name(tmp_path):
    torch.save(apple_state(), tmp_path / "toy_model_2_64_3_2_0.07.pth")
    done = imported(tmp_path / "toy_model_2_64_3_2_0.07.pth", "--out", tmp_path / "flow")
    assert done.exit_code == 0, done.output
    assert "2-64-3-2 for 8 x 8 images of 3 channels, 5 classes, noise 0.07" in done.output
    flow = TarFlow.from_pretrained(tmp_path / "flow")
    assert (flow.config.image_size, flow.config.noise_std) == (8, 0.07)
    assert all(torch.equal(value, apple_state()[key]) for key, value in flow.to_apple().items())


def test_lab_import_takes_what_is_given_before_what_a_name_says(tmp_path):
    torch.save(apple_state(classes=0), tmp_path / "toy_model_2_64_3_2_0.07.pth")
    done = imported(tmp_path / "toy_model_2_64_3_2_0.07.pth", "--noise-std", "0", "--out", tmp_path / "flow")
    assert done.exit_code == 0 and "no classes, noise 0:" in done.output
    assert "--guidance" not in done.output


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        (
            "toy.pth",
            ["--noise-std", "0.05"],
            "patch_size cannot be inferred from an ml-tarflow checkpoint.*give --patch-size",
        ),
        (
            "toy.pth",
            ["--patch-size", "2"],
            "noise_std cannot be inferred from an ml-tarflow checkpoint.*give --noise-std",
        ),
        ("toy.pth", ["--patch-size", "5", "--noise-std", "0.05"], "patch_size was 5.*sizes that fit: 2"),
        ("nothing.pth", ["--patch-size", "2", "--noise-std", "0.05"], "is not a file; give the .pth that ml-tarflow"),
        ("other_2_128_9_3_0.07.pth", [], "names 128-9-3, and the file holds 64-3-2: .* Give --patch-size"),
    ],
)
def test_lab_import_refuses(name, words, says, tmp_path):
    for file in ("toy.pth", "other_2_128_9_3_0.07.pth"):
        torch.save(apple_state(), tmp_path / file)
    done = imported(tmp_path / name, *words, "--out", tmp_path / "flow")
    assert done.exit_code == 2 and re.search(says, " ".join(done.output.split()))
    assert not (tmp_path / "flow").exists()


def test_lab_import_overwrites_nothing(tmp_path):
    torch.save(apple_state(), tmp_path / "toy_2_64_3_2_0.05.pth")
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "mine").write_text("")
    done = imported(tmp_path / "toy_2_64_3_2_0.05.pth", "--out", tmp_path / "flow")
    assert done.exit_code == 2 and "give a new or empty folder" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("blocks.0.pos_embed", torch.tensor(1.0)),
        ("blocks.0.proj_in.weight", torch.ones(3)),
        (3, torch.ones(3)),
        ("var", torch.ones(16, 12).to_sparse()),
        ("var", torch.ones(16, 12, device="meta")),
    ],
)
def test_tensors_of_another_kind_are_refused(key, value, as_users_run):
    with pytest.raises(ValueError, match="ml-tarflow checkpoint"):
        TarFlow.from_apple({**apple_state(), key: value}, None, 2)


def test_wrappers_are_taken_off_in_any_order():
    state = {f"_orig_mod.module.{key}": value for key, value in apple_state().items()}
    assert TarFlow.from_apple(state, None, 2).config.width == 64
