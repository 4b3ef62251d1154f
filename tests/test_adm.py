"""ADM's reference batches: their moments are Inception's, their images anybody's, and what is refused."""

import numpy as np
import pytest
import torch
from conftest import perturbed
from torch import nn
from typer.testing import CliRunner

from labcore.cli.app import app
from labcore.data import ImageData
from labcore.evaluate import adm, extractors
from labcore.evaluate.extractors import POOL, SPATIAL, Extractor
from labcore.evaluate.fidelity import fidelity
from labcore.evaluate.generate import Sampling, generate
from labcore.evaluate.statistics import image_features, load_reference, moments, save_reference

WIDTHS = {"pool": 16, "spatial": 7 * 2 * 2, "logits": 10}


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterDict({k: nn.Parameter(torch.randn(192, w, generator=g)) for k, w in WIDTHS.items()})
        self.kernel = nn.Parameter(torch.randn(9, 3, 4, 4, generator=g))

    def forward(self, images):
        flat = images.float().flatten(1) / 255 - 0.5
        pool, logits = ((0.2 * flat @ self.weights[layer]).sin() for layer in ("pool", "logits"))
        return pool, extractors.spatial_features(self.maps(images)), logits

    def maps(self, images):
        """(n, 9, 2, 2), of which spatial features are the first 7 channels."""
        return (0.2 * nn.functional.conv2d(images.float() / 255 - 0.5, self.kernel, stride=4)).sin()


def network(name="inception"):
    return Extractor(name, Tiny(), WIDTHS, "random", "none")


def drawn(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=g, dtype=torch.uint8)
    return ImageData(pixels, torch.zeros(n, dtype=torch.int64), ("any",), f"drawn-{seed}", "train")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def batch(tmp_path):
    """120 images, and the moments of 400 others, as a file of ADM's has them."""
    features = image_features(drawn(400, seed=1), network())
    held = {}
    for layer, names in adm.MOMENTS.items():
        m = moments(features[layer])
        held |= dict(zip(names, (m.mean.numpy(), m.cov.numpy()), strict=True))
    path = tmp_path / "VIRTUAL_toy.npz"
    np.savez(path, arr_0=drawn(120).images.permute(0, 2, 3, 1).numpy(), **held)
    return path


def test_fid_is_to_the_files_moments_and_recall_to_its_images(batch, tmp_path):
    reference = adm.read_reference(batch, network())
    whole = image_features(drawn(400, seed=1), network())
    for layer, found in ((POOL, reference.pool), (SPATIAL, reference.spatial)):
        torch.testing.assert_close(found.mean, moments(whole[layer]).mean)
        torch.testing.assert_close(found.cov, moments(whole[layer]).cov)
    own = image_features(drawn(120), network())[POOL]
    assert torch.equal(reference.features.sort(0).values, own[:].sort(0).values)
    save_reference(reference, tmp_path / "s.safetensors")
    again = load_reference(tmp_path / "s.safetensors")
    measures = fidelity(drawn(400, seed=1), again, network(), ("fid", "sfid", "precision"), resamples=0).measures
    assert abs(measures["fid"].value) < 1e-6 and abs(measures["sfid"].value) < 1e-6
    assert again.about["moments"] == "the file's" and again.about["image_size"] == 8
    assert 0 < again.about["distance"][POOL] < 1


@torch.no_grad()
def test_sfid_to_a_file_of_the_same_images_is_zero(tmp_path):
    """The file's spatial moments are ADM's: numpy's, of the first 7 channels of TensorFlow's array (n, h, w, c)."""
    data, path = drawn(24), tmp_path / "same.npz"
    nhwc = Tiny().maps(data.images).numpy().transpose(0, 2, 3, 1)[..., :7]
    rows = np.ascontiguousarray(nhwc).reshape([len(nhwc), -1])
    pixels = data.images.permute(0, 2, 3, 1).numpy()
    np.savez(path, arr_0=pixels, mu_s=np.mean(rows, axis=0), sigma_s=np.cov(rows, rowvar=False))
    reference = adm.read_reference(path, network())
    size = float(reference.spatial.cov.trace())
    assert abs(reference.about["distance"][SPATIAL]) < 1e-5 * size
    torch.testing.assert_close(reference.spatial.mean, torch.from_numpy(rows.mean(0)).double())


def test_another_network_looks_at_the_images_alone(batch):
    reference = adm.read_reference(batch, network("tiny"))
    assert reference.about["moments"] == "of the images in the file" and "distance" not in reference.about
    torch.testing.assert_close(reference.pool.mean, moments(image_features(drawn(120), network("tiny"))[POOL]).mean)


def test_a_file_of_images_alone(batch, tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=drawn(120).images.permute(0, 2, 3, 1).numpy())
    reference = adm.read_reference(tmp_path / "images.npz", network())
    assert reference.about["moments"] == "of the images in the file" and reference.about["n"] == 120


def changed(batch, **arrays):
    with np.load(batch) as held:
        values = {**held, **arrays}
    np.savez(batch, **{name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: changed(p, mu=np.zeros(5), sigma=np.eye(5)), r"pool moments of shape .5,.*16 features"),
        (lambda p: changed(p, sigma_s=np.full((28, 28), np.nan)), "NaN or infinity among its spatial"),
        (lambda p: changed(p, arr_0=None), "nothing under arr_0; give a reference batch with uint8 images"),
        (lambda p: changed(p, arr_0=np.zeros((4, 8, 8, 3))), r"float64 .4, 8, 8, 3."),
        (lambda p: p.write_bytes(p.read_bytes()[:500]), "truncated or no .npz"),
        (lambda p: p.write_text("not arrays"), "truncated or no .npz"),
        (lambda p: np.savez(p, arr_0=np.array([{}], dtype=object)), "truncated or no .npz"),
        (lambda p: p.unlink(), "no file"),
        (lambda p: p.write_bytes(b""), "truncated or no .npz"),
        (lambda p: changed(p, mu=np.array(["a"] * 16)), "as mu, which is no mean or covariance"),
        (lambda p: changed(p, sigma=np.float64(3)), r"float64 .. as sigma, which is no mean"),
    ],
)
def test_refused(change, says, batch, as_users_run):
    change(batch)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        adm.read_reference(batch, network())


def test_the_command_and_where_it_leads(batch, tmp_path, monkeypatch):
    monkeypatch.setattr(extractors, "load_extractor", lambda name: network(name))
    run = lambda *words: CliRunner().invoke(app, ["stats", str(batch), *map(str, words)])  # noqa: E731
    missing = run("--extractor", "inception")
    assert missing.exit_code == 2 and "no --out was given" in missing.output
    out = tmp_path / "statistics.safetensors"
    done = run("--extractor", "inception", "--out", out)
    assert done.exit_code == 0, done.output
    assert "mean and covariance are the file's" in done.output and "Frechet distance" in done.output
    assert load_reference(out).about["n"] == 120
    with pytest.raises(ValueError, match="make statistics of it: lab stats"):
        load_reference(batch)
    whole = batch.read_bytes()
    itself = run("--extractor", "inception", "--out", batch)
    assert itself.exit_code == 2 and "a file of their own" in itself.output and batch.read_bytes() == whole
    sized = run("--extractor", "inception", "--image-size", "8", "--out", out)
    assert sized.exit_code == 2 and "is read unchanged" in sized.output


def test_from_samples_to_a_number(batch):
    """Sampling in chunks, features, and the file's moments: a whole evaluation."""
    flow = perturbed(dtype=torch.float32)  # 8 x 8, 3 channels
    images = generate(flow, Sampling(num=130, chunk=50))
    record = fidelity(images, adm.read_reference(batch, network()), network(), ("fid", "sfid", "recall"), resamples=10)
    assert record.measures["fid"].value > 0 and record.reference["moments"] == "the file's"
