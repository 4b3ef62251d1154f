"""Latents: the vocabulary of a codec, autoencoders read from folders, and latents of data sets on disk."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from labcore import latents
from labcore.data import load as load_data
from labcore.data.images import ImageData
from labcore.data.transforms import to_float
from labcore.finite import NotFinite
from labcore.latents import cached_raw, codec
from labcore.latents.weights import find_autoencoder

KL = dict(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16, layers_per_block=1)
BLOCKS = dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
TINY = dict(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1))


def made(kind: str, folder, **changes):
    """A folder with a tiny autoencoder of random weights, as diffusers writes it."""
    import diffusers

    torch.manual_seed(0)
    sizes = (
        {**KL, **BLOCKS} if kind == "AutoencoderKL" else {**TINY, "num_decoder_blocks": (1, 1), "latent_channels": 4}
    )
    getattr(diffusers, kind)(**{**sizes, **changes}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
    return latents.load(str(made("AutoencoderKL", tmp_path_factory.mktemp("kl") / "my-vae")))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return latents.load(str(made("AutoencoderTiny", tmp_path_factory.mktemp("tiny") / "my-tiny")))


@pytest.fixture(scope="module")
def images() -> ImageData:
    return load_data("fashion-mnist-12k", "test", image_size=16, channels=3).subset(range(40))


def test_pixels_are_their_own_latents(images):
    pixels, x = latents.load("pixels"), to_float(images.images)
    assert torch.equal(pixels.decode(pixels.final(pixels.raw(x), torch.randn_like(x))), x)
    assert (pixels.channels, pixels.factor, latents.load("pixels", channels=1).raw_channels) == (3, 1, 1)


def test_raw_latents_are_diffusers_mean_and_deviation(kl, images):
    x = to_float(images.images[:4])
    told = kl._model.encode(x).latent_dist
    raw = kl.raw(x)
    assert raw.shape == (4, kl.raw_channels, 8, 8) and kl.factor == 2
    assert torch.equal(raw, torch.cat([told.mean, told.std], 1)) and told.std.min() > 0
    assert not raw.requires_grad


def test_final_latents_are_drawn_and_scaled_as_diffusers_does(kl, images):
    raw, eps = kl.raw(to_float(images.images[:4])), torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    mean, deviation = raw.chunk(2, 1)
    assert kl._model.config.scaling_factor == 0.18215
    torch.testing.assert_close(kl.final(raw, eps), 0.18215 * (mean + deviation * eps))
    torch.testing.assert_close(kl.final(raw), 0.18215 * mean)
    assert (kl.final(raw, eps) - kl.final(raw)).abs().mean() > 1e-3
    assert kl.final(raw.half()).dtype == torch.float32


@pytest.mark.parametrize("which", ["kl", "tiny"])
def test_decoding_undoes_the_scale_and_not_the_decoder(which, images, request):
    used = request.getfixturevalue(which)
    raw = used.raw(to_float(images.images[:5]))
    z = raw[:, : used.channels]
    torch.testing.assert_close(
        used.decode(used.final(raw), chunk=2), used._model.decode(z).sample, atol=1e-5, rtol=1e-5
    )
    assert used.decode(used.final(raw)).shape == (5, 3, 16, 16)


def test_an_autoencoder_without_deviation_draws_nothing(tiny, images):
    raw = tiny.raw(to_float(images.images[:3]))
    assert tiny.raw_channels == tiny.channels == 4 and not tiny.draws
    assert torch.equal(tiny.final(raw, torch.randn(3, 4, 8, 8)), tiny.final(raw))


@pytest.mark.parametrize(
    ("given", "shift", "scale"),
    [
        (dict(shift_factor=0.5, scaling_factor=2.0), 0.5, [2.0] * 4),
        (dict(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[1.0, 2.0, 4.0, 8.0], scaling_factor=1.0), None, None),
    ],
)
def test_shift_and_scale_are_the_configurations(tmp_path, given, shift, scale, images):
    used = latents.load(str(made("AutoencoderKL", tmp_path / "v", **given)))
    raw = used.raw(to_float(images.images[:2]))
    shift = torch.tensor([shift] * 4 if shift else [1.0, 2.0, 3.0, 4.0]).view(4, 1, 1)
    scale = torch.tensor(scale or [1.0, 0.5, 0.25, 0.125]).view(4, 1, 1)
    torch.testing.assert_close(used.final(raw), (raw[:, :4] - shift) * scale)
    torch.testing.assert_close(
        used.decode(used.final(raw)), used._model.decode(raw[:, :4]).sample, atol=1e-5, rtol=1e-5
    )


def test_a_gradient_goes_through_the_decoder_and_into_no_weight(kl):
    z = torch.randn(2, 4, 8, 8, requires_grad=True)
    kl.decode(z).square().sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in kl._model.parameters())


def test_latents_of_a_data_set_are_encoded_once(kl, images, tmp_path):
    seen = []
    raw = cached_raw(kl, images, 16, root=tmp_path, dtype="float32", progress=lambda *said: seen.append(said))
    torch.testing.assert_close(raw, kl.raw(to_float(images.images)), atol=1e-5, rtol=1e-5)
    assert seen[-1][1:] == (40, 40)
    again = cached_raw(
        kl, images, 16, root=tmp_path, dtype="float32", progress=lambda *said: pytest.fail("encoded again")
    )
    assert torch.equal(again, raw)
    mirrored = cached_raw(kl, images, 16, flipped=True, root=tmp_path, dtype="float32")
    torch.testing.assert_close(mirrored, kl.raw(to_float(images.images).flip(-1)), atol=1e-5, rtol=1e-5)
    assert (mirrored - raw.flip(-1)).abs().max() > 1e-3  # which is why mirrored images have latents of their own
    assert len(list(tmp_path.iterdir())) == 2


def test_another_autoencoder_has_a_store_of_its_own(kl, images, tmp_path):
    cached_raw(kl, images, 16, root=tmp_path)
    other = latents.load(str(made("AutoencoderKL", tmp_path.with_name("o") / "my-vae", layers_per_block=2)))
    cached_raw(other, images, 16, root=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_does_not_fit_is_refused(kl, images, as_users_run):
    with pytest.raises(ValueError, match=r"takes \(b, 3, H, W\) with H and W multiples of 2"):
        kl.raw(torch.zeros(1, 3, 15, 16))
    with pytest.raises(ValueError, match="takes \\(b, 3, H, W\\)"):
        kl.raw(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="uint8; give floating ones"):
        kl.raw(images.images)
    with pytest.raises(ValueError, match="have 4 channels; those of my-vae have 8"):
        kl.final(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="have 8 channels; my-vae decodes 4"):
        kl.decode(torch.zeros(1, 8, 8, 8))
    codec.check_fits(kl, 16, (4, 8, 8))
    with pytest.raises(ValueError, match="makes 4 x 8 x 8 latents of 16 x 16 pixels; the model takes 3 x 8 x 8"):
        codec.check_fits(kl, 16, (3, 8, 8))
    with pytest.raises(ValueError, match="my-vae makes"):
        codec.check_fits(kl, 17, (4, 8, 8))


def test_an_autoencoder_that_is_not_here_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(FileNotFoundError, match=r"huggingface.co/stabilityai/sd-vae-ft-ema .*sd-vae-ft-ema \("):
        latents.load("sd-vae-ft-ema")
    with pytest.raises(FileNotFoundError, match="known are pixels, fashion-vae, sd-vae-ft-ema"):
        latents.load("sd-vae")
    made("AutoencoderKL", tmp_path / "sd-vae-ft-ema")
    assert latents.load("sd-vae-ft-ema").name == "sd-vae-ft-ema"
    assert find_autoencoder("sd-vae-ft-ema") == tmp_path / "sd-vae-ft-ema"


def test_folders_of_something_else_and_damaged_ones_are_refused(tmp_path):
    folder = made("AutoencoderKL", tmp_path / "vae")
    weights, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
    whole, values = weights.read_bytes(), json.loads(config.read_text())
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        latents.load(str(folder))
    weights.unlink()
    with pytest.raises(ValueError, match=r"has no diffusion_pytorch_model\.safetensors"):
        latents.load(str(folder))
    weights.write_bytes(whole)
    config.write_text(json.dumps({**values, "_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="holds a UNet2DModel; autoencoders that the lab knows are AutoencoderKL"):
        latents.load(str(folder))
    config.write_text(json.dumps({**values, "layers_per_block": 2}))
    with pytest.raises(ValueError, match="weights are missing or unexpected"):
        latents.load(str(folder))
    for sizes in (dict(block_out_channels=[10**12, 8]), dict(layers_per_block=10**9), dict(latent_channels=10**5)):
        config.write_text(json.dumps({**values, **sizes}))
        with pytest.raises(ValueError, match=r"sizes that no autoencoder has|claims .* weights, and .* bytes"):
            latents.load(str(folder))
    config.write_text(json.dumps(values))
    tensors = load_file(weights)
    name = "decoder.conv_in.bias"
    for value, message in (
        (torch.full_like(tensors[name], float("nan")), f"NaN or infinity in 1 tensors, first {name}"),
        (torch.full_like(tensors[name], 1e300, dtype=torch.float64), f"NaN or infinity in 1 tensors, first {name}"),
        (torch.ones_like(tensors[name], dtype=torch.int8), f"holds I8 in 1 tensors, first {name}"),
        (torch.ones(3), "could not be read as an AutoencoderKL"),
    ):
        save_file(tensors | {name: value}, weights, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            latents.load(str(folder))
    config.write_text("{")
    with pytest.raises(ValueError, match=r"no readable config\.json"):
        latents.load(str(folder))
    shutil.rmtree(folder)
    os.makedirs(folder)
    with pytest.raises(ValueError, match=r"no readable config\.json"):
        latents.load(str(folder))


def test_autoencoders_are_looked_at(kl):
    images = torch.zeros(3, 3, 32, 32)
    images[2] = float("nan")
    with pytest.raises(NotFinite, match=r"the encoder of .*: 1 of 3 .*first is image 2"):
        kl.raw(images)
    latents = kl.final(kl.raw(torch.zeros(3, 3, 32, 32)))
    latents[1] = float("nan")
    with pytest.raises(NotFinite, match=r"the decoder of .*: 1 of 3 .*first is image 1"):
        kl.decode(latents)
    assert not kl.decode(latents.requires_grad_()).isfinite().all()  # a training step
