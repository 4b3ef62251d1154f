"""Judges that taught nobody: features of the shipped classifier, and measures of pixels alone."""

import math
import os

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from labcore import zoo
from labcore.data import ImageData, load, to_float
from labcore.encoders import SPECS, check_encoder_weights, find_encoder_weights
from labcore.encoders import load as load_encoder
from labcore.evaluate import pixels
from labcore.evaluate.extractors import NAMES, load_extractor
from labcore.evaluate.fidelity import fidelity, with_floor
from labcore.evaluate.pixel_reference import Data, pixel_reference_of
from labcore.evaluate.pixels import PixelReference, high_power, make_pixel_reference, pixel_measures, split_judge
from labcore.evaluate.statistics import make_reference
from labcore.evaluate.values import metric_values


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
    return tmp_path


def clothes(size: int = 16, split: str = "train", num: int = 240) -> ImageData:
    return load("fashion-mnist-12k", split, image_size=size, channels=1).subset(range(num))


def changed(images: ImageData, pixels) -> ImageData:
    return ImageData(pixels, images.labels, images.classes, "changed", "drawn")


# ---- the classifier as an encoder and as an extractor


@pytest.mark.parametrize("size", [28, 16])
def test_the_extractor_gives_the_shipped_classifiers_own_features(size):
    classifier, images = zoo.load_classifier(), clothes(size, num=8)
    x = to_float(images.images)
    with torch.no_grad():
        enlarged = F.interpolate(x, (28, 28), mode="bilinear", antialias=True)
        pooled, logits = classifier.layers(enlarged).mean((2, 3)), classifier(x)
        middle = classifier.layers[:4](enlarged)
    found = load_extractor("classifier")(images.images)
    torch.testing.assert_close(found["pool"], pooled, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found["logits"], logits, atol=1e-3, rtol=1e-3)
    spatial = middle[:, :7].permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(found["spatial"], spatial, atol=1e-3, rtol=1e-3)


def test_its_identity_says_resize_and_version():
    extractor = load_extractor("classifier")
    assert extractor.identity["extractor"] == "classifier" and extractor.suffix == "_classifier"
    assert extractor.identity["resize"] == "bilinear, antialiased, to 28" and "classifier" in NAMES
    assert extractor.identity["weights"] == load_encoder("fashion-classifier").weights_hash


def test_images_in_colour_are_refused():
    with pytest.raises(ValueError, match="images have 3 channels; extractor 'classifier' takes grey images only"):
        load_extractor("classifier")(torch.zeros(2, 3, 28, 28, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"with c 1, at least one"):
        load_encoder("fashion-classifier").tokens(torch.zeros(2, 3, 16, 16), 8)


def test_tokens_of_the_classifier_are_its_maps_at_that_size():
    encoder, classifier = load_encoder("fashion-classifier"), zoo.load_classifier()
    x = to_float(clothes(16, num=4).images)
    with torch.no_grad():
        large = F.interpolate(x, (32, 32), mode="bilinear", antialias=True)
        want = classifier.layers(large).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.tokens(x, 8), want, atol=1e-3, rtol=1e-3)
    assert encoder.tokens(x, 14, stage=32).shape == (4, 196, 32) and encoder.token_width(8) == 64


def test_random_weights_are_a_function_of_the_name():
    x = to_float(clothes(16, num=2).images)
    before = torch.get_rng_state()
    first, second = (load_encoder("random-lite0").tokens(x, 2) for _ in "12")
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(first, second)
    assert not torch.allclose(first, load_encoder("efficientnet-lite0").tokens(x, 2))
    tokens = F.normalize(first.flatten(0, 1), dim=1)
    assert float((tokens @ tokens.T).min()) < 0.95, "a teacher whose tokens are all alike is no control"
    check_encoder_weights(SPECS["random-lite0"])
    with pytest.raises(FileNotFoundError, match="random weights and no file"):
        find_encoder_weights(SPECS["random-lite0"])
    with pytest.raises(ValueError, match="weights was 'a file'; random-lite0 has random weights"):
        load_encoder("random-lite0", "a file")


def test_frechet_distance_of_the_classifier_against_numpy():
    extractor, real, drawn = load_extractor("classifier"), clothes(num=120), clothes(split="test", num=110)
    found = fidelity(drawn, make_reference(real, extractor), extractor, ["fid"], resamples=0).measures["fid_classifier"]
    a, b = (extractor(images.images)["pool"].double().numpy() for images in (drawn, real))
    ca, cb = np.cov(a.T), np.cov(b.T)
    cross = np.sqrt(np.linalg.eigvals(ca @ cb).astype(complex)).real.sum()
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross
    assert found.value == pytest.approx(want, rel=1e-3)


def test_real_images_against_themselves():
    extractor, real = load_extractor("classifier"), clothes(num=120)
    reference = with_floor(make_reference(real, extractor), clothes(split="test", num=110), extractor)
    turned = real.subset(torch.arange(119, -1, -1))
    metrics = ["fid", "precision", "recall"]
    one, other = (fidelity(images, reference, extractor, metrics, resamples=0) for images in (real, turned))
    value = {name: measure.value for name, measure in one.measures.items()}
    assert abs(value["fid_classifier"]) < 1e-3
    assert value["precision_classifier"] == value["recall_classifier"] == 1
    for name, measure in other.measures.items():
        assert measure.value == pytest.approx(value[name], abs=1e-3)
    assert one.measures["fid_classifier"].floor > 0.01


# ---- pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_power_against_numpy(channels):
    n = 12
    x = np.random.default_rng(0).normal(size=(5, channels, n, n))
    want = []
    for image in x:
        rings: dict[int, list[float]] = {}
        for c in range(channels):
            spectrum = abs(np.fft.fft2(image[c])) ** 2 / n**2
            for i in range(n):
                for j in range(n):
                    r = round(math.hypot(min(i, n - i), min(j, n - j)))
                    rings.setdefault(r, []).append(spectrum[i, j])
        want.append(np.mean([np.mean(rings[r]) for r in range(n // 4 + 1, n // 2 + 1)]))
    np.testing.assert_allclose(high_power(torch.tensor(x)).numpy(), want, rtol=1e-12)


def test_power_of_white_noise_is_its_variance_and_of_a_slow_wave_nothing():
    noise = 0.3 * torch.randn(400, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(high_power(noise).mean()) == pytest.approx(0.09, rel=0.02)
    wave = torch.cos(2 * math.pi * 3 * torch.arange(16, dtype=torch.float64) / 16).expand(1, 1, 16, 16)
    fast = torch.cos(2 * math.pi * 6 * torch.arange(16, dtype=torch.float64) / 16).expand(1, 1, 16, 16)
    assert float(high_power(wave)) < 1e-20 < 0.1 < float(high_power(fast))
    with pytest.raises(ValueError, match="images of 1 pixels have no frequencies above"):
        high_power(torch.zeros(1, 1, 1, 1))


def test_variance_against_numpy(monkeypatch):
    monkeypatch.setattr(pixels, "PART", 50)  # several parts
    real, drawn = clothes(), clothes(split="test", num=200)
    found = pixel_measures(drawn, make_pixel_reference(real), resamples=0).measures
    x = {name: images.images.double().numpy() / 127.5 - 1 for name, images in (("a", drawn), ("b", real))}
    y = {"a": drawn.labels.numpy(), "b": real.labels.numpy()}
    v = {name: [x[name][y[name] == k].var(0, ddof=1).mean() for k in range(10)] for name in "ab"}
    assert found["variance_pixels"].value == pytest.approx(np.mean(np.divide(v["a"], v["b"])), rel=1e-12)
    p = {name: float(high_power(torch.tensor(x[name])).mean()) for name in "ab"}
    assert found["power_pixels"].value == pytest.approx(math.log(p["a"] / p["b"]), rel=1e-12)


def test_a_references_variance_is_that_of_an_explicit_sum(monkeypatch):
    """In one pass; 0 exactly, and no rounding, for a class of images that are all alike."""
    monkeypatch.setattr(pixels, "PART", 50)
    g = torch.Generator().manual_seed(0)
    x = (200 + 3 * torch.randn(130, 3, 6, 6, generator=g)).round().to(torch.uint8)  # a small variance on a large mean
    labels = torch.arange(130) % 4
    labels[labels == 3] = 2
    labels[-1] = 3
    x[labels == 1] = x[1].clone()
    images = ImageData(x, labels, ("a", "b", "c", "d"), "some", "train")
    found = make_pixel_reference(images)
    want = [(x[labels == k].double() / 127.5).var(0).mean() for k in (0, 2)]
    assert found.variance[[0, 2]].tolist() == pytest.approx([float(v) for v in want], rel=1e-12)
    assert float(found.variance[1]) == 0 and math.isnan(float(found.variance[3]))
    assert found.power == pytest.approx(float(high_power(x.double() / 127.5 - 1).mean()), rel=1e-12)


def test_a_reference_reads_the_images_once(monkeypatch):
    real, read = clothes(), []
    get = ImageData.__getitems__
    monkeypatch.setattr(ImageData, "__getitems__", lambda self, rows: read.extend(rows) or get(self, rows))
    make_pixel_reference(real)
    assert sorted(read) == list(range(len(real)))


def test_pixels_of_real_images_in_any_order():
    real = clothes()
    reference = make_pixel_reference(real, clothes(split="test", num=200))
    turned = real.subset(torch.randperm(len(real), generator=torch.Generator().manual_seed(1)))
    for images in (real, turned):
        found = pixel_measures(images, reference).measures
        assert found["power_pixels"].value == pytest.approx(0, abs=1e-12)
        assert found["variance_pixels"].value == pytest.approx(1, abs=1e-12)
        assert found["power_pixels"].low < 0 < found["power_pixels"].high
        assert 0 < found["variance_pixels"].low < 1 < found["variance_pixels"].high
    assert abs(found["power_pixels"].floor) < 0.3 and 0.7 < found["variance_pixels"].floor < 1.3


def test_blurred_and_too_similar_images_are_seen():
    real = clothes()
    reference = make_pixel_reference(real)
    soft = F.avg_pool2d(real.images.double(), 3, 1, 1).round().to(torch.uint8)
    assert pixel_measures(changed(real, soft), reference).measures["power_pixels"].high < -0.5
    means = torch.stack([real.images[real.labels == k].double().mean(0) for k in range(10)])[real.labels]
    alike = (means + 0.5 * (real.images - means)).round().clamp(0, 255).to(torch.uint8)
    assert pixel_measures(changed(real, alike), reference).measures["variance_pixels"].value == pytest.approx(
        0.25, rel=0.02
    )


def test_the_interval_is_the_standard_error():
    """Of the mean power of independent images, whose logarithm has the standard deviation of power / mean / sqrt(n)."""
    g = torch.Generator().manual_seed(0)
    noise = (127.5 + 30 * torch.randn(400, 1, 8, 8, generator=g)).clamp(0, 255).to(torch.uint8)
    images = ImageData(noise, torch.arange(400) % 2, ("a", "b"), "noise", "train")
    power = high_power(noise.double() / 127.5 - 1)
    found = pixel_measures(images, make_pixel_reference(images), ["power"], resamples=200).measures["power_pixels"]
    want = 1.96 * float(power.std() / power.mean()) / math.sqrt(400)
    assert (found.high - found.low) / 2 == pytest.approx(want, rel=0.15)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((120,), -1), "some have no class"),
        (torch.tensor([3, *[1] * 119]), r"needs 2 images of each class drawn; classes 3 have 1 of 120"),
        (torch.full((120,), 10), "images of classes 0..9"),
    ],
)
def test_variance_needs_classes(labels, message):
    real = clothes()
    drawn = ImageData(real.images[:120], real.labels[:120], real.classes, "drawn", "drawn")
    object.__setattr__(drawn, "labels", labels)  # as drawn images may have them, and no data set
    with pytest.raises(ValueError, match=message):
        pixel_measures(drawn, make_pixel_reference(real))
    assert pixel_measures(drawn, make_pixel_reference(real), ["power"]).measures.keys() == {"power_pixels"}


def test_too_few_images_and_other_sizes_are_refused():
    reference = make_pixel_reference(clothes())
    with pytest.raises(ValueError, match="power_pixels needs at least 100 generated images, given 50"):
        pixel_measures(clothes(num=50), reference)
    with pytest.raises(ValueError, match="resamples was 1; give at least 10 for an interval"):
        pixel_measures(clothes(num=120), reference, ["power"], resamples=1)
    with pytest.raises(ValueError, match="images have image_size 28, and the real images 16"):
        pixel_measures(clothes(28), reference)
    flat = changed(clothes(num=120), torch.full((120, 1, 16, 16), 7, dtype=torch.uint8))
    with pytest.raises(ValueError, match="power_pixels of 120 images came out as -inf"):
        pixel_measures(flat, reference, ["power"])


def test_a_reference_is_kept_and_made_anew_where_damaged(root, monkeypatch):
    data = Data("fashion-mnist-12k", image_size=16, channels=1)
    first = pixel_reference_of(data)
    (file,) = (root / "statistics").glob("*-pixels-*.json")
    os.utime(file, (0, 0))
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "make_pixel_reference", lambda *_: pytest.fail("made again"))
        again = pixel_reference_of(data)
    assert file.stat().st_mtime > 0, "`lab cache prune` goes by the last use"
    assert again.about["made_with"]["torch"] == torch.__version__
    assert again.power == first.power and torch.equal(again.variance, first.variance) and again.about == first.about
    assert again.about["floor"]["values"].keys() == {"power", "variance"} and again.about["resize"] == "none"
    for damaged in ("{}", file.read_text().replace(str(first.power), str(2 * first.power))):
        file.write_text(damaged)
        with pytest.warns(UserWarning, match=r"-pixels-.*json is damaged .* made again now"):
            assert pixel_reference_of(data).power == first.power
    gaps = PixelReference(1.0, torch.tensor([1.0, math.nan], dtype=torch.float64), {})
    assert PixelReference.from_dict(gaps.as_dict()).variance.isnan().tolist() == [False, True]


def test_metric_values_of_several_judges(monkeypatch):
    monkeypatch.setattr(Data, "split", lambda self, which: clothes(split=which, num=150))
    data = Data("fashion-mnist-12k", image_size=16, channels=1)
    drawn = clothes(split="test", num=110)
    names = ["recall_classifier", "power_pixels", "fid_classifier", "variance_pixels"]
    found = metric_values(drawn, data, names, 0, "cpu")
    assert list(found) == names and found["variance_pixels"] == pytest.approx(1, abs=0.3)
    want = pixel_measures(drawn, pixel_reference_of(data), ["power"], resamples=0).measures["power_pixels"].value
    assert found["power_pixels"] == want
    assert split_judge("fid_classifier") == ("fid", "classifier") and split_judge("power_pixels") == ("power", "pixels")
    with pytest.raises(ValueError, match=r"metric 'fid_pixels' is unknown; the names are fid, .*variance_pixels"):
        split_judge("fid_pixels")
