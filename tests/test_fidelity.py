"""Fidelity: the numbers are torch-fidelity's, carry how they were made, and refuse what would make them meaningless."""

import numpy as np
import pytest
import torch
from torch import nn

from labcore.data import ImageData
from labcore.data.picture_set import with_values
from labcore.evaluate import extractors, references
from labcore.evaluate import fidelity as module
from labcore.evaluate.extractors import Extractor, find_inception, load_extractor
from labcore.evaluate.fidelity import (
    METRICS,
    Frechet,
    check_enough,
    fidelity,
    inception_score,
    split_name,
    with_floor,
    with_interval,
)
from labcore.evaluate.statistics import (
    file_name,
    image_features,
    load_reference,
    make_reference,
    moments,
    save_reference,
)

WIDTHS = {"pool": 16, "spatial": 28, "logits": 10}


class Tiny(nn.Module):
    """A seeded random network with the outputs of an extractor."""

    def __init__(self, seed: int = 0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterDict(
            {layer: nn.Parameter(0.2 * torch.randn(3 * 64, width, generator=g)) for layer, width in WIDTHS.items()}
        )

    def forward(self, images):
        flat = images.float().flatten(1) / 255 - 0.5
        return tuple((flat @ self.weights[layer]).sin() for layer in WIDTHS)


def tiny(seed: int = 0, resize: str = "none") -> Extractor:
    return Extractor("tiny", Tiny(seed), WIDTHS, f"random-{seed}", resize)


def images(n: int, seed: int, spread: float = 40.0, name: str = "noise", channels: int = 3) -> ImageData:
    g = torch.Generator().manual_seed(seed)
    base = 128 + 60 * torch.sin(torch.arange(64.0)).view(1, 1, 8, 8)
    pixels = base + spread * torch.randn(n, channels, 8, 8, generator=g)
    return ImageData(pixels.clamp(0, 255).to(torch.uint8), torch.zeros(n, dtype=torch.int64), ("all",), name, "train")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
    return tmp_path


def test_values_are_torch_fidelitys_own(root):
    import torch_fidelity
    from torch_fidelity import FeatureExtractorBase, registry

    class Registered(FeatureExtractorBase):
        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list)
            self.net = Tiny()

        def forward(self, x):
            found = dict(zip(WIDTHS, self.net(x), strict=True))
            return tuple(found[feature] for feature in self.features_list)

        @staticmethod
        def get_provided_features_list():
            return tuple(WIDTHS)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "pool"

        @staticmethod
        def can_be_compiled():
            return False

        @staticmethod
        def get_dummy_input_for_compile():
            return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

    class Pixels(torch.utils.data.Dataset):
        def __init__(self, data):
            self.images = data.images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            return self.images[i]

    registry.FEATURE_EXTRACTORS_REGISTRY.pop("tiny", None)
    torch_fidelity.register_feature_extractor("tiny", Registered)
    ours, real = images(300, 1, 50.0, "drawn"), images(300, 2)
    extractor = tiny()
    reference = make_reference(real, extractor)
    found = fidelity(ours, reference, extractor, resamples=0).measures
    options = dict(input1=Pixels(ours), input2=Pixels(real), cuda=False, verbose=False, cache=False, batch_size=50)
    options |= dict(feature_extractor="tiny", save_cpu_ram=True, rng_seed=0, isc_splits=1)  # of up to 5,000 images
    theirs = torch_fidelity.calculate_metrics(isc=True, fid=True, prc=True, **options)
    spatial = torch_fidelity.calculate_metrics(fid=True, feature_layer_fid="spatial", **options)
    kid = torch_fidelity.calculate_metrics(kid=True, kid_subset_size=300, **options)
    assert found["fid_tiny"].value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert found["sfid_tiny"].value == pytest.approx(spatial["frechet_inception_distance"], rel=1e-4)
    assert found["is_tiny"].value == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert found["precision_tiny"].value == theirs["precision"] and found["recall_tiny"].value == theirs["recall"]
    assert found["kid_tiny"].value == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)
    assert found["precision_tiny"].value > 0 and found["fid_tiny"].value > 0.05


def test_a_set_against_itself_and_against_noise(root):
    extractor, real = tiny(), images(300, 2)
    reference = make_reference(real, extractor)
    same = fidelity(real, reference, extractor, resamples=0).measures
    assert abs(same["fid_tiny"].value) < 1e-3 and abs(same["sfid_tiny"].value) < 1e-3
    assert same["precision_tiny"].value == same["recall_tiny"].value == 1
    noised = [
        fidelity(images(300, 3, spread, "noised"), reference, extractor, ("fid", "sfid"), resamples=0).measures
        for spread in (40.0, 50.0, 70.0)
    ]
    for name in ("fid_tiny", "sfid_tiny"):
        values = [measures[name].value for measures in noised]
        assert values == sorted(values) and values[2] > 5 * values[0]


def test_the_quick_frechet_distance_is_the_exact_one():
    g = torch.Generator().manual_seed(0)
    one, two = (moments(torch.randn(200, 12, generator=g) @ torch.randn(12, 12, generator=g)) for _ in range(2))
    distance = Frechet(one)
    assert distance(two) == pytest.approx(distance.exact(two), rel=1e-9)
    # two Gaussians on a line: (m - m')^2 + (s - s')^2 in each dimension
    g = torch.Generator().manual_seed(1)
    wide = moments(torch.randn(100_000, 1, generator=g) * 3 + 2)
    narrow = moments(torch.randn(100_000, 1, generator=g))
    assert Frechet(narrow)(wide) == pytest.approx(4 + 4, rel=0.03)


def test_moments_are_numpys_whatever_the_parts(monkeypatch):
    import numpy as np

    rows = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) * 5 + 100
    monkeypatch.setattr("labcore.evaluate.statistics.MOMENT_ROWS", 64)
    found, index = moments(rows), torch.arange(0, 500, 3)
    torch.testing.assert_close(found.mean, rows.double().mean(0))
    torch.testing.assert_close(found.cov, torch.from_numpy(np.cov(rows.double().numpy(), rowvar=False)))
    part = moments(rows, index)
    torch.testing.assert_close(part.cov, torch.from_numpy(np.cov(rows[index].double().numpy(), rowvar=False)))
    assert part.n == len(index)


def test_the_interval_has_the_width_of_repeated_experiments():
    """Half-sample intervals of the Frechet distance against the true spread over independent draws."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=g)
    distance = Frechet(moments(torch.randn(4000, 8, generator=g) @ mix))
    draws = [torch.randn(400, 8, generator=g) @ mix * 1.2 for _ in range(100)]
    truth = torch.tensor([distance(moments(rows)) for rows in draws]).std()
    found = []
    for rows in draws[:10]:
        statistic = lambda half, _, rows=rows: distance(moments(rows) if half is None else moments(rows, half))  # noqa: E731
        value, low, high = with_interval(statistic, len(rows), 0, 40)
        assert low < value < high
        found.append((high - low) / (2 * 1.96))
    assert 0.75 * truth < sum(found) / len(found) < 1.35 * truth


def test_records_say_how_they_were_made(root):
    extractor = tiny()
    reference = with_floor(make_reference(images(300, 2), extractor), images(200, 3, name="held-out"), extractor)
    drawn = with_values(images(200, 1), made={"guidance": 1.5})
    record = fidelity(drawn, reference, extractor, ("fid", "kid"), resamples=10)
    plain = record.as_dict()
    assert set(plain["measures"]) == {"fid_tiny", "kid_tiny"}
    assert plain["images"] == {"guidance": 1.5} and plain["resamples"] == 10
    assert plain["reference"]["weights"] == "random-0" and plain["reference"]["resize"] == "none"
    assert plain["reference"]["floor_n"] == 200 and plain["reference"]["n"] == 300
    fid = record.measures["fid_tiny"]
    assert fid.low < fid.value < fid.high and fid.n == 200 and abs(fid.floor) < fid.value + 1
    assert {"revision", "torch", "timm", "torch-fidelity", "seed"} <= set(plain["made_with"])
    again = fidelity(drawn, reference, extractor, ("fid", "kid"), resamples=10)
    assert again.measures == record.measures
    assert "real images" in str(fid)


def test_features_are_computed_once(root):
    extractor, data = tiny(), images(100, 1)
    image_features(data, extractor)
    extractor.module.forward = lambda _: pytest.fail("computed again")
    image_features(data, extractor)
    with pytest.raises(pytest.fail.Exception):
        image_features(images(100, 2), extractor)


def test_grey_images_are_rgb_with_equal_channels():
    grey = images(4, 0, channels=1)
    one, two = tiny()(grey.images), tiny()(grey.images.repeat(1, 3, 1, 1))
    torch.testing.assert_close(one, two)


def test_statistics_come_back_and_keep_their_names(root, tmp_path):
    extractor, data = tiny(), images(120, 1)
    reference = with_floor(make_reference(data, extractor), images(100, 5), extractor)
    path = tmp_path / "deep" / file_name(data, extractor)
    assert "tiny" in path.name and "random-0" in path.name and data.fingerprint() in path.name
    save_reference(reference, path)
    back = load_reference(path)
    assert back.about == reference.about and back.about["floor"]["n"] == 100
    torch.testing.assert_close(back.pool.cov, reference.pool.cov, rtol=0, atol=0)
    torch.testing.assert_close(back.features, reference.features, rtol=0, atol=0)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("extractor", "what"),
    [(tiny(1), "weights 'random-0', and here it is 'random-1'"), (tiny(0, "bicubic"), "resize 'none', and here")],
)
def test_statistics_of_something_else_are_refused(root, extractor, what):
    reference = make_reference(images(120, 1), tiny())
    with pytest.raises(ValueError, match=what):
        fidelity(images(120, 2), reference, extractor, ("fid",))


def test_images_of_another_size_or_kind_are_refused(root):
    reference = make_reference(images(120, 1), tiny())
    larger = ImageData(torch.zeros(120, 3, 9, 9, dtype=torch.uint8), torch.zeros(120).long(), ("a",), "x", "train")
    with pytest.raises(ValueError, match="image_size 8, and here it is 9"):
        fidelity(larger, reference, tiny())
    with pytest.raises(ValueError, match="channels 3, and here it is 1"):
        fidelity(images(120, 1, channels=1), reference, tiny())


def test_files_that_are_no_statistics_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="lab stats"):
        load_reference(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("mu, sigma")
    save_file({"mu": torch.zeros(3)}, tmp_path / "other")
    for name in ("text", "other"):
        with pytest.raises(ValueError, match="lab stats"):
            load_reference(tmp_path / name)


DAMAGE = {
    "a missing array": (lambda tensors, about: tensors.pop("pool.cov"), "it holds .*, not features, pool.cov"),
    "another array": (lambda tensors, about: tensors.update(more=torch.zeros(1)), "it holds .*more"),
    "another shape": (
        lambda tensors, about: tensors.update({"spatial.cov": torch.zeros(3, 3).double()}),
        "not \\(28, 28\\)",
    ),
    "too few rows": (lambda tensors, about: tensors.update(features=tensors["features"][:9]), "not \\(120, 16\\)"),
    "another dtype": (
        lambda tensors, about: tensors.update({"pool.mean": torch.zeros(16)}),
        "float32, not torch.float64",
    ),
    "NaN": (lambda tensors, about: tensors["features"].__setitem__((3, 2), float("nan")), "features holds NaN"),
    "n in words": (lambda tensors, about: about.update(n="many"), "n is 'many', not of type int"),
    "no weights": (lambda tensors, about: about.pop("weights"), "weights is None, not of type str"),
    "one image": (lambda tensors, about: about.update(n=1), "n is 1"),
    "a floor of NaN": (
        lambda tensors, about: about.update(floor={"n": 9, "values": {"kid": float("nan")}}),
        "floor is",
    ),
    "another schema": (lambda tensors, about: about.update(schema=99), "schema 99, and this version reads 2"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_statistics_are_refused_by_name(case, root, tmp_path):
    import json

    from safetensors.torch import load_file, save_file

    reference, path = make_reference(images(120, 1), tiny()), tmp_path / "some.safetensors"
    save_reference(reference, path)
    tensors, about = load_file(path), dict(reference.about)
    harm, what = DAMAGE[case]
    harm(tensors, about)
    save_file(tensors, path, metadata={"labcore": json.dumps(about)})
    with pytest.raises(ValueError, match=rf"some\.safetensors .*{what}.*lab stats"):
        load_reference(path)
    save_file(tensors, path, metadata={"labcore": "{"})
    with pytest.raises(ValueError, match=r"some\.safetensors .*lab stats"):
        load_reference(path)


def test_statistics_of_other_widths_are_refused(root):
    extractor = tiny()
    reference = make_reference(images(120, 1), extractor)
    extractor.widths = {**WIDTHS, "spatial": 27}
    with pytest.raises(ValueError, match="have 28 spatial features, and tiny has 27"):
        reference.check(extractor)


def test_a_metric_that_is_not_finite_is_an_error(root, monkeypatch):
    reference = make_reference(images(120, 1), tiny())
    nan = {"kid": lambda *_: lambda half, seed: float("nan")}
    monkeypatch.setattr(module, "_FUNCTIONS", {**module._FUNCTIONS, **nan})
    with pytest.raises(ValueError, match="kid_tiny of 120 images came out as nan"):
        fidelity(images(120, 2), reference, tiny(), ("kid",), resamples=0)
    uncertain = {"kid": lambda *_: lambda half, seed: 1.0 if half is None else float("inf")}
    monkeypatch.setattr(module, "_FUNCTIONS", {**module._FUNCTIONS, **uncertain})
    with pytest.raises(ValueError, match="kid_tiny"):
        fidelity(images(120, 2), reference, tiny(), ("kid",), resamples=10)


def test_intervals_end_where_values_do(root, monkeypatch):
    """A share near 1 whose halves scatter has an interval up to 1; so has every metric that is bounded, and KID has none."""
    reference = make_reference(images(120, 1), tiny())
    near = {
        "precision": (0.99, 0.95, 1.0),
        "recall": (0.01, 0.0, 0.05),
        "fid": (0.1, 0.0, 0.9),
        "kid": (0.0, -0.1, 0.1),
    }

    def scattered(value, *halves):
        turns = iter(halves * 5)
        return lambda *_: lambda half, seed: value if half is None else next(turns)

    monkeypatch.setattr(module, "_FUNCTIONS", {name: scattered(*values) for name, values in near.items()})
    found = fidelity(images(120, 2), reference, tiny(), tuple(near), resamples=10).measures
    assert found["precision_tiny"].high == 1 and 0 < found["precision_tiny"].low < 0.99
    assert found["recall_tiny"].low == 0 == found["fid_tiny"].low and found["kid_tiny"].low < 0


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_numpy_refuses_are_refused_at_once(root, seed):
    reference = make_reference(images(120, 1), tiny())
    with pytest.raises(ValueError, match=r"allowed are 0\.\.4294967295"):
        fidelity(images(120, 2), reference, tiny(), ("kid",), seed=seed)


def test_reference_images_that_say_nothing_are_refused(root):
    flat = ImageData(torch.full((120, 3, 8, 8), 9).to(torch.uint8), torch.zeros(120).long(), ("a",), "flat", "train")
    with pytest.raises(ValueError, match=r"all 120 images are the same .* statistics of flat"):
        make_reference(flat, tiny())
    with pytest.raises(ValueError, match=r"noise \(train\) has 1 images, .* at least 2; fid and sfid need 17 and 29"):
        make_reference(images(1, 0), tiny())
    assert module.refused(tiny(), 50) == ["kid_tiny", "is_tiny", "precision_tiny", "recall_tiny"]
    assert module.refused(tiny(), 100) == []


def test_too_few_images_are_refused(root, as_users_run):
    extractor = tiny()
    reference = make_reference(images(120, 1), extractor)
    with pytest.raises(ValueError, match=r"sfid_tiny needs at least 29 generated images, given 20: 28 features"):
        fidelity(images(20, 2), reference, extractor, ("sfid",))
    with pytest.raises(ValueError, match=r"kid_tiny needs at least 100 generated images, given 99"):
        fidelity(images(99, 2), reference, extractor, ("kid",))
    few = make_reference(images(20, 1), extractor)
    with pytest.raises(ValueError, match="needs at least 29 reference images, given 20"):
        fidelity(images(120, 2), few, extractor, ("sfid",))
    check_enough(METRICS, extractor, 100, "generated")


def test_constant_and_non_finite_images_are_refused(root, as_users_run):
    extractor = tiny()
    reference = make_reference(images(120, 1), extractor)
    flat = ImageData(torch.full((120, 3, 8, 8), 9).to(torch.uint8), torch.zeros(120).long(), ("a",), "flat", "train")
    with pytest.raises(ValueError, match="all 120 images are the same"):
        fidelity(flat, reference, extractor)
    with pytest.raises(ValueError, match=r"dtype torch\.float32"):
        extractor(torch.rand(2, 3, 8, 8))
    with torch.no_grad():
        extractor.module.weights["pool"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        image_features(images(120, 9), extractor)


@pytest.mark.parametrize("bad", [("fidd",), (), ("fid", "fid_efflite0")])
def test_unknown_metrics_are_refused(root, bad):
    reference = make_reference(images(120, 1), tiny())
    with pytest.raises(ValueError, match="give some of fid, sfid"):
        fidelity(images(120, 2), reference, tiny(), bad)


def test_names_of_metrics():
    assert split_name("fid") == ("fid", "inception")
    assert split_name("sfid_efflite0") == ("sfid", "efflite0")
    with pytest.raises(ValueError, match="the names are fid, sfid"):
        split_name("fid_vgg")
    with pytest.raises(ValueError, match="the names are inception, efflite0"):
        load_extractor("vgg")


def test_the_embedded_extractor(root):
    """Registered with torch-fidelity, equal to the encoder, and of the stated widths."""
    from torch_fidelity.utils import create_feature_extractor

    from labcore import encoders

    extractor = load_extractor("efflite0")
    pixels = images(3, 0, channels=1).images
    found = extractor(pixels)
    assert {layer: tuple(values.shape) for layer, values in found.items()} == {
        layer: (3, width) for layer, width in extractor.widths.items()
    }
    assert (extractor.suffix, extractor.identity["extractor"]) == ("_efflite0", "efflite0")
    encoder = encoders.load("efficientnet-lite0")
    torch.testing.assert_close(found["pool"], encoder.pooled(pixels.float() / 127.5 - 1))
    maps = encoder.outputs(pixels.float() / 127.5 - 1).maps[112][:, :7]
    np.testing.assert_allclose(found["spatial"].numpy(), as_adm_flattens(maps), rtol=1e-4, atol=1e-5)
    theirs = create_feature_extractor("efflite0", ["spatial"], cuda=False, verbose=False)
    torch.testing.assert_close(theirs(pixels.expand(-1, 3, -1, -1))[0], found["spatial"])
    assert len(extractor.identity["weights"]) == 16


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """torch-fidelity's Inception with random weights, as a file."""
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    net = inception.FeatureExtractorInceptionV3.__new__(inception.FeatureExtractorInceptionV3)
    original, inception.load_state_dict_from_url = inception.load_state_dict_from_url, lambda *_, **__: {}
    torch.manual_seed(0)
    try:
        with pytest.raises(RuntimeError):  # it wants weights, and is otherwise built
            net.__init__("x", ["2048"])
    finally:
        inception.load_state_dict_from_url = original
    path = tmp_path_factory.mktemp("inception") / extractors.INCEPTION_FILE
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_gives_adms_spatial_features(inception_file, monkeypatch):
    monkeypatch.setattr(extractors, "INCEPTION_HASH", "")
    extractor = load_extractor("inception", inception_file)
    pixels = images(2, 0).images
    found = extractor(pixels)
    assert {layer: values.shape[1] for layer, values in found.items()} == extractor.widths
    assert extractor.suffix == "" and extractor.widths["spatial"] == 2023
    # the same node by hand: the 1x1 branch of Mixed_6d, from the features before it
    caught = {}
    extractor.module.Mixed_6d.register_forward_pre_hook(lambda _, inputs: caught.update(x=inputs[0]))
    extractor(pixels)
    branch = extractor.module.Mixed_6d.branch1x1
    by_hand = torch.relu(branch.bn(branch.conv(caught["x"])))[:, :7]
    assert by_hand.shape == (2, 7, 17, 17)
    np.testing.assert_allclose(found["spatial"].numpy(), as_adm_flattens(by_hand), rtol=1e-5, atol=1e-6)


def as_adm_flattens(maps):
    """guided-diffusion's evaluations/evaluator.py: TensorFlow's array (n, h, w, c), reshaped to (n, h * w * c)."""
    nhwc = np.ascontiguousarray(maps.numpy().transpose(0, 2, 3, 1))
    return nhwc.reshape([len(nhwc), -1])


def test_the_wrong_inception_is_refused(inception_file, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"sha256 begins with .*, not 6726825d"):
        find_inception(inception_file)
    monkeypatch.setattr(extractors, "INCEPTION_HASH", "")
    unsafe = tmp_path / "unsafe.pth"
    torch.save({"x": pytest.raises}, unsafe)
    with pytest.raises(ValueError, match=r"unsafe\.pth"):
        find_inception(unsafe)


def test_a_missing_inception_says_what_to_do(root, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(FileNotFoundError, match=r"weights-inception-2015-12-05-6726825d.pth"):
        load_extractor("inception")


def as_adm_scores(logits, split_size=5000):
    """guided-diffusion's evaluations/evaluator.py, compute_inception_score, on softmax values."""
    preds = np.exp(logits - logits.max(1, keepdims=True))
    preds /= preds.sum(1, keepdims=True)
    scores = []
    for i in range(0, len(preds), split_size):
        part = preds[i : i + split_size]
        kl = part * (np.log(part) - np.log(np.mean(part, 0, keepdims=True)))
        scores.append(np.exp(np.mean(np.sum(kl, 1))))
    return np.mean(scores)


def test_the_inception_score_has_adms_splits(root):
    logits = 3 * torch.randn(1100, 10, generator=torch.Generator().manual_seed(0))
    for split in (5000, 1100, 500, 300):
        assert inception_score(logits, split) == pytest.approx(as_adm_scores(logits.double().numpy(), split), rel=1e-9)
    extractor, ours = tiny(), images(300, 1)
    record = fidelity(ours, make_reference(images(300, 2), extractor), extractor, ("is",), resamples=0)
    found = image_features(ours, extractor)["logits"].double().numpy()
    assert record.measures["is_tiny"].value == pytest.approx(as_adm_scores(found), rel=1e-6)
    assert record.as_dict()["is_split"] == 5000


def test_splits_are_of_images_in_any_order(root, monkeypatch):
    """A data set sorted by class has the score of a shuffled one, also where there are several splits."""
    monkeypatch.setattr(module, "IS_SPLIT", 100)
    classes = torch.arange(10).repeat_interleave(40)  # 400 images, 40 of each class, sorted
    ours, extractor = images(400, 1), tiny()
    ours.images[:, 0, 0, 0] = classes.to(torch.uint8)
    one_hot = lambda x: 8 * nn.functional.one_hot(x[:, 0, 0, 0].long() % 10, 10).float()  # noqa: E731
    monkeypatch.setattr(extractor.module, "forward", lambda x: (*Tiny()(x)[:2], one_hot(x)))
    reference = make_reference(images(300, 2), extractor)
    found = fidelity(ours, reference, extractor, ("is",), resamples=0).measures["is_tiny"].value
    assert as_adm_scores(8.0 * np.eye(10)[classes], 100) < 4 and found > 8


@pytest.mark.parametrize("version", [None, 1, 3])
def test_statistics_of_features_of_another_version_are_refused(version, root, tmp_path):
    reference, path = make_reference(images(120, 1), tiny()), tmp_path / "old.safetensors"
    reference.about["feature_version"] = version
    if version is None:  # as files were written before there were versions
        del reference.about["feature_version"]
    save_reference(reference, path)
    with pytest.raises(ValueError, match=rf"features are of version {version or 1}, and this labcore makes version 2"):
        load_reference(path)
    with pytest.raises(ValueError, match=r"feature_version .*, and here it is 2; make statistics .* `lab stats`"):
        reference.check(tiny())


def test_features_of_another_version_are_made_anew(root, monkeypatch):
    data, called = images(100, 1), []
    image_features(data, tiny())
    name = file_name(data, tiny())
    monkeypatch.setattr(extractors, "FEATURE_VERSION", 99)
    extractor = tiny()
    monkeypatch.setattr(extractor.module, "forward", lambda x: called.append(len(x)) or Tiny()(x))
    image_features(data, extractor)
    assert sum(called) == 100 and file_name(data, extractor) != name


def test_every_metric_has_a_function():
    assert tuple(module._FUNCTIONS) == METRICS


def test_statistics_that_changed_are_refused_and_made_again_in_the_cache(tmp_path, monkeypatch):

    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
    path = tmp_path / "statistics" / "some.safetensors"
    save_reference(make_reference(images(120, 1), tiny()), path)
    assert references._found_reference(path) is not None
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"contents have changed since it was saved \(sha256 differs\)"):
        load_reference(path)
    with pytest.warns(UserWarning, match=r"sha256 differs.* is made again now"):
        assert references._found_reference(path) is None
    other = path.rename(tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="sha256 differs"):
        references._found_reference(other)


def test_a_new_reference_opens_the_features_of_each_split_once(root, monkeypatch):
    """Opening compares them with their checksums, which takes long for many images."""
    from labcore import derived
    from labcore.evaluate import references

    splits = {"train": images(120, 1), "test": images(100, 5, name="held-out")}
    monkeypatch.setattr(references.Data, "split", lambda self, name: splits[name])
    monkeypatch.setattr(module, "METRICS", ("precision",))
    opened, store = [], derived.Store
    monkeypatch.setattr(derived, "Store", lambda *args: opened.append(args[1]) or store(*args))
    said = []
    found = references.reference_of(references.Data("noise"), tiny(), progress=lambda name, *_: said.append(name))
    assert opened == ["noise-train-tiny", "held-out-train-tiny"] and set(opened) < set(said)
    assert found.about["floor"]["n"] == 100


def test_statistics_that_were_kept_under_a_former_fingerprint_have_todays(root, monkeypatch):
    """A record compares it with that of the images: with the former one every metric was of other data."""

    class Folder(ImageData):
        def named_fingerprint(self):
            return "former"

    made = images(120, 1)
    data = Folder(made.images, made.labels, made.classes, made.name, made.split)
    monkeypatch.setattr(references.Data, "split", lambda self, name: data)
    with monkeypatch.context() as before:
        before.setattr(Folder, "fingerprint", Folder.named_fingerprint)
        first = references.reference_of(references.Data("noise"), tiny())
    monkeypatch.setattr(references, "make_reference", None)
    found = references.reference_of(references.Data("noise"), tiny())
    assert first.about == {**found.about, "fingerprint": "former"} and found.about["fingerprint"] == data.fingerprint()
