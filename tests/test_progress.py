"""Long work reports its progress: measures of a test set, drawing, and reading files to recognise the data."""

import pytest
import torch
from conftest import perturbed

from labcore import contents, sample
from labcore.data.images import ImageData
from labcore.evaluate import training_free_accuracy
from labcore.evaluate.bayes import bayes_accuracy
from labcore.evaluate.likelihood import likelihood


@pytest.fixture
def heard():
    """(reports, progress): a `Progress` and what it was called with."""
    reports: list[tuple[str, int, int]] = []
    return reports, lambda *report: reports.append(report)


@pytest.mark.parametrize(
    ("measure", "what"),
    [
        (likelihood, "likelihood of images"),
        (bayes_accuracy, "images classified"),
        (training_free_accuracy, "images classified"),
    ],
)
def test_measures_of_a_test_set(measure, what, heard):
    flow = perturbed(num_classes=3)
    shape = flow.config.image_shape
    pixels = torch.arange(7 * 3).remainder(251).to(torch.uint8)[:7].view(7, 1, 1, 1).expand(7, *shape).clone()
    images = ImageData(pixels, torch.arange(7) % 3, ("a", "b", "c"), "grey", "test")
    reports, progress = heard
    with_progress = measure(flow, images, limit=6, batch_size=4, progress=progress)
    assert reports == [(what, 4, 6), (what, 6, 6)]
    assert with_progress == measure(flow, images, limit=6, batch_size=4)


def test_drawing(heard):
    reports, progress = heard
    drawn = sample(perturbed(num_classes=3), 5, y=1, seed=0, batch_size=2, progress=progress)
    assert len(drawn) == 5
    assert reports == [("images drawn", 2, 5), ("images drawn", 4, 5), ("images drawn", 5, 5)]


def test_reading_many_files(tmp_path, monkeypatch, capsys, heard):
    reports, progress = heard
    for name in "abcd":
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(contents, "show_progress", lambda: progress)
    monkeypatch.setattr(contents, "TOGETHER", 3)
    monkeypatch.setattr(contents, "FRESH", 0)
    contents.digests(tmp_path, list("ab"))
    assert reports == []
    monkeypatch.setattr(contents, "MANY", 3)
    contents.digests(tmp_path, list("cdab"))
    assert [done for _, done, _ in reports] == [1, 2, 4]
    contents.digests(tmp_path, list("abcd"))
    assert len(reports) == 3  # nothing was read
