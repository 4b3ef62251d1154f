"""Hidden features on disk, the linear probe, and the figures by site."""

import json
from io import BytesIO
from itertools import pairwise

import pytest
import torch
from conftest import perturbed
from PIL import Image

from labcore import zoo
from labcore.data import ImageData, load
from labcore.data.transforms import to_float
from labcore.evaluate import ProbeConfig, all_sites, cknna_sites, hidden_features, linear_probe, probe_sites, wilson
from labcore.evaluate.probe import ProbeReport, SiteProbe
from labcore.spread import spread
from labcore.viz import measures

FAST = ProbeConfig(epochs=20, batch_size=64)


def clusters(n, seed=0, width=12, k=4, spread=0.3):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(k, (n,), generator=g)
    centres = torch.randn(k, width, generator=torch.Generator().manual_seed(99))
    return centres[y] + spread * torch.randn(n, width, generator=g), y


@pytest.fixture
def data():
    """30 images that fit the small flows."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (30, 3, 8, 8), generator=g, dtype=torch.uint8)
    return ImageData(images, torch.arange(30) % 5, tuple("abcde"), "noise", "train")


def test_features_are_token_means_of_clean_images_without_a_label(data, tmp_path):
    flow = perturbed()
    sites = [(3, 2), (1, 1)]
    found = hidden_features(flow, data, sites, tmp_path, chunk=7)
    with torch.no_grad():
        hiddens = flow(to_float(data.images).double(), None, sites).hiddens
    assert list(found) == sites
    for site in sites:
        assert found[site].dtype == torch.float32
        torch.testing.assert_close(found[site].double(), hiddens[site].mean(1), atol=1e-6, rtol=1e-5)


def test_features_are_computed_once_for_each_key(data, tmp_path):
    flow, seen = perturbed(), []

    def count(flow=flow, data=data, sites=((1, 1), (2, 1)), **options):
        """Forward passes that it took."""
        passes = []
        with flow.register_forward_hook(lambda *_: passes.append(1)):
            hidden_features(flow, data, sites, tmp_path, chunk=10, **options)
        return len(passes)

    with torch.inference_mode():
        assert count(progress=lambda *what: seen.append(what)) == 3
    assert seen[0] == ("hiddens", 0, 30) and seen[-1] == ("hiddens", 30, 30)
    assert count() == 0
    assert count(sites=((2, 1), (1, 1))) == 0, "the order of sites is no part of the key"
    assert count(limit=25) == 3
    assert count(limit=99) == 0, "a limit above the data is all of it"
    assert count(sites=((1, 1),)) == 3
    assert count(data=data.subset(range(29, -1, -1))) == 3
    assert count(flow=perturbed(seed=1)) == 3, "other weights"
    assert count(flow=perturbed(affine_clamp=0.05)) == 3, "another architecture with the same weights"


def test_features_refuse(data, tmp_path):
    flow = perturbed()
    for sites, limit, message in (([], None, "no sites"), ([(0, 1)], None, "outside"), ([(1, 1)], 0, "limit was 0")):
        with pytest.raises(ValueError, match=message):
            hidden_features(flow, data, sites, tmp_path, limit)


def test_sites_are_whole_numbers(data, tmp_path, as_users_run):
    flow = perturbed()
    for site in ((1.7, 1), ("1", 1), (1,), 3, (1, 2, 1)):
        with pytest.raises(ValueError, match="is no site; give \\(block, layer\\)"):
            hidden_features(flow, data, [site], tmp_path)
        with pytest.raises(ValueError, match="is no site"):
            probe_sites(flow, data, data, [site], FAST, root=tmp_path)
    assert list(hidden_features(flow, data, torch.tensor([[2, 1]]), tmp_path)) == [(2, 1)]


def test_the_default_place_is_the_cache(data, tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
    hidden_features(perturbed(), data, [(1, 1)])
    assert len(list((tmp_path / "hiddens").iterdir())) == 1


def test_the_defaults_are_the_published_protocol():
    assert ProbeConfig().model_dump() == dict(epochs=90, batch_size=2048, lr=0.1, momentum=0.9, weight_decay=1e-4)


def test_separable_classes_are_told_apart():
    result = linear_probe(*clusters(600), *clusters(400, 1), 4, FAST)
    assert result.accuracy.accuracy > 0.99 and result.accuracy.n == 400
    assert result.best >= result.accuracy.accuracy


def test_random_labels_give_chance():
    x, _ = clusters(600)
    test, _ = clusters(1000, 1)
    g = torch.Generator().manual_seed(3)
    labels = torch.randint(4, (1600,), generator=g)
    result = linear_probe(x, labels[:600], test, labels[600:], 4, FAST)
    assert 0.2 < result.accuracy.accuracy < 0.3 and result.best >= result.accuracy.accuracy


def test_scale_and_offset_of_the_training_set_are_taken_out_of_both():
    train, test = clusters(300), clusters(200, 1, spread=1.5)
    expected = linear_probe(*train, *test, 4, FAST)
    moved = [(1e3 * x + 50, y) for x, y in (train, test)]
    assert linear_probe(*moved[0], *moved[1], 4, FAST).accuracy.accuracy == pytest.approx(
        expected.accuracy.accuracy, abs=0.011
    )
    shifted = linear_probe(
        *train, test[0] + 5 * torch.randn(12, generator=torch.Generator().manual_seed(0)), test[1], 4
    )
    assert shifted.accuracy.accuracy < expected.accuracy.accuracy - 0.2, "the test set's own statistics are not used"


def test_the_seed_decides_and_the_global_generator_is_untouched():
    train, test = clusters(300, spread=1.5), clusters(200, 1, spread=1.5)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = linear_probe(*train, *test, 4, FAST, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    with torch.inference_mode():
        assert linear_probe(*(t.clone() for t in train), *test, 4, FAST, seed=3) == first
    others = [linear_probe(*train, *test, 4, FAST, seed=seed) for seed in range(4, 9)]
    assert any(other != first for other in others)


def test_constant_features_are_left_out():
    """Also where the test set varies in them, and where rounding makes their deviation a little more than 0."""
    (x, y), (test, held_out) = clusters(300), clusters(200, 1)
    constant = torch.tensor([0.0, 0.1, -1e4]).expand(300, 3)
    noise = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    result = linear_probe(torch.cat([x, constant], 1), y, torch.cat([test, 1e4 * noise], 1), held_out, 4, FAST)
    assert result.accuracy.accuracy > 0.99


def test_small_sets_are_one_batch():
    assert linear_probe(*clusters(50), *clusters(100, 1), 4).accuracy.accuracy > 0.95


def test_a_probe_refuses(as_users_run):
    x, y = clusters(20)
    bad = x.clone()
    bad[4, 1] = float("inf")
    for train, labels, test, held_out, k, message in (
        (x[:1], y[:1], x, y, 4, "training set has 1 images"),
        (x, y, x[:1], y[:1], 4, "test set has 1 images"),
        (x, y, x, y, 2, "2 classes allow 0 to 1"),
        (x, y - 1, x, y, 4, "training labels run from -1"),
        (x, y, x[:, :5], y, 4, "12 wide and test features 5"),
        (x, y[:9], x, y, 4, "one label for each"),
        (bad, y, x, y, 4, "training features of 1 of 20 images hold NaN or infinity"),
        (x, y, bad, y, 4, "test features of 1 of 20 images"),
        (x, torch.zeros_like(y), x, y, 4, "all 20 training labels are 0"),
        (x.long(), y, x, y, 4, "give floating"),
        (x[:, :0], y, x[:, :0], y, 4, "training features have width 0"),
        (x, y.double(), x, y, 4, "training labels are torch.float64; give int64"),
        (x, y > 1, x, y, 4, "training labels are torch.bool; give int64"),
        (x, y, x, y.to(torch.int8), 4, "test labels are torch.int8; give int64"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_probe(train, labels, test, held_out, k, FAST)
    with pytest.raises(ValueError, match="diverged with lr 1e\\+30"):
        linear_probe(x, y, x, y, 4, ProbeConfig(lr=1e30, epochs=3))


def test_probes_report_in_order(data, tmp_path):
    flow, what = perturbed(), []
    sites = [(3, 2), (1, 1), (2, 2)]
    report = probe_sites(
        flow, data, data.subset(range(10)), sites, FAST, root=tmp_path, progress=lambda *p: what.append(p)
    )
    assert [(site.block, site.layer) for site in report.sites] == sites
    assert report.data == {"train": "noise/train", "test": "noise/train"}
    assert report.protocol == FAST.model_dump()
    assert (report.made_with["train_images"], report.made_with["test_images"]) == (30, 10)
    assert {"seed", "weights", "revision", "torch", "device"} <= set(report.made_with)
    assert what[-1] == ("probes", 3, 3)
    record = json.loads(json.dumps(report.record()))
    assert record["sites"][0]["accuracy"]["n"] == 10 and record["sites"][1]["block"] == 1
    assert report.top.accuracy.accuracy == max(site.accuracy.accuracy for site in report.sites)
    assert [(s.block, s.layer) for s in probe_sites(flow, data, data, config=FAST, root=tmp_path).sites] == all_sites(
        flow
    )


def test_probes_read_what_is_on_disk(data, tmp_path):
    flow = perturbed(num_classes=0)  # an unconditional flow has features as well
    first = probe_sites(flow, data, data, [(2, 1)], FAST, root=tmp_path)
    with flow.register_forward_hook(lambda *_: pytest.fail("computed again")):
        assert probe_sites(flow, data, data, [(2, 1)], FAST, root=tmp_path).sites == first.sites
    with pytest.raises(ValueError, match="5 classes and the test set 10"):
        probe_sites(flow, data, load(split="test"), [(2, 1)], root=tmp_path)


@pytest.mark.slow
def test_the_shipped_model_knows_classes_without_having_been_told(tmp_path):
    """Measured: 72% to 75% at these sites with 1,000 + 500 images. Chance is 10%."""
    flow, train, test = zoo.load("fashion-tarflow"), load(), load(split="test")
    report = probe_sites(flow, spread(train, 1000), spread(test, 500), [(2, 2), (4, 2), (7, 2)], root=tmp_path)
    assert min(site.accuracy.low for site in report.sites) > 0.5


def report_of(sites):
    rows = [SiteProbe(block, layer, wilson(50 + 3 * block + layer, 200), 0.5) for block, layer in sites]
    return ProbeReport(tuple(rows), {}, {}, {})


def drawn(figure):
    picture = Image.open(BytesIO(figure._repr_png_())).convert("L")
    assert min(picture.size) > 300 and len(set(picture.tobytes())) > 50
    axes = figure.axes[0]
    ticks = [t.get_text() for t in axes.get_xticklabels()]
    texts = [t.get_text() for t in axes.texts]
    return axes, ticks, texts


def test_the_probe_figure_says_what_it_shows():
    sites = [(1, 2), (1, 8), (2, 6)]
    lines = {"Bayes": wilson(140, 200), "raw pixels": wilson(139, 200)}
    axes, ticks, texts = drawn(measures.probe_by_site(report_of(sites), wilson(120, 200), lines))
    assert ticks == ["(1,2)", "(1,8)", "(2,6)"]
    assert "block" in axes.get_xlabel() and axes.get_ylabel() == "accuracy on 200 test images, %"
    assert set(texts) == {"linear probe", "training-free\n60.0%", "Bayes\n70.0%", "raw pixels\n69.5%"}
    heights = {round(float(line.get_ydata()[0]), 6): line.get_linestyle() for line in axes.lines}
    assert len({heights[60.0], heights[70.0], heights[69.5]}) == 3, "lines differ without colour"
    assert_apart(axes)
    assert list(axes.lines[0].get_ydata()) == pytest.approx([100 * s.accuracy.accuracy for s in report_of(sites).sites])
    assert drawn(measures.probe_by_site(report_of(sites)))[2] == ["linear probe"]


def assert_apart(axes):
    """Names beside the axes neither touch nor leave the height of the axes by more than half a name."""
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))
    frame = axes.get_window_extent()
    assert all(frame.y0 <= (box.y0 + box.y1) / 2 <= frame.y1 + 1 for box in boxes)


def test_lines_of_equal_height_keep_their_names_apart():
    lines = {name: wilson(150, 200) for name in "abc"}
    report = report_of([(1, 1), (1, 2)])
    axes, _, texts = drawn(measures.probe_by_site(report, lines=lines))
    assert len(texts) == 4
    assert_apart(axes)


def test_many_sites_stay_legible():
    sites = [(block, layer) for block in range(1, 9) for layer in range(1, 9)]
    figure = measures.probe_by_site(report_of(sites), wilson(120, 200))
    axes, ticks, _ = drawn(figure)
    assert ticks[:3] == ["(1,1)", "(1,5)", "(2,1)"] and len(ticks) == 16
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes)), "names do not touch"


def test_the_alignment_figure_says_what_it_shows():
    g = torch.Generator().manual_seed(0)
    encoder = torch.randn(40, 6, generator=g)
    features = {site: encoder + i * torch.randn(40, 6, generator=g) for i, site in enumerate([(1, 1), (1, 2), (2, 1)])}
    values = cknna_sites(features, encoder, k=5)
    axes, ticks, texts = drawn(measures.alignment_by_site(values, "DINOv2-B", 5))
    assert ticks == ["(1,1)", "(1,2)", "(2,1)"] and texts == []
    assert axes.get_ylabel() == "CKNNA with DINOv2-B (k = 5)"
    assert list(axes.lines[0].get_ydata()) == list(values.values())
    halved = {site: value / 2 for site, value in values.items()}
    assert drawn(measures.alignment_by_site(values, name="a", others={"b": halved}))[2] == ["b", "a"]
    axes, _, texts = drawn(measures.alignment_by_site(values, lines={"raw pixels": 0.25, "shuffled": 0.02}))
    assert texts == ["shuffled\n0.020", "raw pixels\n0.250"]
    assert {0.25, 0.02} <= {float(line.get_ydata()[0]) for line in axes.lines}
    with pytest.raises(ValueError, match="give equal sites"):
        measures.alignment_by_site(values, others={"b": {(1, 1): 0.5}})
    with pytest.raises(ValueError, match="its own name"):
        measures.alignment_by_site(values, name="b", others={"b": halved})


def test_the_first_order_figure_says_what_it_shows():
    g = torch.Generator().manual_seed(0)
    slopes = torch.randn(30, 4, generator=g)
    figure = measures.first_order(slopes, {"short": slopes, "whole": slopes - 1}, torch.arange(30) % 4)
    axes, _, _ = drawn(figure)
    assert [panel.get_title() for panel in figure.axes] == ["short", "whole"]
    assert "30 images x 4 classes" in figure.get_supxlabel() and "nats" in axes.get_ylabel()
    others, own = (dots.get_offsets() for dots in figure.axes[1].collections)
    assert (len(others), len(own)) == (90, 30)
    assert list(own[:, 1] - own[:, 0]) == pytest.approx([-1] * 30)
    assert list(own[:, 0]) == pytest.approx(slopes[torch.arange(30), torch.arange(30) % 4].tolist())


def test_the_confusion_figure_counts_rows():
    labels = torch.tensor([0] * 4 + [1] * 2)
    found = {"one": torch.tensor([0, 0, 0, 2, 1, 1]), "other": torch.tensor([0] * 6)}
    figure = measures.confusions(labels, found, ("shirt", "shoe", "bag"))
    axes, ticks, texts = drawn(figure)
    assert ticks == ["shirt", "shoe", "bag"] and texts == ["75", "25", "100"]
    assert [panel.get_title() for panel in figure.axes] == ["one", "other"]
    positions = [text.get_position() for text in figure.axes[1].texts]
    assert positions == [(0, 0), (0, 1)], "rows are true classes; a class without images has an empty row"
    assert axes.get_xlabel() == "answer" and "true class" in axes.get_ylabel()
