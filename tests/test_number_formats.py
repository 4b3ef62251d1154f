"""Results are not rounded to bfloat16 by autocast, norms see one number format, and numbers are not asked of a GPU."""

import copy

import pytest
import torch
from conftest import perturbed
from torch.utils._python_dispatch import TorchDispatchMode

from labcore import TarFlow
from labcore.biflow.cfg import per_state
from labcore.biflow.model import BackwardModel
from labcore.config import BackwardConfig
from labcore.data import load
from labcore.data.transforms import to_float
from labcore.guidance import per_block
from labcore.nn import embed
from labcore.nn.layer import make_norm
from labcore.runs.models import find_model

BF16 = dict(device_type="cpu", dtype=torch.bfloat16)
SIZES = dict(image_size=8, channels=3, patch_size=2, width=16, num_blocks=3, layers_per_block=2, head_dim=8)


class Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for: its values as numbers of Python, or on the CPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        names = (
            "aten._local_scalar_dense.default",
            "aten.is_nonzero.default",
            "aten.equal.default",
            "aten.nonzero.default",
        )
        self.count += str(func) in names
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch):
    """Without the look at labels on a CPU, which is not made on a GPU."""
    monkeypatch.setattr(embed.torch.compiler, "is_compiling", lambda: True)
    return Waits()


def backward(seed: int = 0, dtype=torch.float32, **changes) -> BackwardModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BackwardModel(BackwardConfig(**{**SIZES, **changes})).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=0.1)
    return model.to(dtype)


def errors(flow: TarFlow, x: torch.Tensor, y: torch.Tensor | None) -> list[tuple[float, float]]:
    """RMS errors under autocast of z and of the log-determinant: as it is, and with the output layer under autocast too."""
    found = []
    with torch.no_grad():
        exact = copy.deepcopy(flow).double()(x.double(), y)
        for rounded in (False, True):
            for block in flow.blocks if rounded else ():
                block.raw_params = lambda h, out=block.params_out: out(h)
            with torch.autocast(**BF16):
                out = flow(x, y)
            pairs = (out.z, exact.z), (out.log_det, exact.log_det)
            found.append(tuple(float((a - b).square().mean().sqrt()) for a, b in pairs))
    return found


def test_autocast_does_not_round_the_parameters_of_the_affine_step(images):
    """On the shipped flow the error of z falls from 1.5e-2 to 9e-3; that of the log-determinant over some flows."""
    data = load("fashion-mnist-12k", "test")
    x = to_float(data.images[:4]) + 0.1 * torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    (z, _), (z_rounded, _) = errors(find_model("fashion-tarflow"), x, data.labels[:4])
    assert z < 0.011 and z < 0.75 * z_rounded
    flows = [perturbed(0.1, torch.float32, seed=seed) for seed in range(4)]
    found = torch.tensor([errors(flow, *images(flow, 16)) for flow in flows])
    (z, log_det), (z_rounded, log_det_rounded) = found.square().mean(0).sqrt().tolist()
    assert z < 0.9 * z_rounded and log_det < 0.9 * log_det_rounded and log_det < 0.11
    scales = []
    with torch.no_grad(), torch.autocast(**BF16):
        perturbed(dtype=torch.float32)(
            images(flows[0])[0], None, callback=lambda _, block: scales.append(block.log_scale)
        )
    assert all((s[:, 1:-1] != s[:, 1:-1].bfloat16()).float().mean() > 0.9 for s in scales)


def test_the_layers_add_to_float32(images):
    """Without classes and learned positions all that enters the first layer is the output of a product."""
    flow, seen = perturbed(dtype=torch.float32, positions="rope", num_classes=0), []
    flow.blocks[0].layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.no_grad(), torch.autocast(**BF16):
        flow(images(flow)[0])
    assert seen == [torch.float32]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_output_layer_keeps_the_format_of_the_flow(dtype, images, as_users_run):
    flow = perturbed().to(dtype)
    x, y = images(flow)
    log_scale, shift = flow.blocks[0].next_params(flow.patchify(x), flow.blocks[0].condition(y))
    assert log_scale.dtype == shift.dtype == dtype


def test_the_output_layer_compiles_without_a_break(images, as_users_run):
    flow = perturbed(dtype=torch.float32)
    tokens = flow.patchify(images(flow)[0])
    block = flow.blocks[0]
    with torch.autocast(**BF16), torch.no_grad():
        program = torch.compile(block.forward, backend="eager", fullgraph=True)
        torch.testing.assert_close(program(tokens).z, block(tokens).z)


def test_autocast_does_not_round_the_states_of_the_learned_inverse():
    model = backward()
    z = torch.randn(3, 16, 12)
    with torch.autocast(**BF16), torch.no_grad():
        out = model(z)
    assert all((state != state.bfloat16()).float().mean() > 0.5 for state in out.states)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seen", [torch.float32, torch.bfloat16])
def test_no_norm_mixes_number_formats(seen):
    """torch warns "Mismatch dtype between input and weight" and takes the slow way."""
    with torch.autocast(**BF16), torch.no_grad():
        backward(num_classes=2, max_guidance=1.0)(torch.randn(2, 16, 12), torch.tensor([0, 1]), 0.5)
        perturbed(0.05, torch.float32, norm="rmsnorm", positions="rope", num_classes=0)(torch.randn(2, 3, 8, 8))
    norm = make_norm("rmsnorm", 64)
    with torch.no_grad():
        norm.weight.add_(torch.randn(64), alpha=0.1)
    x = torch.randn(100, 64).to(seen)
    exact = torch.nn.functional.rms_norm(x.double(), (64,), norm.weight.double(), 1e-6)
    with torch.autocast(**BF16):
        assert (norm(x) - exact).abs().amax() < 2e-6  # 8e-3 where the result is rounded, 2e-2 where the weight is


def test_guidance_by_numbers_is_not_asked_of_the_device(waits, as_users_run):
    one, two = backward(num_classes=5, max_guidance=2.0), backward(num_classes=5)
    z, y = torch.randn(2, 16, 12), torch.tensor([0, 1])
    with waits, torch.no_grad():
        for g in (0, 0.0, 1.5, [0.0, 1.0, 2.0], (0.5, 0.5, 0.0)):
            per_block(g, 3, z)
        one(z, y, 1.0), two(z, y, 1.0), two(z, y, per_state(1.0, 0.5, two.config))
    assert waits.count == 0
    with waits:
        per_block(torch.tensor([0.0, 1.0]), 3, z)
    assert waits.count <= 2


def test_guidance_is_what_it_was(as_users_run):
    z = torch.zeros(2, 16, 12, dtype=torch.float64)
    assert per_block(0, 3, z) == per_block(torch.zeros(2), 3, z) == per_block([0, 0.0, 0], 3, z) == [None] * 3
    rows = per_block([1, 0.0, 2.5], 3, z)
    assert rows[1] is None and rows[2].tolist() == [[2.5], [2.5]] and rows[0].dtype == torch.float64
    assert per_block(torch.tensor([0.0, -1.0]), 3, z)[2].tolist() == [[0.0], [-1.0]]
    assert per_block(torch.tensor(2), 3, z)[0].tolist() == per_block(2, 3, z)[0].tolist() == [[2.0], [2.0]]
    assert per_block(torch.tensor([1.0, 2.0]).numpy(), 3, z)[0].tolist() == [[1.0], [2.0]]
    for wrong in (
        float("nan"),
        [0.0, float("inf"), 0.0],
        torch.tensor([0.0, float("nan")]),
        torch.tensor(-float("inf")),
    ):
        with pytest.raises(ValueError, match="guidance holds NaN or infinity"):
            per_block(wrong, 3, z)
    with pytest.raises(ValueError, match="guidance has 2 values"):
        per_block([1.0, 2.0], 3, z)
    with pytest.raises(ValueError, match=r"guidance has shape \(3,\)"):
        per_block(torch.ones(3), 3, z)
