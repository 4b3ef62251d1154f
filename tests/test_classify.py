"""Training-free classification: its scores are the slope that Algorithm 1 names, by three independent ways."""

import importlib

import pytest
import torch
from conftest import OPTIONS, perturbed

import labcore.evaluate
from labcore import zoo
from labcore.data import load
from labcore.data.picture_set import with_values
from labcore.data.spiral import Spiral
from labcore.data.transforms import to_float
from labcore.evaluate import accuracy, bayes_accuracy, bayes_scores, class_scores, classify, training_free_accuracy
from labcore.evaluate.bayes import wilson as wilson_at_its_old_place
from labcore.spread import spread_rows

CONDITIONAL = [name for name, options in OPTIONS.items() if options.get("num_classes", 1)]


@pytest.fixture(params=CONDITIONAL)
def conditional(request):
    return perturbed(**OPTIONS[request.param])


@pytest.fixture(scope="module")
def shipped():
    return zoo.load("fashion-tarflow")


@pytest.fixture(scope="module")
def test_set():
    return load(split="test")


def pictures(test_set, n, dtype=torch.float32):
    pixels, labels = test_set.__getitems__(range(n))
    return to_float(pixels).to(dtype), labels


def closed_form(flow, x):
    """(1/K) sum over blocks <dL/de, E_k - mean(E)>, from the gradient at each block's mean embedding; no logits at all."""
    means = [block.class_embedding.weight.detach().mean(0).expand(len(x), -1).clone() for block in flow.blocks]
    for mean, block in zip(means, flow.blocks, strict=True):
        mean.requires_grad_()
        block.condition = lambda y, mean=mean: mean
    try:
        slopes = torch.autograd.grad(flow.log_prob(x).sum(), means)
    finally:
        for block in flow.blocks:
            del block.condition
    tables = [block.class_embedding.weight.detach() for block in flow.blocks]
    return sum(g @ (e - e.mean(0)).T for g, e in zip(slopes, tables, strict=True)) / flow.config.num_classes


def test_scores_are_the_closed_form(conditional, images):
    x, _ = images(conditional)
    scores = class_scores(conditional, x)
    assert scores.shape == (4, 5) and scores.abs().amax() > 1e-4
    torch.testing.assert_close(scores, closed_form(conditional, x), atol=1e-12, rtol=1e-9)


def test_scores_are_the_closed_form_on_the_shipped_model(test_set):
    flow = zoo.load("fashion-tarflow").double()
    x, _ = pictures(test_set, 6, torch.float64)
    scores = class_scores(flow, x)
    torch.testing.assert_close(scores, closed_form(flow, x), atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(scores.sum(1), torch.zeros(6, dtype=torch.float64), atol=1e-10, rtol=0)


def test_scores_are_a_finite_difference_in_the_logits(conditional, images):
    x, _ = images(conditional)
    k, step = conditional.config.num_classes, 1e-4

    def at(logits):
        return conditional.log_prob(x, logits.softmax(0).expand(len(x), k))

    with torch.no_grad():
        found = torch.stack([(at(step * e) - at(-step * e)) / (2 * step) for e in torch.eye(k).double()], 1)
    torch.testing.assert_close(class_scores(conditional, x), found, atol=1e-7, rtol=1e-6)


def test_scores_sum_to_zero_over_classes(conditional, images):
    scores = class_scores(conditional, images(conditional)[0])
    torch.testing.assert_close(scores.sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)


def test_each_image_stands_alone(conditional, images):
    x, _ = images(conditional)
    alone = torch.cat([class_scores(conditional, x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(class_scores(conditional, x), alone, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_change_nothing(conditional, images, mode):
    x, _ = images(conditional)
    expected = class_scores(conditional, x)
    with mode():
        scores = class_scores(conditional, x.clone())
        labels = classify(conditional, x.clone())
        assert not torch.is_grad_enabled()
    assert torch.equal(scores, expected) and not scores.requires_grad
    assert labels.dtype == torch.int64 and torch.equal(labels, expected.argmax(1))


def test_nothing_is_left_behind(conditional, images):
    x = images(conditional)[0].requires_grad_()
    before = x.detach().clone()
    class_scores(conditional, x)
    assert x.grad is None and torch.equal(x, before)
    assert all(p.grad is None and p.requires_grad for p in conditional.parameters())


def test_one_pass_whatever_the_number_of_classes(images):
    flow, passes = perturbed(num_classes=300), []
    flow.register_forward_hook(lambda *_: passes.append(1))
    assert class_scores(flow, images(flow)[0]).shape == (4, 300)
    assert len(passes) == 1


def test_the_shipped_model_classifies(shipped, test_set):
    """Measured: 81.3% of these 300 and 79.4% of all 2,000 images; Bayes 85.5% of all. Chance is 10%."""
    found = training_free_accuracy(shipped, test_set, limit=300)
    assert found.n == 300 and found.accuracy > 0.75


@pytest.mark.slow
def test_it_agrees_with_bayes_on_most_images(shipped, test_set):
    """Measured: the same label for 88% of the first 300 images."""
    x, _ = pictures(test_set, 100)
    assert (classify(shipped, x) == bayes_scores(shipped, x).argmax(1)).float().mean() > 0.75


def test_any_classifier_has_an_accuracy(shipped, test_set):
    truth = iter(test_set.labels[spread_rows(2000, 70)].split(30))
    right = accuracy(lambda flow, x: next(truth)[: len(x)], shipped, test_set, limit=70, batch_size=30)
    assert (right.accuracy, right.n) == (1.0, 70)
    first = accuracy(lambda flow, x: torch.zeros(len(x), dtype=torch.int64), shipped, test_set, batch_size=999)
    assert first.accuracy == int((test_set.labels == 0).sum()) / 2000 and first.n == 2000
    assert first.low < first.accuracy < first.high
    subset = test_set.subset(range(5))
    assert accuracy(lambda flow, x: test_set.labels[:5], shipped, subset).accuracy == 1.0


def test_names_stay_what_they_are():
    importlib.import_module("labcore.evaluate.classify")
    assert labcore.evaluate.classify is classify and callable(classify)
    assert wilson_at_its_old_place is labcore.evaluate.wilson


@pytest.mark.parametrize("measure", [training_free_accuracy, bayes_accuracy])
def test_accuracy_refuses(measure, shipped, test_set):
    with pytest.raises(ValueError, match="10 classes and the flow 5"):
        measure(perturbed(image_size=28, channels=1, patch_size=7), test_set)
    with pytest.raises(ValueError, match="5"):
        measure(perturbed(image_size=28, channels=1, patch_size=7), test_set.subset([0]))
    with pytest.raises(ValueError, match="unconditional"):
        measure(perturbed(num_classes=0), test_set)
    with pytest.raises(ValueError, match="at least 1 image"):
        measure(shipped, test_set, limit=0)
    with pytest.raises(ValueError, match="batch_size was 0"):
        measure(shipped, test_set, batch_size=0)


def test_bayes_scores_refuse(images, as_users_run):
    flow = perturbed()
    x, _ = images(flow)
    with pytest.raises(ValueError, match="to_float"):
        bayes_scores(flow, x.to(torch.uint8))
    bad = x.clone()
    bad[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="x holds NaN"):
        bayes_scores(flow, bad)
    with torch.no_grad():
        flow.blocks[0].params_out.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="of 4 images are not finite"):
        bayes_scores(flow, x)


def test_a_diverged_flow_has_no_accuracy(test_set):
    flow = perturbed(0.02, torch.float32, image_size=28, channels=1, patch_size=7, num_classes=10)
    with torch.no_grad():
        flow.blocks[0].params_out.bias.fill_(float("nan"))
    for measure in (bayes_accuracy, training_free_accuracy):
        with pytest.raises(ValueError, match="of 20 images are not finite"):
            measure(flow, test_set, limit=20)


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_that_are_no_class_are_refused(label, shipped, test_set):
    labels = test_set.labels[:9].clone()
    labels[7] = label
    unlabelled = with_values(test_set.subset(range(9)), labels=labels)
    with pytest.raises(ValueError, match=rf"image 7 has the label {label}, and the flow's classes are 0..9"):
        training_free_accuracy(shipped, unlabelled, batch_size=4)
    assert training_free_accuracy(shipped, unlabelled, limit=2).n == 2  # images 0 and 4


def test_a_share_of_nothing_is_refused(shipped, test_set):
    with pytest.raises(ValueError, match="no images"):
        training_free_accuracy(shipped, Spiral(10).draw(0, seed=0))
    for right, total in ((0, 0), (5, 3), (-1, 3)):
        with pytest.raises(ValueError, match=f"{right} right of {total}"):
            labcore.evaluate.wilson(right, total)
    assert labcore.evaluate.wilson(3, 3).accuracy == 1.0


def test_scores_refuse(images, as_users_run):
    flow = perturbed()
    x, _ = images(flow)
    with pytest.raises(ValueError, match="num_classes set to the classes"):
        classify(perturbed(num_classes=0), x)
    with pytest.raises(ValueError, match="the model is"):
        class_scores(flow, x.float())
    with pytest.raises(ValueError, match="to_float"):
        class_scores(flow, x.to(torch.uint8))
    with pytest.raises(ValueError, match="takes \\(b, 3, 8, 8\\)"):
        class_scores(flow, x[:, :1])
    x[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="x holds NaN"):
        class_scores(flow, x)
    with torch.no_grad():
        flow.blocks[0].params_out.bias.fill_(float("inf"))
    with pytest.raises(ValueError, match="of 4 images are not finite"):
        class_scores(flow, torch.zeros_like(x))
