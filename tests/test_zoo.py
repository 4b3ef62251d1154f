"""What ships: it loads for ever, it is small, it is trained, and its card says what was measured."""

import json

import pytest
import torch
import yaml

from labcore import TarFlow, denoise, invert, sample, zoo
from labcore.config import RunConfig, StudentRunConfig
from labcore.data import load, to_float
from labcore.evaluate import bayes_accuracy, likelihood
from labcore.evaluate.classifier import recognised
from labcore.nn.pretrained import read_tensors
from labcore.provenance import weights_hash
from labcore.runs.own_data import data_of
from labcore.spread import spread
from labcore.tensors import read_metadata
from labcore.zoo import autoencoder, cards, classifier


@pytest.fixture(scope="module")
def shipped() -> TarFlow:
    return zoo.load("fashion-tarflow")


def record_of(name: str) -> dict:
    return json.loads((zoo.path(name) / "record.json").read_text())


@pytest.fixture(scope="module")
def pictures():
    data = load("fashion-mnist-12k", "test")
    return to_float(data.images[:8]).double(), data.labels[:8]


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_model_loads_and_is_small(name):
    model, folder = zoo.load(name), zoo.path(name)
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) <= 1_600_000
    assert (folder / "model.safetensors").stat().st_size <= 4e6
    assert {v.dtype for v in read_tensors(folder / "model.safetensors").values()} == {torch.float16}
    config = json.loads((folder / "config.json").read_text())
    assert (config["schema"], config["model"]) == (1, "BackwardModel" if name in zoo.INVERSES else "TarFlow")
    for part in ("README.md", "record.json", "spec.yaml", "samples.png"):
        assert (folder / part).is_file()


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_card_says_what_was_measured(name):
    folder = zoo.path(name)
    card, record = (folder / "README.md").read_text(), json.loads((folder / "record.json").read_text())
    evaluation = json.loads((folder / "evaluation.json").read_text())
    if name in zoo.INVERSES:
        learned, exact = (record["brought_back"][way] for way in ("learned", "exact"))
        assert f"| {learned['image_mse']:.4f} (the exact inverse, denoised: {exact['image_mse']:.4f}) |" in card
        assert f"| {learned['nats_per_dim']:.3f} (the exact inverse's: {exact['nats_per_dim']:.3f}) |" in card
    else:
        assert f"{record['likelihood']['nats_per_dim']:.4f} +-" in card
        assert f"{record['bayes_accuracy']['accuracy']:.1%} (95%" in card
    assert f"{record['parameters']:,} parameters" in card
    assert f"{record['steps']:,} steps" in card and record["trained_with"]["revision"] in card
    for scale, found in record.get("recognised", {}).items():
        shares = " | ".join(f"{share:.0%}" for share in found["by_class"])
        assert (
            f"| guidance {scale}: {found['accuracy']:.1%} ({found['low']:.1%} to {found['high']:.1%}) | {shares} |"
            in card
        )
    for metric, measure in evaluation["fidelity_efflite0"]["measures"].items():
        assert f"| `{metric}` of {measure['n']:,} samples, guidance 1 | {measure['value']:.4g} (" in card


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_card_is_what_its_generator_writes(name):
    folder = zoo.path(name)
    kind = StudentRunConfig if name in zoo.INVERSES else RunConfig
    config = kind.model_validate(yaml.safe_load((folder / "spec.yaml").read_text()))
    record, evaluation = (json.loads((folder / file).read_text()) for file in ("record.json", "evaluation.json"))
    assert cards.card(name, zoo.load(name), config, record, evaluation) == (folder / "README.md").read_text()


@pytest.mark.parametrize("module", (classifier, autoencoder))
def test_the_cards_of_judges_and_autoencoders_are_what_their_generators_write(module):
    folder = zoo.FOLDER / ("fashion-classifier" if module is classifier else "fashion-vae")
    assert module.card(json.loads((folder / "record.json").read_text())) == (folder / "README.md").read_text()


@pytest.mark.parametrize("name", zoo.INVERSES)
@pytest.mark.slow
def test_a_learned_inverse_inverts_its_flow(name):
    """Of test images that its flow encoded, it brings back what its record says; and it is taught by the flow that ships."""
    flow, back, record = zoo.load(zoo.INVERSES[name]), zoo.load(name), record_of(name)
    assert record["flow"] == weights_hash(flow)
    test = spread(data_of(name, back.config).split("test"), 200)  # the first ones may be of few classes
    x, y = to_float(test.images), test.labels
    with torch.no_grad():
        z = flow(x + flow.config.noise_std * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), y).z
        error, blank = float((back(z, y).x - x).square().mean()), float((x.mean(0) - x).square().mean())
    assert error == pytest.approx(record["brought_back"]["learned"]["image_mse"], rel=0.15)
    assert error < blank / 4


@pytest.mark.parametrize("name", [name for name in zoo.NAMES if "recognised" in record_of(name)])
@pytest.mark.slow
def test_guided_samples_are_recognised(name):
    """At least 80% of them, by the classifier that ships; a few are drawn again."""
    best = record_of(name)["recognised"]["2"]
    assert best["accuracy"] >= 0.8 and best["n"] >= 1000
    y = torch.arange(40) % 10
    found = recognised(zoo.load_classifier(), sample(zoo.load(name), 40, y, guidance=2.0, seed=1), y)
    assert found.low <= best["accuracy"] <= found.high


def test_the_classifier_is_a_judge():
    """At least 90% of test images; its card says what was measured, and the embedded test images agree."""
    folder, judge = zoo.path(zoo.CLASSIFIER), zoo.load_classifier()
    card, record = (folder / "README.md").read_text(), json.loads((folder / "record.json").read_text())
    assert min(record[key]["accuracy"] for key in ("accuracy", "at_16_pixels")) >= 0.9
    assert record["accuracy"]["n"] == 10_000
    assert f"{record['accuracy']['accuracy']:.1%} ({record['accuracy']['low']:.1%}" in card
    assert f"{record['at_16_pixels']['accuracy']:.1%} (" in card and f"{record['parameters']:,} parameters" in card
    assert record["weights"] == weights_hash(judge) and (folder / "model.safetensors").stat().st_size < 1e6
    test = load("fashion-mnist-12k", "test")
    found = recognised(judge, to_float(test.images), test.labels)
    assert found.low <= record["accuracy"]["accuracy"] <= found.high
    with pytest.raises(ValueError, match="no shipped model"):
        zoo.load("fashion")


@pytest.mark.slow
def test_the_record_is_reproduced(shipped):
    """On the embedded test images, which are a fifth of those that the record was measured on."""
    record = json.loads((zoo.path("fashion-tarflow") / "record.json").read_text())
    test = load("fashion-mnist-12k", "test")
    found = likelihood(shipped, test, limit=200)
    assert (
        abs(found.nats_per_dim - record["likelihood"]["nats_per_dim"]) < 4 * found.standard_error / shipped.config.dims
    )
    accuracy = bayes_accuracy(shipped, test, limit=100)
    assert accuracy.low <= record["bayes_accuracy"]["accuracy"] <= accuracy.high


def test_identities_hold_on_trained_weights(shipped, pictures):
    flow, (x, y) = zoo.load("fashion-tarflow").double(), pictures
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        out = flow(x, y)
    torch.testing.assert_close(invert(flow, out.z, y).x, x, atol=1e-10, rtol=0)
    assert (shipped(x.float(), y).z - out.z).abs().max() < 1e-3
    assert (invert(shipped, shipped(x.float(), y).z.detach(), y).x - x).abs().max() < 1e-4
    assert 0.8 < out.z.std() < 1.2
    # one block's log-determinant against autograd, on trained weights
    block, u = flow.blocks[3], out.latents[2][:1].detach()
    j = torch.autograd.functional.jacobian(lambda v: block(v.view_as(u), y[:1]).z.flatten(), u.flatten())
    torch.testing.assert_close(torch.linalg.slogdet(j).logabsdet, block(u, y[:1]).log_det[0], atol=1e-8, rtol=0)


def test_denoising_brings_noised_pictures_closer(shipped, pictures):
    x, y = pictures[0].float(), pictures[1]
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert (denoise(shipped, noisy, y) - x).square().mean() < 0.5 * (noisy - x).square().mean()


@pytest.mark.slow
def test_samples_look_like_their_class_to_the_flow_itself(shipped):
    from labcore.evaluate import bayes_classify

    y = torch.arange(20) % 10
    images = sample(shipped, 20, y, guidance=1.0, seed=0)
    assert (bayes_classify(shipped, images) == y).float().mean() > 0.5


def test_an_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match="fashion-tarflow"):
        zoo.load("fashion")


@pytest.mark.parametrize("name", [*zoo.NAMES, zoo.CLASSIFIER])
def test_shipped_weights_carry_a_checksum_and_their_configuration(name):
    assert {"sha256", "config"} <= read_metadata(zoo.path(name) / "model.safetensors").keys()
