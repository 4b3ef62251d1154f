"""Every data set of the lab is a `labcore.data.Dataset`: what training and evaluation rely on, for each class that is one."""

import datasets
import pytest
import torch
from conftest import perturbed
from PIL import Image

from labcore.config import DataConfig, TarFlowConfig
from labcore.data import Dataset, ImageData, ImageFolderData
from labcore.data.arrow import ArrowData
from labcore.data.datasets import renumbered
from labcore.data.loaders import StepSampler, in_order, micro_batches
from labcore.data.spiral import Spiral
from labcore.evaluate.generate import Sampling, generate
from labcore.experiments.drawn import keep, read_drawn
from labcore.latents import LatentData
from labcore.latents.codec import Pixels
from labcore.reading import Images
from labcore.rng import StepNoise
from labcore.spread import spread

CLASSES = ("cat", "dog", "owl")
FLOW = dict(image_size=4, channels=3, patch_size=2, num_classes=3, class_names=CLASSES)
SIZES = dict(width=16, num_blocks=1, layers_per_block=1, head_dim=8)


def pictures(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (9, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def in_memory(root, seed):
    return ImageData(pictures(seed), torch.arange(9) % 3, CLASSES, "pets", "train")


def folder(root, seed):
    for number, pixels in enumerate(pictures(seed)):
        file = root / "pets" / "train" / CLASSES[number // 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    return ImageFolderData(root / "pets", "train", 4)


def arrow(root, seed):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    images = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in pictures(seed)]
    table = datasets.Dataset.from_dict({"image": images, "label": [i % 3 for i in range(9)]}, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict(train=table, validation=table).save_to_disk(root / "pets")
    return ArrowData(root / "pets", "train", 4)


def latents(root, seed):
    return LatentData(Pixels(3), in_memory(root, seed), mirror=True, root=root)


def spiral(root, seed):
    return Spiral(3).draw(9, seed)


def sampled(root, seed):
    return generate(perturbed(dtype=torch.float32, **FLOW, **SIZES), Sampling(num=9, chunk=9, seed=seed), root)


def kept(root, seed):
    made, data = {"seed": seed, "model": "0"}, DataConfig(name="fashion-mnist-12k")
    return read_drawn(keep(root, "way", in_memory(root, seed), made, data, TarFlowConfig(**FLOW, **SIZES), []))


KINDS = [in_memory, folder, arrow, latents, spiral, sampled, kept]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def make(request, tmp_path, monkeypatch):
    """A function of a seed that makes a data set of nine items, in a new folder each time."""
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    count = iter(range(100))

    def made(seed=0):
        root = tmp_path / str(next(count))
        root.mkdir()
        return request.param(root, seed)

    return made


def read(data, rows):
    items, labels = data.__getitems__(rows)
    return items, labels


def test_it_is_one(make):
    data = make()
    assert isinstance(data, Dataset) and isinstance(data, Images)
    assert (len(data), data.num_classes, len(data.classes)) == (9, 3, 3)
    assert data.labels.dtype == torch.int64 and data.labels.shape == (9,) and data.labels.unique().tolist() == [0, 1, 2]
    assert isinstance(data.decodes, bool)


def test_what_it_reads(make):
    data, rows = make(), [5, 0, 7]
    items, labels = read(data, rows)
    assert len(items) == 3 and torch.equal(labels, data.labels[rows]) and labels.dtype == torch.int64
    assert all(torch.equal(a, b) for a, b in zip(read(data, torch.tensor(rows)), (items, labels), strict=True))
    size = data.image_size if isinstance(data.image_size, tuple) else (data.image_size, data.image_size)
    x = data.floats(items)
    assert x.shape == (3, data.channels, *size) and x.is_floating_point() and x.abs().max() <= 1
    of_pictures, same = read(data.pictures, rows)
    assert of_pictures.dtype == torch.uint8 and torch.equal(same, labels)
    assert data.pictures.pictures is data.pictures


def test_what_training_sees(make):
    data = make()
    items, noise = read(data, range(9))[0], StepNoise(0, 0, 9, "cpu")
    plain, none = data.to_model_input(items, noise)
    assert torch.equal(plain, data.floats(items)) and none.dtype == torch.bool and not none.any()
    x, mirrored = data.to_model_input(items, noise, mirror=True)
    assert 0 < int(mirrored.sum()) < 9
    assert torch.equal(x, torch.where(mirrored[:, None, None, None], plain.flip(-1), plain))


def test_subsets(make):
    data = make()
    part = data.subset([4, 1, 3, 8])
    again = part.subset([2, 0])
    assert isinstance(again, Dataset) and (len(part), len(again)) == (4, 2)
    for name in ("name", "split", "classes", "num_classes", "channels", "image_size"):
        assert getattr(again, name) == getattr(data, name), name
    assert torch.equal(again.labels, data.labels[[3, 4]])
    for found, want in zip(read(again, [0, 1]), read(data, [3, 4]), strict=True):
        assert torch.equal(found, want)
    assert torch.equal(spread(data, 3).labels, data.labels[[0, 3, 6]]) and spread(data, None) is data
    assert len(data) == 9, "a subset leaves the whole as it is"


def test_fingerprints(make):
    """Equal contents, equal digits; other pictures, other rows and another order, other digits."""
    data = make()
    found = [data, make(seed=1), data.subset([0, 1, 2]), data.subset([2, 1, 0]), data.subset([3, 4, 5])]
    found.append(data.subset([0, 1, 2]).subset([0, 2]))
    prints = [each.fingerprint() for each in found]
    assert make().fingerprint() == prints[0] and len(set(prints)) == len(found)
    assert data.subset([0, 1, 2]).fingerprint() == prints[2]
    for former in (data.named_fingerprint(), data.older_fingerprint()):
        assert former is None or former not in prints


def test_loaders_give_its_batches(make):
    data = make()
    items, labels = (torch.cat(part) for part in zip(*in_order(data, 4, num_workers=0), strict=True))
    assert torch.equal(items, read(data, range(9))[0]) and torch.equal(labels, data.labels)
    for items, labels, rows in micro_batches(data, StepSampler(9, 4, 0, 0, 2)):
        for found, want in zip((items, labels), read(data, rows), strict=True):
            assert torch.equal(found, want)


def test_classes_in_another_order(make):
    data = make()
    names = data.classes[::-1]
    other = renumbered(data, names)
    assert other.classes == names and isinstance(other, Dataset)
    assert [names[y] for y in other.labels] == [data.classes[y] for y in data.labels]
    assert torch.equal(read(other, range(9))[0], read(data, range(9))[0])


def test_unmirrored_latents_are_not_mirrored(tmp_path):
    data = LatentData(Pixels(3), in_memory(tmp_path, 0), root=tmp_path)
    with pytest.raises(ValueError, match="mirror was True, but mirrored images were not encoded"):
        data.to_model_input(read(data, [0, 1])[0], StepNoise(0, 0, 2, "cpu"), mirror=True)


def test_other_things_are_none():
    tensors = torch.utils.data.TensorDataset(torch.zeros(3, 1, 2, 2), torch.zeros(3))
    assert not isinstance(tensors, Dataset) and not isinstance(torch.utils.data.Subset(tensors, [0]), Dataset)
