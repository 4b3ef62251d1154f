"""Pixels to training batches: ranges, dequantisation, bits/dim, the order of batches, and noise whatever the split."""

import math
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL
from torch import nn

from labcore import TarFlow, TarFlowConfig
from labcore.config import TrainConfig
from labcore.data import ImageData, load
from labcore.data.loaders import BalancedStepSampler, StepSampler, micro_batches
from labcore.data.transforms import bits_per_dim, dequantize, flip, quantize, tile, to_float, to_uint8
from labcore.evaluate import bayes_accuracy, bayes_classify, bayes_scores, likelihood
from labcore.evaluate.bayes import wilson
from labcore.rng import StepNoise, generator, normal_per_item
from labcore.train import start


def test_ranges():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x = to_float(pixels)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(to_uint8(x), pixels)
    for u in (0.0, 0.5, 0.999):
        y = dequantize(x, torch.full_like(x, u))
        assert y.min() >= -1 and y.max() < 1
        assert torch.equal(quantize(y), pixels)


def test_uniform_pixels_are_eight_bits():
    """The uniform density on [-1, 1)^d has ln 2 nats a dimension."""
    assert bits_per_dim(math.log(2)) == pytest.approx(8, abs=1e-12)


def test_flip_mirrors_about_half_and_only_mirrors():
    x = torch.rand(200, 1, 4, 4)
    out, mirrored = flip(x, StepNoise(0, 0, 200, "cpu"))
    assert torch.equal(out[mirrored], x[mirrored].flip(-1))
    assert torch.equal(out[~mirrored], x[~mirrored])
    assert 70 < int(mirrored.sum()) < 130


def test_noise_does_not_depend_on_how_a_step_is_split():
    whole = StepNoise(7, 3, 12, "cpu").normal("noise", (2, 2))
    parts = [StepNoise(7, 3, 12, "cpu").share(slice(i, i + 4)).normal("noise", (2, 2)) for i in (0, 4, 8)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(StepNoise(7, 4, 12, "cpu").normal("noise", (2, 2)), whole)
    assert not torch.equal(StepNoise(7, 3, 12, "cpu").normal("other", (2, 2)), whole)


def test_named_generators_are_stable():
    """These numbers may never change: saved results depend on them."""
    assert generator(0, "order", 1).initial_seed() == generator(0, "order", 1).initial_seed()
    assert generator(0, "order", 1).initial_seed() != generator(0, "order", 2).initial_seed()
    assert generator(0, "sample", 3).initial_seed() == 838996519554926668
    assert torch.equal(normal_per_item(1, "a", range(2, 5), (3,))[1], normal_per_item(1, "a", range(3, 4), (3,))[0])


def order(**changes):
    arguments = dict(length=50, batch_size=12, seed=0, start=0, stop=9) | changes
    return list(StepSampler(**arguments))


def test_epochs_are_permutations_without_the_rest():
    batches = order()
    for epoch in (0, 1):
        seen = {i for batch in batches[4 * epoch : 4 * epoch + 4] for i in batch}
        assert len(seen) == 48
    assert batches[0] != batches[4]


def test_resuming_is_starting_later():
    assert order(start=5) == order()[5:]


def test_processes_and_micro_batches_share_a_step():
    whole = order()
    split = [order(accumulation=3, world=2, rank=r) for r in (0, 1)]
    for step in range(9):
        assert [i for m in range(3) for r in (0, 1) for i in split[r][3 * step + m]] == whole[step]


class TestBalanced:
    """Epochs with equally many images of each class."""

    LABELS = torch.tensor([0] * 40 + [2] * 7 + [5] * 3)

    def batches(self, **changes):
        names = ("batch_size", "seed", "start", "stop", "accumulation", "rank", "world")
        values = dict(batch_size=10, seed=0, start=0, stop=10, accumulation=1, rank=0, world=1) | changes
        return list(BalancedStepSampler(self.LABELS, *(values[name] for name in names)))

    def test_classes_are_equal_but_for_one(self):
        batches = self.batches()
        for epoch in (batches[:5], batches[5:]):
            rows = [row for batch in epoch for row in batch]
            assert sorted(self.LABELS[rows].bincount()[[0, 2, 5]].tolist()) == [16, 17, 17]
            for label in (2, 5):  # every image of a small class as often as any other, but for one
                times = torch.tensor(rows).bincount(minlength=50)[label == self.LABELS]
                assert times.max() - times.min() <= 1
            assert len({row for row in rows if row < 40}) >= 16

    def test_every_image_of_a_large_class_comes_in_time(self):
        assert len({row for batch in self.batches(stop=100) for row in batch}) == 50

    def test_it_resumes_and_is_shared_like_the_other(self):
        whole = self.batches()
        assert self.batches(start=5) == whole[5:] and self.batches(seed=1) != whole
        split = [self.batches(accumulation=1, world=2, rank=rank) for rank in (0, 1)]
        assert [a + b for a, b in zip(*split, strict=True)] == whole

    @pytest.mark.parametrize("sampling", [None, "balanced"])
    def test_the_setting_chooses_the_sampler(self, sampling, tmp_path):
        images = ImageData(torch.zeros(50, 1, 1, 1, dtype=torch.uint8), self.LABELS, tuple("abcdef"), "a", "train")
        config = TrainConfig(steps=10, batch_size=10, sampling=sampling)
        task = start.Task(nn.Identity(), nn.Identity(), images, config, tmp_path, None, {}, None)
        task.model.config = None  # an unconditional model
        world = SimpleNamespace(device=torch.device("cpu"), process_index=0, num_processes=1)
        expected = self.batches() if sampling else list(StepSampler(50, 10, 0, 0, 10))
        assert list(start._inputs(task, world, 0).sampler) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_sampled_images(workers):
    data = load("fashion-mnist-12k", "test")
    sampler = StepSampler(len(data), 10, 0, 3, 6)
    got = list(micro_batches(data, sampler, workers))
    for (images, labels, index), rows in zip(got, sampler, strict=True):
        assert torch.equal(images, data.images[rows]) and torch.equal(labels, data.labels[rows])
        assert index.tolist() == rows


@pytest.mark.parametrize(
    ("batch", "message"), [(0, "allowed are 1..50"), (51, "allowed are 1..50"), (10, "multiple of 6")]
)
def test_batches_that_cannot_be(batch, message):
    with pytest.raises(ValueError, match=message):
        order(batch_size=batch, accumulation=3, world=2)


def test_tile():
    sheet = tile(torch.stack([torch.full((1, 2, 2), v) for v in (-1.0, 0.0, 1.0)]), columns=2, gap=1)
    assert sheet.shape == (5, 5, 1)
    assert sheet[0, 0] == 0 and sheet[0, 3] == 128 and sheet[3, 0] == 255 and sheet[2, 0] == 255


def small_set(n=40, k=5, seed=0) -> ImageData:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=g, dtype=torch.uint8)
    return ImageData(images, torch.arange(n) % k, tuple("abcde"), "random", "test")


def test_likelihood_of_a_known_density():
    """A fresh flow is the identity: images are scored by a standard normal."""
    flow, data = TarFlow(TarFlowConfig(**SMALL, noise_std=0.0)).eval(), small_set()
    want = -torch.distributions.Normal(0.0, 1.0).log_prob(to_float(data.images)).flatten(1).sum(1)
    record = likelihood(flow, data, batch_size=7)
    assert record.nats == pytest.approx(float(want.mean()), rel=1e-5)
    assert record.standard_error == pytest.approx(float(want.std() / 40**0.5), rel=1e-4)
    assert record.nats_per_dim == pytest.approx(record.nats / 192)
    assert record.bits_per_dim is None and "sigma 0" in record.density and record.n == 40


def test_likelihood_does_not_depend_on_the_batch():
    flow, data = TarFlow(TarFlowConfig(**SMALL)).eval(), small_set()
    a, b = likelihood(flow, data, batch_size=7), likelihood(flow, data, batch_size=40)
    assert a.nats == pytest.approx(b.nats, rel=1e-6)
    assert likelihood(flow, data, limit=15, batch_size=4).n == 15


def test_measuring_leaves_the_global_generator_alone():
    flow, data, before = TarFlow(TarFlowConfig(**SMALL)).eval(), small_set(), torch.get_rng_state()
    likelihood(flow, data)
    bayes_accuracy(flow, data)
    list(micro_batches(data, StepSampler(40, 8, 0, 0, 3)))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="at least 1"):
        bayes_accuracy(flow, data, limit=0)


def test_bits_per_dim_only_after_dequantisation():
    flow = TarFlow(TarFlowConfig(**SMALL, noise="uniform")).eval()
    record = likelihood(flow, small_set())
    assert record.bits_per_dim == pytest.approx(bits_per_dim(record.nats_per_dim))
    assert "dequantised" in record.density and "bits/dim" in str(record)


def test_bayes_finds_the_class_that_made_the_images_likely():
    """Class k shifts every pixel: log p(x | k) is highest where x lies nearest to that class's mean."""
    from conftest import perturbed

    flow = perturbed(dtype=torch.float32)
    data = small_set(10)
    x = to_float(data.images)
    scores = bayes_scores(flow, x)
    for k in range(5):
        torch.testing.assert_close(scores[:, k], flow.log_prob(x, torch.full((10,), k)))
    assert torch.equal(bayes_classify(flow, x), scores.argmax(1))
    right = int((scores.argmax(1) == data.labels).sum())
    assert bayes_accuracy(flow, data, batch_size=3).accuracy == right / 10
    assert bayes_accuracy(flow, data, limit=4, batch_size=3).n == 4
    with pytest.raises(ValueError, match="unconditional"):
        bayes_scores(perturbed(dtype=torch.float32, num_classes=0), x)


def test_wilson_interval():
    """Wilson (1927): 8 of 10 gives 0.49 to 0.94."""
    a = wilson(8, 10)
    assert (round(a.low, 2), round(a.high, 2)) == (0.49, 0.94)


def test_wilson_intervals_stay_within_0_and_1():
    """With none or all right: 0 to z^2 / (n + z^2), and the mirror of it, whatever rounding does."""
    for n in range(1, 400):
        none, every = wilson(0, n), wilson(n, n)
        assert none.low >= 0 and every.high <= 1 and "-0.0%" not in str(none)
        assert none.high == pytest.approx(1.959964**2 / (n + 1.959964**2)) == 1 - every.low


@pytest.mark.parametrize(("n", "m"), [(1, 5), (7, 7), (2, 7)])
def test_both_attentions_are_one_function(n, m):
    """Values and gradients of the matrix-product and the fused implementation."""
    from labcore.kernels.attention import attention_by_matmul, attention_by_sdpa

    g = torch.Generator().manual_seed(0)
    shapes = [(3, 2, n, 8), (3, 2, m, 8), (3, 2, m, 8)]
    q, k, v = (torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes)
    outs = [f(q, k, v, 0.3) for f in (attention_by_matmul, attention_by_sdpa)]
    torch.testing.assert_close(outs[0], outs[1], atol=1e-12, rtol=0)
    weight = torch.randn(outs[0].shape, generator=g, dtype=torch.float64)
    grads = [torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in outs]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["raise RuntimeError('out of memory')", "pass"])
def test_readers_do_not_keep_a_process_from_ending(end):
    """torch and multiprocessing tell readers that are left to end by a signal, and wait for them."""
    code = f"""
        import torch
        from labcore.data import ImageData
        from labcore.data.loaders import in_order

        images = ImageData(torch.zeros(100, 1, 2, 2, dtype=torch.uint8), torch.zeros(100).long(), ("a",), "grey", "test")

        def work():
            batches = iter(in_order(images, 10, num_workers=1))
            next(batches)
            {end}
            return batches

        kept = work()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if "raise" in end else 0), done.stderr
    assert ("out of memory" in done.stderr) == ("raise" in end)
