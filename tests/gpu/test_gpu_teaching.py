"""Training that looks at another network: alignment with an encoder, and a learned inverse taught by its flow."""

import contextlib
import warnings

import pytest
import torch

from gpu.device import CUDA, DEVICE, MID, error, exact, mid_flow, needs_cuda, numbers, slow_on_a_cpu
from gpu.runs import Waits, embedded, go, pictures, steps, trainable
from labcore import BackwardModel
from labcore.config import AlignConfig, BackwardConfig, StudentConfig
from labcore.rng import StepNoise
from labcore.runs.train import run_training
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.train.distillation import Distillation, measure_rms
from labcore.train.log import read_log
from labcore.types import Batch

SITES = ((1, 2), (2, 1))


@contextlib.contextmanager
def fused():
    """On a GPU, normalisation that torch does not fuse is an error."""
    with warnings.catch_warnings():
        if CUDA:
            warnings.filterwarnings("error", message="Mismatch dtype")
        yield


class Tokens:
    """An encoder's tokens that are given: a function of the row, kept on the CPU as those from disk are."""

    width, about = 24, "random"

    def __init__(self, tokens: int):
        self.kept = numbers(len(pictures()), tokens, self.width).float()

    def __call__(self, batch: Batch) -> torch.Tensor:
        found = self.kept[batch.index.cpu()]
        return (found.pin_memory() if CUDA else found).to(batch.x.device, non_blocking=True)


@slow_on_a_cpu
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("targets", ["cached", "computed"])
def test_aligned(direction, targets, tmp_path, monkeypatch):
    """Three steps with the embedded encoder in bf16."""
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    align = dict(direction=direction, sites=SITES, targets=targets)
    config = embedded(3, 64, align=align, batch_size=16, precision="bf16")
    with fused():
        assert run_training(config, tmp_path / "run", previews=False).finished
    log = [record for record in read_log(tmp_path / "run") if "align" in record]
    assert len(log) == 3
    for record in log:
        assert 0 < record["align"] < 2 and abs(record["nats_per_dim"]) < 100


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_no_waits_in_an_aligned_step(direction, tmp_path):
    model = trainable()
    config = AlignConfig(direction=direction, sites=SITES)
    objective = LikelihoodAndAlignment(config, model.config, Tokens(model.config.tokens))
    waits = Waits(2, 5)
    log = go(tmp_path, steps(6, precision="bf16"), model, objective, prepare=waits)
    assert waits.calls == 6 and 0 < log[-1]["align"] < 2


def student(**changes) -> BackwardModel:
    kept = {name: MID[name] for name in ("image_size", "patch_size", "channels", "num_classes", "width", "head_dim")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BackwardModel(BackwardConfig(**kept, num_blocks=MID["num_blocks"], layers_per_block=1, **changes))


def batch_of(count: int) -> tuple[Batch, StepNoise]:
    """Pictures on the device."""
    pixels, labels = pictures().__getitems__(list(range(count)))
    x = pixels.to(DEVICE).float() / 127.5 - 1
    mirrored = torch.zeros(count, dtype=torch.bool, device=DEVICE)
    return Batch(x, labels.to(DEVICE), torch.arange(count), mirrored), StepNoise(0, 0, count, DEVICE)


def distillation(model: BackwardModel, **changes) -> Distillation:
    flow = mid_flow().to(DEVICE)
    constants = measure_rms(flow, *batch_of(8), model.config.denoiser)
    return Distillation(StudentConfig(**changes), model.config, flow, constants)


@pytest.mark.parametrize("max_guidance", [0.0, 1.0])
def test_teaches_inverse(max_guidance, tmp_path):
    """Six steps in bf16, three of them without a wait."""
    model, waits = student(max_guidance=max_guidance), Waits(2, 5)
    with fused():
        log = go(tmp_path, steps(6, precision="bf16"), model, distillation(model), prepare=waits)
    assert waits.calls == 6 and 0 < log[-1]["distance/image"] < 100 and 0 < log[-1]["loss"] < 100


def products() -> tuple[str, str]:
    """How torch computes products and convolutions of float32."""
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


def test_states_of_the_teacher(record_property):
    """Under autocast the flow is computed in float32, with TF32 products on a GPU; the switch is back afterwards."""
    objective = distillation(student())
    batch, noise = batch_of(4)
    before = products()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        taught = objective.taught(batch, noise)
    assert products() == before
    flow = objective.flow
    noisy = (batch.x + flow.config.noise_std * noise.normal("noise", tuple(batch.x.shape[1:]))).double().cpu()
    with torch.no_grad():
        want = exact(flow)(noisy, batch.y.cpu())
    states = (taught.z, *taught.states)
    wanted = (want.z, *want.latents[-2::-1], flow.patchify(noisy))
    errors = [error(a, b) for a, b in zip(states, wanted, strict=True)]
    record_property("errors of the teacher's states", errors)
    assert all(state.dtype == torch.float32 for state in states) and max(errors) < 2e-3


@needs_cuda
def test_switch_after_an_error():
    """TF32 is off again where the teacher fails."""
    from labcore import tf32

    objective = distillation(student())
    batch, noise = batch_of(4)
    with pytest.raises(ValueError), torch.autocast(DEVICE.type, torch.bfloat16):
        objective.taught(batch._replace(x=batch.x[:, :1]), noise)
    assert not tf32.enabled()
