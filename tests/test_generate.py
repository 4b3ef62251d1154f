"""Images drawn for an evaluation are those of `sample`, and are drawn once."""

import errno
import os

import pytest
import torch
from conftest import perturbed
from pydantic import ValidationError
from test_biflow import backward

from labcore import sample
from labcore.data import ImageData
from labcore.data.transforms import to_uint8
from labcore.evaluate import generate as module
from labcore.evaluate.generate import Sampling, generate
from labcore.provenance import weights_hash


@pytest.fixture
def small():
    return perturbed().float()


@pytest.fixture
def learned():
    """A student that is no constant."""
    return backward(max_guidance=1.0).float().eval()


def test_images_are_those_of_sample(small, tmp_path):
    sampling = Sampling(num=10, chunk=4, guidance=0.5, guidance_schedule="linear", seed=3)
    found = generate(small, sampling, tmp_path)
    k = small.config.num_classes
    y = torch.arange(10) % k
    expected = to_uint8(sample(small, 10, y, guidance=0.5, guidance_schedule="linear", seed=3, batch_size=4))
    torch.testing.assert_close(found.images, expected, atol=1, rtol=0)
    assert found.labels.tolist() == y.tolist()
    assert len(found) == 10 and (found.image_size, found.channels) == (small.config.image_size, small.config.channels)
    images, labels = found.__getitems__([3, 7])
    torch.testing.assert_close(images, found.images[[3, 7]])
    assert labels.tolist() == [3 % k, 7 % k]
    assert len(images.unique()) > 5, "not a constant"


def test_what_was_drawn_is_not_drawn_again(small, tmp_path, monkeypatch):
    sampling, draws = Sampling(num=10, chunk=4), []

    def counted(*args, **kwargs):
        draws.append(kwargs["first"])
        if len(draws) == 3:
            raise KeyboardInterrupt
        return sample(*args, **kwargs)

    undisturbed = generate(small, sampling, tmp_path / "other").images.clone()
    monkeypatch.setattr(module, "sample", counted)
    with pytest.raises(KeyboardInterrupt):
        generate(small, sampling, tmp_path)
    resumed = generate(small, sampling, tmp_path)
    assert draws == [0, 4, 8, 8]
    assert torch.equal(resumed.images, undisturbed)
    assert resumed.fingerprint() == generate(small, sampling, tmp_path).fingerprint()
    assert len(draws) == 4


def test_other_weights_and_settings_are_other_images(small, tmp_path):
    prints = {generate(small, Sampling(num=4, **change), tmp_path).fingerprint() for change in ({}, {"seed": 1})}
    prints.add(generate(small, Sampling(num=4, noise_std=0.0), tmp_path).fingerprint())
    with torch.no_grad():
        small.blocks[0].params_out.bias.add_(0.01)
    prints.add(generate(small, Sampling(num=4), tmp_path).fingerprint())
    assert len(prints) == 4


def test_records_hold_the_settings_as_they_apply(small, tmp_path):
    made = generate(small, Sampling(num=4), tmp_path).made
    assert made["noise_std"] == small.config.noise_std and made["classes"] == "each"
    assert {"guidance", "guidance_schedule", "attn_temp", "solver", "seed", "num", "model"} <= set(made)


def test_classes(small, tmp_path):
    assert generate(small, Sampling(num=3, classes="none"), tmp_path).labels.tolist() == [-1, -1, -1]
    assert generate(small, Sampling(num=5, classes=(2, 0)), tmp_path).labels.tolist() == [2, 0, 2, 0, 2]
    unconditional = perturbed(num_classes=0).float()
    assert generate(unconditional, Sampling(num=2), tmp_path).labels.tolist() == [-1, -1]
    with pytest.raises(ValueError, match=r"classes were .*, and the model has classes 0"):
        generate(small, Sampling(num=2, classes=(99,)), tmp_path)
    with pytest.raises(ValueError, match="the model has no classes"):
        generate(unconditional, Sampling(num=2, classes=(0,)), tmp_path)


def test_a_learned_inverse_gives_the_images_of_sample(learned, tmp_path):
    sampling = Sampling(num=10, chunk=4, guidance=0.5, seed=3)
    found = generate(learned, sampling, tmp_path)
    y = torch.arange(10) % 4
    assert torch.equal(found.images, to_uint8(sample(learned, 10, y, guidance=0.5, seed=3, batch_size=4)))
    assert found.labels.tolist() == y.tolist() and len(found.images.unique()) > 5, "not a constant"
    assert found.made == {"num": 10, "classes": "each", "guidance": 0.5, "seed": 3, "chunk": 4} | {
        "model": weights_hash(learned)
    }
    no_denoising = Sampling(num=10, chunk=4, guidance=0.5, seed=3, noise_std=0.0)
    assert generate(learned, no_denoising, tmp_path).fingerprint() == found.fingerprint()
    with torch.no_grad():
        learned.heads[0].out.bias.add_(0.01)
    assert generate(learned, sampling, tmp_path).fingerprint() != found.fingerprint()


@pytest.mark.parametrize("setting", [{"noise_std": 0.1}, {"guidance_schedule": "linear"}, {"attn_temp": 0.5}])
def test_what_a_learned_inverse_does_not_have_is_refused_as_by_sample(setting, learned, tmp_path):
    with pytest.raises(ValueError, match="a student has no noise_std, guidance_schedule, attn_temp") as ours:
        generate(learned, Sampling(num=2, **setting), tmp_path)
    with pytest.raises(ValueError) as theirs:
        sample(learned, 2, **setting)
    assert str(ours.value) == str(theirs.value) and not list(tmp_path.iterdir())


def test_classes_of_a_learned_inverse(learned, tmp_path):
    assert generate(learned, Sampling(num=3, classes="none"), tmp_path).labels.tolist() == [-1, -1, -1]
    unconditional = backward(num_classes=0).float()
    assert generate(unconditional, Sampling(num=2), tmp_path).labels.tolist() == [-1, -1]
    with pytest.raises(ValueError, match=r"classes were \(4,\), and the model has classes 0..3"):
        generate(learned, Sampling(num=2, classes=(4,)), tmp_path)


def test_a_full_disk_is_found_before_labels_are_made(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(Sampling, "labels", lambda *_: pytest.fail("labels"))
    with pytest.raises(OSError, match="No space left"):
        generate(small, Sampling(num=1_000_000), tmp_path)


@pytest.mark.parametrize("counts", [(30, 0, 10), (1, 1856, 77, 237)])
def test_classes_in_the_proportions_of_the_data_in_every_part(counts):
    flow, total = perturbed(num_classes=len(counts)).float(), sum(counts)
    sampling = Sampling(num=400, classes="data", class_counts=counts)
    labels = sampling.labels(flow, range(400))
    assert torch.equal(labels, torch.cat([sampling.labels(flow, range(i, i + 50)) for i in range(0, 400, 50)]))
    for start, end in ((0, 400), (0, 50), (130, 200)):
        found = labels[start:end].bincount(minlength=len(counts))
        expected = torch.tensor(counts) / total * (end - start)
        assert (found - expected).abs().max() < 3, "evenly spread, not drawn at random"
        assert not found[torch.tensor(counts) == 0].any()


def pictures(labels, classes):
    return ImageData(
        torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), torch.tensor(labels), classes, "mine", "train"
    )


def test_classes_as_in_data(small, tmp_path):
    config = small.config.replace(num_classes=2, class_names=("cat", "dog"))
    unequal, sampling = pictures([0, 1, 1, 1], ("cat", "dog")), Sampling(num=8, classes="data")
    found = sampling.as_in(config, unequal)
    assert found == sampling.replace(class_counts=(1, 3)) and found.as_in(config, unequal) is found
    with pytest.warns(UserWarning, match="matched by name"):
        assert sampling.as_in(config, pictures([0, 1, 1, 1], ("dog", "cat"))).class_counts == (3, 1)
    assert sampling.as_in(config, pictures([0, 1], ("cat", "dog"))).classes == "each", "equal classes come in turn"
    assert sampling.as_in(config.replace(num_classes=0, class_names=None), unequal).classes == "none"
    other = Sampling(num=8)
    assert other.as_in(config, unequal) is other
    with pytest.raises(ValueError, match="mine has 3 classes and the model 2"):
        sampling.as_in(config, pictures([0, 1, 2], ("a", "b", "c")))


def test_classes_as_in_data_that_nobody_gave(small, tmp_path):
    with pytest.raises(ValueError, match=r'classes "data" needs the data: use sampling\.as_in'):
        generate(small, Sampling(num=3, classes="data"), tmp_path)
    with pytest.raises(ValueError, match=r"class_counts were \(1, 2\), and the model has 5 classes"):
        generate(small, Sampling(num=3, classes="data", class_counts=(1, 2)), tmp_path)
    described = Sampling(num=3, classes="data", class_counts=(1, 2, 0, 3, 1)).describe(small)
    assert (described["classes"], described["class_counts"]) == ("data", [1, 2, 0, 3, 1])
    assert "class_counts" not in Sampling(num=3).describe(small), "keys of images that are on disk"


@pytest.mark.parametrize(
    "bad",
    [
        {"num": 5, "class_counts": (1, 2)},
        {"num": 5, "classes": "data", "class_counts": (0, 0)},
        {"num": 0},
        {"num": 1_000_001},
        {"num": 5, "attn_temp": 0.0},
        {"num": 5, "classes": ()},
        {"num": 5, "solver": "magic"},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        Sampling(**bad)
