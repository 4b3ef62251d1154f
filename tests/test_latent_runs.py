"""Flows of latents from images to images: what training sees, resumed runs, samples, measures, and a student."""

import shutil

import pytest
import torch
import yaml
from conftest import perturbed
from typer.testing import CliRunner

from labcore import latents, sample
from labcore.biflow.model import BackwardModel
from labcore.cli.app import app
from labcore.config import BackwardConfig, DataConfig, RunConfig, StudentConfig, TarFlowConfig
from labcore.data import load
from labcore.data.transforms import to_float
from labcore.encoders.perceptual import some
from labcore.evaluate import likelihood
from labcore.evaluate.generate import Sampling, generate
from labcore.flows.tarflow import TarFlow
from labcore.latents import LatentData, codec_of, pixel_shape, seen_by, square_pixels, to_pixels
from labcore.latents.weights import RANDOM
from labcore.rng import StepNoise
from labcore.runs.images import datasets
from labcore.runs.train import run_training
from labcore.spread import spread
from labcore.train.distillation import Distillation, check_pair
from labcore.types import Batch

pytestmark = pytest.mark.usefixtures("small_encoder")

LATENTS = dict(image_size=8, channels=4, patch_size=2, num_classes=10, codec=RANDOM)
SMALL = dict(width=32, head_dim=16, num_blocks=2, layers_per_block=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def images():
    return spread(load("fashion-mnist-12k", "train", image_size=16, channels=3), 40)


@pytest.fixture(scope="module")
def codec():
    return latents.load(RANDOM)


@pytest.fixture
def flow() -> TarFlow:
    return perturbed(dtype=torch.float32, **LATENTS, **SMALL, noise_std=0.2)


def run_config(**train) -> RunConfig:
    few = dict(steps=3, batch_size=8, log_every=1, eval_every=3, save_every=1, precision="fp32") | train
    data = dict(name="fashion-mnist-12k", image_size=16, channels=3, limit=40, flip=True)
    return RunConfig(model=dict(**LATENTS, **SMALL, noise_std=0.2), data=data, train=few)


def test_training_sees_drawn_latents_of_images_and_of_mirrored_ones(cache, codec, images):
    data = LatentData(codec, images, mirror=True)
    assert (len(data), data.channels, data.image_size, data.num_classes) == (40, 4, 8, 10)
    items, labels = data.__getitems__(list(range(40)))
    assert torch.equal(labels, images.labels) and items.shape == (40, 2, 8, 8, 8)
    noise = StepNoise(0, 0, 40, "cpu")
    x, mirrored = data.to_model_input(items, noise, mirror=True)
    assert 5 < int(mirrored.sum()) < 35
    pixels = to_float(images.images)
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    eps = noise.normal("latents", (4, 8, 8))
    torch.testing.assert_close(x, codec.final(codec.raw(pixels), eps), atol=2e-2, rtol=2e-2)  # float16 on disk
    again, _ = data.to_model_input(items, StepNoise(0, 1, 40, "cpu"), mirror=True)
    assert (again - x).abs().mean() > 1e-3
    torch.testing.assert_close(
        data.floats(items), codec.final(codec.raw(to_float(images.images))), atol=2e-2, rtol=2e-2
    )


def test_draws_do_not_depend_on_how_a_step_is_shared(cache, codec, images):
    data = LatentData(codec, images, mirror=True)
    items, _ = data.__getitems__(list(range(8)))
    noise = StepNoise(3, 5, 8, "cpu")
    whole, mirrored = data.to_model_input(items, noise, mirror=True)
    for rows in (slice(0, 4), slice(4, 8)):
        part, there = data.to_model_input(items[rows], noise.share(rows), mirror=True)
        assert torch.equal(part, whole[rows]) and torch.equal(there, mirrored[rows])


def test_a_model_sees_pictures_as_they_are_or_their_latents(cache, images):
    pixels, config = TarFlowConfig(image_size=16, patch_size=4, **SMALL), TarFlowConfig(**LATENTS, **SMALL)
    assert seen_by(pixels, images) is images and square_pixels(pixels) == dict(image_size=16, channels=3)
    seen = seen_by(config, images)
    assert isinstance(seen, LatentData) and seen.fingerprint() != images.fingerprint()
    assert pixel_shape(config) == (3, 16, 16) and square_pixels(config) == dict(image_size=16, channels=3)
    assert codec_of(config) is codec_of(config)


def test_what_does_not_fit_is_refused(cache, images, tmp_path, as_users_run):
    grey = load("fashion-mnist-12k", "test", image_size=16)
    with pytest.raises(ValueError, match="images have 1 channels; tiny-random takes 3: set data"):
        seen_by(TarFlowConfig(**LATENTS, **SMALL), grey)
    with pytest.raises(ValueError, match="makes 4 x 8 x 8 latents of 16 x 16 pixels; the model takes 4 x 16 x 16"):
        seen_by(TarFlowConfig(**{**LATENTS, "image_size": 16}, **SMALL), images)
    with pytest.raises(FileNotFoundError, match="no autoencoder of that name"):
        seen_by(TarFlowConfig(**{**LATENTS, "codec": "sd"}, **SMALL), images)
    computed = run_config().model_dump() | {"align": {"sites": [(1, 1)], "targets": "computed"}}
    with pytest.raises(ValueError, match="takes pixels: give 'cached'"):
        run_training(RunConfig(**computed), tmp_path / "unused")


def test_images_are_limited_evenly():
    data = load("fashion-mnist-12k", "train")
    assert torch.equal(spread(data, 4).labels, data.labels[[0, 2500, 5000, 7500]])
    assert spread(data, None) is data and spread(data, 10**6) is data
    config = run_config()
    assert DataConfig(**config.data.model_dump()).limit == 40


def test_a_run_on_latents_resumes_and_says_pictures(cache, tmp_path):
    run_training(run_config(), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for path in ("model", "checkpoints/step-00000003", "checkpoints/step-00000002"):
        shutil.rmtree(tmp_path / "parts" / path)
    run_training(run_config(), tmp_path / "parts")
    parts = TarFlow.from_pretrained(tmp_path / "parts" / "model")
    whole = TarFlow.from_pretrained(tmp_path / "whole" / "model")
    assert all(torch.equal(a, b) for a, b in zip(parts.parameters(), whole.parameters(), strict=True))
    assert whole.config.codec == RANDOM
    from PIL import Image

    sheet = Image.open(tmp_path / "whole" / "previews" / "step-00000003.png")
    width, height = sheet.size
    assert sheet.mode == "RGB" and width == 2 * (10 * 18 - 2)  # 16 pixels each, not 8
    assert height > 2 * (4 * 18 - 2)  # the names of the classes stand above
    train, test = datasets(run_config())
    assert (train.split, test.split, len(train), len(test)) == ("train", "test", 40, 40)
    assert likelihood(whole, test).n == 40


def test_a_run_may_choose_its_precision(cache, tmp_path):
    assert run_training(run_config(precision="auto", steps=1), tmp_path / "run", previews=False).finished


def test_samples_are_pictures(cache, flow, tmp_path):
    drawn = generate(flow, Sampling(num=6, chunk=3), tmp_path)
    assert drawn.images.shape == (6, 3, 16, 16)
    x = sample(flow, 6, torch.arange(6), seed=0)
    assert x.shape == (6, 4, 8, 8)
    assert (to_float(drawn.images) - to_pixels(flow, x).clamp(-1, 1)).abs().max() < 0.01 + 1 / 255


def test_a_pipeline_brings_the_models_own_autoencoder(flow):
    from labcore.hub.pipelines import TarFlowPipeline

    pipeline = TarFlowPipeline.from_flow(flow)
    image = pipeline([0], generator=[torch.Generator().manual_seed(0)]).images[0]
    assert image.mode == "RGB" and image.size == (16, 16)


def test_samples_know_what_decodes_them(cache, flow):
    told = Sampling(num=6).describe(flow)["decoded_by"]
    assert told == codec_of(flow.config).recipe()
    assert "decoded_by" not in Sampling(num=6).describe(perturbed(dtype=torch.float32))


def test_a_distance_of_few_images_decodes_no_more(codec, flow):
    decoded = []

    class Few:
        most = 2

        def __call__(self, ours, theirs, noise):
            rows = some(noise, 2)
            return (ours - theirs)[rows].square().mean((1, 2, 3))

    def decode(x):
        decoded.append(len(x))
        return codec.decode(x)

    config = StudentConfig(perceptual={"efflite0": 1.0})
    objective = Distillation(
        config, BackwardConfig(**LATENTS, **SMALL), flow, torch.ones(3), 0.1, {"efflite0": Few()}, decode
    )
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = StepNoise(0, 0, 6, "cpu")
    found = objective.perceptual_distances(x, torch.zeros_like(x), noise)["efflite0"]
    rows = some(noise, 2)
    whole = (codec.decode(x[rows]) - codec.decode(torch.zeros_like(x[rows]))).square().mean((1, 2, 3))
    torch.testing.assert_close(found, whole)
    assert decoded == [2, 2]


def test_the_command_line_draws_and_measures_them(cache, flow, tmp_path):
    from PIL import Image

    folder = str(flow.save_pretrained(tmp_path / "flow"))
    found = CliRunner().invoke(app, ["sample", folder, "--num", "2", "--out", str(tmp_path / "s")])
    assert found.exit_code == 0, found.output
    assert Image.open(tmp_path / "s" / "images" / "00000.png").size == (16, 16)
    found = CliRunner().invoke(
        app, ["evaluate", folder, "--data", "fashion-mnist-12k", "--metrics", "likelihood,classify", "--limit", "20"]
    )
    assert found.exit_code == 0 and "nats" in found.output, found.output
    found = CliRunner().invoke(
        app,
        [
            "probe",
            folder,
            "--data",
            "fashion-mnist-12k",
            "--sites",
            "1.1",
            "--limit",
            "30",
            "--out",
            str(tmp_path / "probe"),
        ],
    )
    assert found.exit_code == 0 and "block 1, layer 1" in found.output, found.output


def test_perceptual_distances_are_of_decoded_pictures(codec, flow):
    """Through the decoder with a gradient in our latents; both sides decoded, so equal latents are at distance 0."""
    seen = []

    class Distance:
        most = None

        def __call__(self, ours, theirs, noise):
            seen.append((ours, theirs))
            return (ours - theirs).square().mean((1, 2, 3))

    config = StudentConfig(perceptual={"lpips": 0.4}, adaptive_power=0.0)
    model = BackwardConfig(**LATENTS, **SMALL)
    objective = Distillation(config, model, flow, torch.ones(3), 0.1, {"lpips": Distance()}, codec.decode)
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    noise = StepNoise(0, 0, 4, "cpu")
    found = objective.perceptual_distances(x, x.detach(), noise)["lpips"]
    assert float(found.detach().abs().max()) == 0 and seen[0][0].shape == (4, 3, 16, 16)
    objective.perceptual_distances(x, torch.zeros_like(x), noise)["lpips"].sum().backward()
    assert x.grad.abs().sum() > 0 and not seen[1][1].requires_grad
    batch = Batch(x.detach(), torch.arange(4), torch.arange(4), torch.zeros(4, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16):
        loss, logs = objective(BackwardModel(model), batch, noise)
    assert seen[-1][0].dtype == seen[-1][1].dtype == torch.float32  # which resizing on a CPU needs
    assert bool(loss.isfinite()) and float(logs["distance/lpips"]) > 0


def test_a_decoder_gradient_is_the_same_chunk_by_chunk(codec):
    x = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    grads = []
    for chunk in (5, 2):
        (grad,) = torch.autograd.grad(codec.decode(x, chunk).square().sum(), x)
        grads.append(grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)
    plain = x.detach() / codec._scale + codec._shift
    plain = plain.requires_grad_()
    (direct,) = torch.autograd.grad(codec._model.decode(plain).sample.square().sum(), plain)
    torch.testing.assert_close(grads[0], direct / codec._scale, rtol=1e-4, atol=1e-4)


def test_flow_and_inverse_are_of_the_same_latents(flow):
    other = BackwardConfig(**{**LATENTS, "codec": "sd-vae-ft-ema"}, **SMALL)
    with pytest.raises(ValueError, match="differ in codec"):
        check_pair(flow, other)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, monkeypatch):
    """They share the encoding and the batch; sums in another order change weights in the last digits."""
    from labcore.train.launch import launch

    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_config().model_dump(mode="json")))
    for processes in (1, 2):
        words = ["train", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / str(processes))]
        assert launch("labcore.cli", [*words, "--no-previews"], processes) == 0
    one, two = (TarFlow.from_pretrained(tmp_path / name / "model") for name in "12")
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
