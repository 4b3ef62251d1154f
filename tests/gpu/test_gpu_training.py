"""Training on the device: number formats, resuming, compiling, recomputing, memory, and no waits."""

import copy
import sys
import warnings

import pytest
import torch

from gpu.device import CUDA, DEVICE, MID, needs_cuda, numbers, slow_on_a_cpu
from gpu.runs import Waits, embedded, go, peak, pictures, steps, trainable, weights
from labcore.config import RunConfig
from labcore.plan import plan
from labcore.rng import StepNoise
from labcore.runs.train import run_training
from labcore.train import checkpoint
from labcore.train.log import RunLog, read_log
from labcore.train.loop import Hooks, Trained
from labcore.train.objectives import Likelihood
from labcore.train.recompute import recompute_layers
from labcore.types import Batch

FORMATS = ("fp32", "bf16", "fp16") if CUDA else ("fp32", "bf16")


def test_no_waits_in_a_step(tmp_path):
    """The second to the fourth step of six; the loop between steps too."""
    waits = Waits(2, 5)
    log = go(tmp_path, steps(6, accumulation=1, precision="bf16", label_dropout=0.1), prepare=waits)
    assert waits.calls == 6 and log[-1]["step"] == 6


@slow_on_a_cpu
def test_train_fp32_bf16_fp16(tmp_path, record_property):
    """Twenty steps of the embedded pictures in each format."""
    ends = {}
    for precision in FORMATS:
        config = embedded(20, None if CUDA else 200, precision=precision, lr=2e-3)
        assert run_training(config, tmp_path / precision, previews=False).finished
        losses = [record["nats_per_dim"] for record in read_log(tmp_path / precision) if "nats_per_dim" in record]
        assert len(losses) == 20 and all(abs(loss) < 100 for loss in losses)
        assert losses[-1] < losses[0] - 0.05
        ends[precision] = sum(losses[-5:]) / 5
    record_property("nats/dim of the last five steps", ends)
    assert max(ends.values()) - min(ends.values()) < 2e-2, ends


@needs_cuda
def test_auto_is_bf16_and_says_so(tmp_path):
    go(tmp_path, steps(2, precision="auto"))
    assert checkpoint.latest(tmp_path).state["precision"] == "bf16"


class Noted(Likelihood):
    """The likelihood, and what each step was given: rows of the data set, and noise."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, flow, batch, noise):
        self.given.append((batch.index.cpu(), batch.mirrored.cpu(), noise.normal("noise", (2,)).cpu()))
        return super().forward(flow, batch, noise)


def test_train_resumes(tmp_path):
    """Ten steps, an error, ten more: as twenty. Rows, noise and mirroring are equal, weights up to the order of sums."""

    def unplugged(_):
        raise OSError("the plug was pulled")

    config = steps(20, log_every=5, eval_every=10, accumulation=2, label_dropout=0.3, lr=1e-4)
    calm, rough, again = Noted(), Noted(), Noted()
    go(tmp_path / "calm", config, trainable(), calm)
    with pytest.raises(OSError, match="plug"):
        go(tmp_path / "rough", config, trainable(), rough, hooks=Hooks(evaluate=unplugged))
    assert checkpoint.latest(tmp_path / "rough").step == 10
    go(tmp_path / "rough", config, trainable(seed=1), again)
    assert len(calm.given) == len(rough.given) + len(again.given) == 40
    for a, b in zip(calm.given, rough.given + again.given, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    want, got = weights(tmp_path / "calm"), weights(tmp_path / "rough")
    assert want.keys() == got.keys()
    for name in want:
        torch.testing.assert_close(determined(name, got[name]), determined(name, want[name]), atol=1e-5, rtol=1e-5)


def determined(name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight without the biases of keys: softmax does not see them, so that their gradients are rounding errors, which Adam
    scales up to whole steps; on a GPU the order of sums differs from run to run."""
    if not name.endswith("qkv.bias"):
        return weight
    queries, _, values = weight.chunk(3)
    return torch.cat([queries, values])


@slow_on_a_cpu
def test_train_compiled(tmp_path, monkeypatch, record_property):
    """No fallback, no graph break, at most 4 programs, none of them made after the first record."""
    from torch._dynamo.utils import counters

    if any(type(found).__module__ == "jaxtyping._import_hook" for found in sys.meta_path):
        pytest.skip("torch.compile cannot trace shape checks; give --jaxtyping-packages=")
    torch._dynamo.reset()
    counters.clear()
    programs, write = [], RunLog.write

    def noted(log, step, values):
        programs.append(counters["stats"]["unique_graphs"])
        write(log, step, values)

    settings = dict(limit=200, log_every=3, precision="bf16", label_dropout=0.1)
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.filterwarnings("error", message=".*going on without it")
        patch.setattr(RunLog, "write", noted)
        run_training(embedded(9, compile=True, **settings), tmp_path / "compiled", previews=False)
    record_property("programs at each record", programs)
    assert not counters["graph_break"] and 1 <= programs[0] == programs[-1] <= 4, (programs, counters["graph_break"])
    run_training(embedded(9, **settings), tmp_path / "plain", previews=False)
    logs = [[r for r in read_log(tmp_path / name) if "nats_per_dim" in r] for name in ("compiled", "plain")]
    for one, other in zip(*logs, strict=True):
        assert one["nats_per_dim"] == pytest.approx(other["nats_per_dim"], abs=2e-2)


def test_train_recomputes(record_property):
    """The same loss, and at most half of the memory."""
    config, count = trainable().config, 64 if CUDA else 2
    x, y = numbers(count, *config.image_shape).to(DEVICE, torch.float32), (torch.arange(count) % 10).to(DEVICE)
    batch = Batch(x, y, torch.arange(count), torch.zeros(count, dtype=torch.bool, device=DEVICE))
    losses, peaks, grads = [], [], []
    for again in (False, True):
        flow = trainable().to(DEVICE)
        assert not again or recompute_layers(flow) == config.num_blocks * config.layers_per_block
        with peak() as bytes_held:
            loss, _ = Trained(flow, Likelihood())(batch, StepNoise(0, 0, count, DEVICE))
            loss.backward()
            losses.append(loss.item())
        peaks.extend(bytes_held)
        grads.append(torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None]))
    record_property("MiB at most, plain and recomputed", [p / 2**20 for p in peaks])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    torch.testing.assert_close(grads[1], grads[0], atol=1e-6, rtol=1e-3)
    assert peaks[1] <= peaks[0] / 2


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_plan_memory(precision, tmp_path, record_property):
    """The plan says what a run's step takes."""
    settings = dict(steps=4, batch_size=128, log_every=4, precision=precision, save_every=100, eval_every=100)
    planned = plan(RunConfig(model=MID, train=settings))
    expected = planned.held + planned.activations * settings["batch_size"]
    with peak() as found:
        go(tmp_path, steps(**{**settings, "count": settings.pop("steps")}))
    record_property("MiB, planned and measured", [expected / 2**20, found[0] / 2**20])
    assert found[0] == pytest.approx(expected, rel=0.15)


def test_a_model_is_where_it_was_trained(tmp_path):
    """What a run gives back is on its device, in float32, and can be used."""
    model = trainable()
    go(tmp_path, steps(2, precision="bf16"), model)
    assert model.device.type == DEVICE.type and model.dtype == torch.float32
    kept = copy.deepcopy(model).eval()
    images, labels = pictures().__getitems__([0, 1])
    x = images.to(DEVICE).float() / 127.5 - 1
    assert bool(kept(x, labels.to(DEVICE)).z.isfinite().all())
