"""diffusers' pipelines draw what the lab draws, and are whole after saving and loading without a network."""

import json
import sys

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from conftest import SMALL, perturbed
from PIL import Image
from test_latents import made

from labcore import BackwardConfig, BackwardModel, TarFlow, denoise, invert, zoo

LABELS = [1, 2, -1]


def of_flow(flow, **options):
    """A pipeline; diffusers is imported here, as it takes seconds in every process that collects tests."""
    from labcore.hub.pipelines import TarFlowPipeline

    return TarFlowPipeline.from_flow(flow, **options)


def of_inverse(model, **options):
    from labcore.hub.pipelines import BiFlowPipeline

    return BiFlowPipeline.from_inverse(model, **options)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def inverse(**changes) -> BackwardModel:
    torch.manual_seed(0)
    model = BackwardModel(BackwardConfig(**{**SMALL, "max_guidance": 2.0, **changes})).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


PIPELINES = {
    "flow": lambda **changes: of_flow(perturbed(dtype=torch.float32, **changes)),
    "inverse": lambda **changes: of_inverse(inverse(**changes)),
}
every_pipeline = pytest.mark.parametrize("name", PIPELINES)


def expected(pipeline, z, y, w):
    """What the lab itself makes of the same noise."""
    model = pipeline.model
    with torch.no_grad():
        x = denoise(model, invert(model, z, y, guidance=w).x, y) if isinstance(model, TarFlow) else model(z, y, w).x
    return (x / 2 + 0.5).clamp(0, 1)


@every_pipeline
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.slow
def test_it_draws_what_the_lab_draws(name, scale):
    pipeline = PIPELINES[name]()
    z = torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(4))
    images = pipeline(LABELS, scale, torch.Generator().manual_seed(4), output_type="pt").images
    torch.testing.assert_close(images, expected(pipeline, z, torch.tensor(LABELS), scale - 1))
    assert images.std() > 0.05


@every_pipeline
def test_an_image_is_a_function_of_its_generator(name):
    pipeline = PIPELINES[name]()
    two = pipeline([1, 2], generator=seeds(5, 6), output_type="pt").images
    one = pipeline([2], generator=seeds(6), output_type="pt").images
    torch.testing.assert_close(two[1:], one, atol=1e-6, rtol=0)
    assert (two[0] - two[1]).abs().max() > 0.01


@every_pipeline
def test_kinds_of_output(name):
    pipeline = PIPELINES[name]()
    pil, arrays = (pipeline(3, generator=seeds(1, 2), num_images=2, output_type=kind).images for kind in ("pil", "np"))
    assert isinstance(pil[0], Image.Image) and pil[0].size == (8, 8) and arrays.shape == (2, 8, 8, 3)
    assert np.abs(np.asarray(pil[1]) / 255 - arrays[1]).max() < 1 / 255
    (plain,) = pipeline(3, generator=seeds(1, 2), num_images=2, output_type="np", return_dict=False)
    assert np.array_equal(plain, arrays)
    assert len(pipeline(num_images=3, output_type="pil").images) == 3  # of no class


@every_pipeline
def test_saved_and_loaded_it_draws_the_same(name, tmp_path):
    pipeline, folder = PIPELINES[name](channels=4), tmp_path / "pipeline"
    held, cls = getattr(pipeline, pipeline.part), type(pipeline)
    import diffusers

    vae = diffusers.AutoencoderKL.from_pretrained(made("AutoencoderKL", tmp_path / "vae"))
    pipeline = cls(held, vae=vae, id2label={0: "boot", 1: "bag"})
    images = pipeline([0, 1], 1.5, seeds(1, 2), output_type="pt").images
    assert images.shape == (2, 3, 16, 16)
    pipeline.save_pretrained(folder)
    again = cls.from_pretrained(folder)
    assert torch.equal(again([0, 1], 1.5, seeds(1, 2), output_type="pt").images, images)
    assert again.get_label_ids(["bag", "boot"]) == [1, 0] and again.get_label_ids("bag") == [1]
    assert json.loads((folder / "model_index.json").read_text())["vae"] == ["diffusers", "AutoencoderKL"]
    own = type(pipeline.model).from_pretrained(folder / pipeline.part)  # the lab's own format
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), pipeline.model.parameters(), strict=True))


@every_pipeline
def test_a_damaged_folder_is_no_model_with_random_weights(name, tmp_path):
    pipeline = PIPELINES[name]()
    pipeline.save_pretrained(tmp_path)
    weights = tmp_path / pipeline.part / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        type(pipeline).from_pretrained(tmp_path)


@every_pipeline
def test_what_cannot_be_drawn_is_refused(name, tmp_path):
    import diffusers

    pipeline = PIPELINES[name]()
    for labels in ([5], [-2], []):
        with pytest.raises(ValueError, match=r"class_labels were .* allowed are 0 to 4, and -1 for none"):
            pipeline(labels)
    with pytest.raises(ValueError, match=r"guidance_scale was 0\.5; 1 is off"):
        pipeline([1], guidance_scale=0.5)
    with pytest.raises(ValueError, match="output_type was 'png'; allowed are pil, np, pt"):
        pipeline([1], output_type="png")
    with pytest.raises(ValueError, match="no class is named bag; there are no names"):
        pipeline.get_label_ids("bag")
    with pytest.raises(ValueError, match="1 generators for 2 images; give one an image"):
        pipeline([1, 2], generator=seeds(1))
    unconditional = PIPELINES[name](num_classes=0, **({"max_guidance": 0.0} if name == "inverse" else {}))
    with pytest.raises(ValueError, match="none: this model knows no classes"):
        unconditional([1])
    assert len(unconditional(num_images=2).images) == 2
    vae = diffusers.AutoencoderKL.from_pretrained(made("AutoencoderKL", tmp_path / "vae"))
    with pytest.raises(ValueError, match="latents of 4 channels, the model takes 3"):
        type(pipeline)(getattr(pipeline, pipeline.part), vae=vae)


def test_a_prior_of_another_variance_is_drawn_from():
    """A flow that preserves volume learns its prior's variance."""
    pipeline = of_flow(perturbed(dtype=torch.float32, volume_preserving=True))
    flow = pipeline.model
    flow.prior_var.copy_(torch.rand_like(flow.prior_var) + 0.5)
    z = torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(4)) * flow.prior_var.sqrt()
    images = pipeline(LABELS, 1.0, torch.Generator().manual_seed(4), output_type="pt").images
    torch.testing.assert_close(images, expected(pipeline, z, torch.tensor(LABELS), 0.0))


@every_pipeline
def test_in_half_precision_with_an_autoencoder(name, tmp_path):
    import diffusers

    vae = diffusers.AutoencoderKL.from_pretrained(made("AutoencoderKL", tmp_path / "vae"))
    whole = PIPELINES[name](channels=4)
    pipeline = type(whole)(getattr(whole, whole.part), vae=vae)
    exact = pipeline([0, 1], generator=seeds(1, 2), output_type="pt").images
    half = pipeline.to(torch.bfloat16)([0, 1], generator=seeds(1, 2), output_type="pt").images
    assert half.dtype == torch.float32 and half.shape == exact.shape
    assert 1e-4 < (half - exact).abs().max() < 0.2
    assert pipeline.vae.dtype == torch.bfloat16 and pipeline.model.dtype == torch.float32
    held = getattr(pipeline, pipeline.part)
    for asked in (held.half, held.bfloat16, lambda: held.to(torch.zeros(1, dtype=torch.bfloat16))):
        asked()
        assert pipeline.model.dtype == torch.float32 and held.asked != torch.float32
    assert held.float().asked == torch.float32
    with pytest.raises(ValueError, match="num_images was -1"):
        pipeline(num_images=-1)
    assert pipeline._codec() is pipeline._codec() and pipeline._codec().network is pipeline.vae


@every_pipeline
def test_a_pipeline_is_loaded_onto_a_device(name, tmp_path):
    pipeline = PIPELINES[name]()
    pipeline.save_pretrained(tmp_path)
    held = type(getattr(pipeline, pipeline.part))
    for place in ("meta", {"": "meta"}):  # a device that every machine has
        loaded = held.from_pretrained(tmp_path / pipeline.part, torch_dtype=torch.bfloat16, device_map=place)
        assert {p.device.type for p in loaded.model.parameters()} == {"meta"} and loaded.asked == torch.bfloat16
    again = type(pipeline).from_pretrained(tmp_path, device_map="cpu")
    assert again.model.device.type == "cpu"
    with pytest.raises(ValueError, match='device_map was "balanced"'):
        type(pipeline).from_pretrained(tmp_path, device_map="balanced")


@every_pipeline
def test_what_was_put_aside_comes_back_before_it_computes(name):
    """diffusers' `enable_model_cpu_offload` moves a model by a hook of its forward pass, which no pipeline here calls."""
    pipeline, woken = PIPELINES[name](), []

    class Hook(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            woken.append(module)
            return args, kwargs

    held = getattr(pipeline, name)
    add_hook_to_module(held, Hook())
    pipeline(LABELS)
    assert woken == [held]


@pytest.mark.parametrize("component", [["evil_module", "Flow"], ["pipelines.evil_module", "Flow"]])
def test_a_module_that_a_folder_names_is_not_imported(tmp_path, monkeypatch, component):
    """model_index.json comes with a download; diffusers below the floor in pyproject.toml imported what it names."""
    from labcore.hub.pipelines import TarFlowPipeline

    of_flow(perturbed(dtype=torch.float32)).save_pretrained(tmp_path / "m")
    (tmp_path / "evil_module.py").write_text("raise SystemExit('ran')")
    (tmp_path / "m" / "evil_module.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    index = tmp_path / "m" / "model_index.json"
    values = json.loads(index.read_text())
    index.write_text(json.dumps(values | {"flow": component}))
    with pytest.raises((ValueError, AttributeError, OSError)):
        TarFlowPipeline.from_pretrained(tmp_path / "m")
    assert "evil_module" not in sys.modules


def test_names_of_classes_may_be_a_list():
    names = ["a", "b", "c", "d", "e"]
    assert of_flow(perturbed(dtype=torch.float32), id2label=names).get_label_ids(["c", "a"]) == [2, 0]
    with pytest.raises(ValueError, match="gives two classes one name"):
        of_flow(perturbed(dtype=torch.float32), id2label=["a", "a", "c", "d", "e"])


@every_pipeline
def test_labels_of_every_kind_mean_the_same(name):
    pipeline = PIPELINES[name]()
    pipeline.register_to_config(id2label={str(k): f"class {k}" for k in range(5)})
    kinds = [[1, 2, 3], np.array([1, 2, 3]), torch.tensor([1, 2, 3]), ["class 1", "class 2", "class 3"]]
    drawn = [pipeline(y, 2.0, torch.Generator().manual_seed(1), output_type="pt").images for y in kinds]
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    ones = [
        pipeline(y, 2.0, seeds(1, 2), 2, output_type="pt").images for y in (3, np.int64(3), torch.tensor(3), "class 3")
    ]
    assert len(ones[0]) == 2 and all(torch.equal(ones[0], other) for other in ones[1:])


@every_pipeline
def test_labels_and_variants_that_mean_nothing_are_refused(name, tmp_path, as_users_run):
    pipeline = PIPELINES[name]()
    for labels in ([1.5], [True], torch.rand(2), [None]):
        with pytest.raises(ValueError, match="give whole numbers or names of classes"):
            pipeline(labels)
    with pytest.raises(ValueError, match="num_images was 4 for 2 class_labels"):
        pipeline([1, 2], num_images=4)
    with pytest.raises(ValueError, match="variant was 'fp16'; the lab's models have none"):
        pipeline.save_pretrained(tmp_path / "saved", variant="fp16")
    assert not (tmp_path / "saved").exists()
    pipeline.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="variant was 'fp16'"):
        type(pipeline).from_pretrained(tmp_path / "saved", variant="fp16")


def test_a_pipeline_of_a_shipped_model_by_its_name(tmp_path, as_users_run):
    by_name = of_flow("fashion-tarflow")
    assert torch.equal(by_name.model.blocks[0].token_in.weight, zoo.load("fashion-tarflow").blocks[0].token_in.weight)
    assert isinstance(of_inverse("fashion-biflow").model, BackwardModel)
    perturbed(dtype=torch.float32).save_pretrained(tmp_path / "mine")
    assert of_flow(tmp_path / "mine").model.config.width == 16
    with pytest.raises(ValueError, match="is a BackwardModel; this pipeline takes a TarFlow"):
        of_flow("fashion-biflow")
