"""The student: its architecture, guidance by equations 4 and 5, and what it is taught by."""

import pytest
import torch
from conftest import perturbed
from torch import nn

from labcore import BackwardConfig, BackwardModel
from labcore.biflow import trajectory
from labcore.biflow.cfg import blend
from labcore.biflow.distill import adaptive
from labcore.biflow.norm_control import rms
from labcore.config import StudentConfig
from labcore.rng import StepNoise
from labcore.train.distillation import IMAGE, Distillation, measure_rms
from labcore.types import NULL, BackwardOutput, Batch

SIZES = dict(image_size=8, channels=1, patch_size=2, width=16, num_blocks=3, layers_per_block=2, head_dim=8)


def backward(**changes) -> BackwardModel:
    """A model whose gates and heads are not zero, in float64."""
    torch.manual_seed(0)
    model = BackwardModel(BackwardConfig(**{**SIZES, "num_classes": 4, **changes})).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return model


def noise(total: int = 6) -> StepNoise:
    return StepNoise(0, 0, total, "cpu")


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(6, 16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def y() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, NULL, 1])


@pytest.fixture
def flow():
    return perturbed(**SIZES, num_classes=4, dtype=torch.float32)


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(2)
    return Batch(torch.rand(6, 1, 8, 8) * 2 - 1, torch.tensor([0, 1, 2, 3, 0, 1]), torch.arange(6), torch.zeros(6) > 0)


class Distance:
    """A perceptual distance of so many images of a step."""

    def __init__(self, most: int | None):
        self.most = most

    def __call__(self, ours, theirs, noise):
        return (ours - theirs).abs().mean((1, 2, 3))[: self.most]


def objective(flow, batch, model: nn.Module, label_dropout: float = 0.0, **changes) -> Distillation:
    constants = measure_rms(flow, batch, noise(), model.config.denoiser)
    given = {"lpips": Distance(None), "efflite0": Distance(2)}
    return Distillation(StudentConfig(**changes), model.config, flow, constants, label_dropout, given)


@pytest.mark.parametrize("changes", [{}, dict(max_guidance=2.0), dict(handover="state"), dict(denoiser=False)])
def test_shapes_and_states(z, y, changes, tmp_path):
    model = backward(**changes)
    out = model(z, y)
    assert out.x.shape == (6, 1, 8, 8) and out.x.dtype == torch.float64
    assert len(out.states) == 3 + changes.get("denoiser", True) == model.config.num_states
    assert all(state.shape == z.shape for state in out.states)
    loaded = BackwardModel.from_pretrained(model.save_pretrained(tmp_path)).double()
    assert torch.allclose(loaded(z, y).x, out.x, atol=1e-5)  # files are float32


def test_every_token_sees_every_token(z, y):
    model = backward()
    jacobian = torch.autograd.functional.jacobian(lambda u: model(u, y[:1]).states[0].sum(-1), z[:1]).sum(-1)
    assert (jacobian[0, :, 0] != 0).all() and (jacobian.abs() > 1e-12).all()


def test_class_and_guidance_matter_and_images_do_not_mix(z, y):
    model = backward(max_guidance=2.0, class_tokens=3, guidance_tokens=2)
    other = torch.where(y == 1, 3, y)
    a, b = model(z, y, 0.7).x, model(z, other, 0.7).x
    same = (y == other)[:, None, None, None].expand_as(a)
    assert torch.equal(a[same], b[same]) and not torch.isclose(a[1], b[1]).any()
    c = model(z, y, torch.tensor([0.7, 0.7, 1.1, 0.7, 0.7, 0.7], dtype=torch.float64)).x
    assert torch.equal(a[0], c[0]) and not torch.isclose(a[2], c[2]).any()
    assert torch.allclose(model(z[:1], y[:1], 0.7).x, a[:1])


@pytest.mark.parametrize("most", [0.0, 2.0])
def test_certain_probabilities_are_labels(z, most):
    model, labels = backward(max_guidance=most), torch.tensor([0, 1, 2, 3, 0, 1])
    certain = torch.nn.functional.one_hot(labels, 4).double()
    assert torch.allclose(model(z, certain, 1.5).x, model(z, labels, 1.5).x)


@pytest.mark.parametrize("most", [0.0, 2.0])
def test_no_class_is_not_guided(z, y, most):
    model = backward(max_guidance=most)
    plain, guided = model(z, y, 0.0).x, model(z, y, 1.5).x
    nobody = y == NULL
    assert torch.allclose(plain[nobody], guided[nobody]) and not torch.isclose(plain[0], guided[0]).all()
    assert torch.allclose(model(z, None, 1.5).x, model(z, torch.full_like(y, NULL), 1.5).x)


def test_guidance_with_two_evaluations_is_equation_4(z, y):
    """Block by block, each with its own scale, and handed on guided."""
    model, scales = backward(), [0.5, 0.0, 1.5, 2.0]
    h, nobody = z, torch.full_like(y, NULL)
    for block, w in zip(model.blocks, scales, strict=True):
        h = (1 + w) * block(h, y) - w * block(h, nobody)
    assert torch.allclose(model.heads[-1](h), model(z, y, scales).states[-1])
    assert torch.allclose(model(z, y, 0.0).x, model(z, y).x)
    assert (model.evaluations(0.0), model.evaluations(1.0)) == (1, 2)
    assert backward(max_guidance=1.0).evaluations(1.0) == 1


class Guided(nn.Module):
    """A block that computes (1 + w) A(h | c) - w A(h) for an A of its own, as training with guidance wants it."""

    def __init__(self, seed: int, width: int):
        super().__init__()
        self.a = nn.Parameter(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double())

    def plain(self, h, y):
        return torch.tanh(h @ self.a) + (0 if y is None else 0.1 * (y + 1)[:, None, None])

    def forward(self, h, y, embedded):
        w = embedded[:, :1, None]
        return (1 + w) * self.plain(h, y) - w * self.plain(h, None)


def test_training_and_sampling_with_guidance_as_input_are_equation_5(y):
    model = backward(max_guidance=3.0)
    model.blocks = nn.ModuleList(Guided(i, 16) for i in range(4))
    model.guidance_embedding = nn.Module()
    model.guidance_embedding.forward = lambda w: w[:, None].expand(-1, 16)
    h = torch.randn(6, 16, 16, dtype=torch.float64)
    model._check = lambda z, y: None  # these blocks take hidden tokens from the start
    w = torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5, 2.5], dtype=torch.float64)
    want, guided, nobody = h, h, torch.full_like(y, NULL)
    for number, block in enumerate(model.blocks):
        want = block.plain(want, y)  # what the trajectory supervises is A(h | c)
        assert torch.allclose(model.blended(h, y, w).states[number], model.heads[number](want))
        scale = torch.where(y == NULL, 0.0, w)[:, None, None]
        guided = (1 + scale) * block.plain(guided, y) - scale * block.plain(guided, nobody)
        assert torch.allclose(
            model(h, y, w).states[number], model.heads[number](guided)
        )  # equation 4 with A, in one pass


def test_the_blend_at_scale_zero_is_the_plain_pass(z, y):
    model = backward(max_guidance=2.0)
    zero = torch.zeros(6, dtype=torch.float64)
    for a, b in zip(model.blended(z, y, zero).states, model(z, y, 0.0).states, strict=True):
        assert torch.allclose(a, b)
    assert torch.equal(blend(z, torch.full_like(z, 9.0), zero[:, None, None]), z)
    w = torch.full((6,), 1.3, dtype=torch.float64)
    model.blended(z, y, w).x.sum().backward()
    assert model.guidance_embedding.mlp[0].weight.grad.abs().max() > 0


def test_a_scale_outside_the_trained_range_is_warned_about(z, y):
    with pytest.warns(UserWarning, match="guidance runs from 2.5 to 2.5; this model was trained on 0 to 2"):
        backward(max_guidance=2.0)(z, y, 2.5)
    with pytest.raises(ValueError, match="no guidance input"):
        backward().blended(z, y, torch.ones(6).double())


def test_only_the_state_is_handed_on_where_that_is_wanted(z, y):
    """Hidden distillation: a block gets (b, t, d), the very state before it, and its hiddens reach nothing else."""
    model, seen = backward(handover="state"), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    out = model(z, y)
    assert torch.equal(seen[0], z)
    assert all(torch.equal(given, state) for given, state in zip(seen[1:], out.states[:-1], strict=True))
    assert all(block.token_in is not None for block in model.blocks)
    through = torch.autograd.grad(out.x.sum(), [model.heads[0].out.weight, *model.blocks[0].layers.parameters()])
    assert all(grad.abs().max() > 0 for grad in through)
    with torch.no_grad():
        model.heads[1].out.weight.zero_()  # nothing but its bias is left of all that comes before
    before = torch.autograd.grad(model(z, y).x.sum(), list(model.blocks[0].parameters()), allow_unused=True)
    assert all(grad is None or not grad.any() for grad in before)


@pytest.mark.parametrize("denoiser", [True, False])
def test_the_trajectory_goes_from_z_to_the_image(flow, batch, denoiser):
    noisy = batch.x + 0.1 * torch.randn_like(batch.x)
    found = trajectory(flow, noisy, batch.y, batch.x)
    states = [flow.patchify(noisy)]
    for block in flow.blocks:
        states.append(block(states[-1], batch.y).z)
    assert torch.equal(found.z, states[-1])
    assert all(torch.equal(a, b) for a, b in zip(found.states, states[-2::-1], strict=True))
    targets = found.targets(denoiser)
    assert len(targets) == 3 + denoiser
    assert torch.equal(targets[-1], flow.patchify(batch.x if denoiser else noisy))
    assert not any(state.requires_grad for state in (*targets, found.z))
    with torch.autocast("cpu", torch.bfloat16):  # what is taught is the map that the inverse is judged on
        assert torch.equal(trajectory(flow, noisy, batch.y, batch.x).z, found.z)


@pytest.mark.parametrize("guidance", [0.0, 0.5])
@pytest.mark.parametrize("normalise", ["none", "block", "sample"])
@pytest.mark.parametrize("strategy", ["naive", "hidden-distillation", "hidden-alignment"])
def test_the_loss_is_zero_at_the_flows_own_trajectory(flow, batch, strategy, normalise, guidance):
    class Perfect(nn.Module):
        config = BackwardConfig(
            **SIZES, num_classes=4, handover="state" if "dist" in strategy else "hidden", max_guidance=guidance
        )

        def forward(self, z, y, w=None):
            assert (w is None) == (guidance == 0)
            states = taught.targets(True)
            return BackwardOutput(batch.x + self.off, tuple(state + self.off for state in states))

        blended = forward

    model = Perfect()
    both = dict(lpips=0.4, efflite0=1.0)
    o = objective(flow, batch, model, strategy=strategy, normalise=normalise, perceptual=both)
    taught = o.taught(batch, noise())
    for off, zero in ((0.0, True), (0.1, False)):
        model.off = off
        loss, logs = o(model, batch, noise())
        assert (loss == 0) == zero
        assert ("distance/state-0" in logs) == (strategy != "naive")
        assert torch.allclose(torch.stack([logs["distance/lpips"], logs["distance/efflite0"]]), torch.tensor(off))


def test_the_loss_by_hand(flow, batch):
    model = backward().float()
    settings = dict(align_weight=0.7, image_weight=2.0, adaptive_power=0.5, adaptive_offset=0.1)
    o = objective(flow, batch, model, **settings)
    loss, logs = o(model, batch, noise())
    targets, out = o.taught(batch, noise()).targets(True), model(o.taught(batch, noise()).z, batch.y)
    terms = []
    for state, target in zip(out.states, targets, strict=True):
        d = ((state - target) ** 2).mean((1, 2)) / target.square().mean()
        terms.append((d * (d + 0.1) ** -0.5).mean())
        raw = d.mean()
    assert torch.allclose(loss, 2.0 * terms[-1] + 0.7 * torch.stack(terms[:-1]).mean(), rtol=1e-5)
    assert torch.allclose(logs["distance/image"], raw, rtol=1e-5)
    assert torch.allclose(logs["rms/state-2"], rms(targets)[0].mean())
    assert {"distance/state-2", "distance/state-0", "rms/image", "seconds/flow", "seconds/model"} <= logs.keys()


def test_adaptive_weights_take_out_the_scale():
    """p = 1: the gradient of a thousand times larger distance is the same; p = 0: it is a thousand times larger."""
    for power, ratio in ((0.0, 1000.0), (1.0, 1.0)):
        grads = []
        for scale in (1.0, 1000.0):
            x = torch.full((3,), 2.0, requires_grad=True)
            adaptive(scale * x, power, 1e-6).sum().backward()
            grads.append(x.grad)
        assert torch.allclose(grads[1] / grads[0], torch.tensor(ratio), rtol=1e-4)


def test_guidance_is_drawn_and_the_teacher_learns_nothing(flow, batch):
    model = backward(max_guidance=2.0).float()
    o = objective(flow, batch, model, label_dropout=0.5)
    loss, _ = o(model, batch, noise())
    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in flow.parameters())
    assert {name for name, _ in o.named_parameters()} == set() and list(o.state_dict()) == ["block_rms"]
    assert all(p.grad is not None for p in model.parameters())
    seen = []
    model.blended = lambda z, y, w: seen.append((y, w)) or model(z, y)
    o(model, batch, noise())
    y, w = seen[0]
    assert (y == NULL).any() and (w[y == NULL] == 0).all() and ((w[y != NULL] > 0) & (w[y != NULL] < 2)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_blocks=2), r"num_blocks \(3 and 2\)"),
        (dict(patch_size=4), r"patch_size \(2 and 4\)"),
        (dict(num_classes=7), r"num_classes \(4 and 7\)"),
        (dict(handover="state"), "'hidden-alignment' needs a model with handover 'hidden'"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_pairs_that_do_not_fit(flow, batch, changes, message):
    with pytest.raises(ValueError, match=message):
        Distillation(StudentConfig(), BackwardConfig(**{**SIZES, "num_classes": 4, **changes}), flow, torch.ones(4))


@pytest.mark.usefixtures("as_users_run")
def test_what_cannot_be(flow, z):
    with pytest.raises(ValueError, match="guidance needs classes"):
        BackwardConfig(**SIZES, max_guidance=1.0)
    with pytest.raises(ValueError, match="needs a multiple of 4"):
        BackwardConfig(**{**SIZES, "head_dim": 2})
    with pytest.raises(ValueError, match=r"this model takes floating \(b, 16, 4\)"):
        backward()(z[:, :3])
    with pytest.raises(ValueError, match="unconditional"):
        backward(num_classes=0)(z, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match="one per block, 4 of them"):
        backward()(z, None, [1.0, 2.0])
    with pytest.raises(ValueError, match="no distance was given for lpips"):
        Distillation(
            StudentConfig(perceptual={"lpips": 0.4}), BackwardConfig(**SIZES, num_classes=4), flow, torch.ones(4)
        )
    assert IMAGE == "image"


def test_the_papers_size():
    """BiFlow-B has 133M parameters."""
    sizes = dict(image_size=32, channels=4, patch_size=2, width=768, num_blocks=8, layers_per_block=2, num_classes=1000)
    with torch.device("meta"):
        model = BackwardModel(BackwardConfig(**sizes, max_guidance=0.5))
    count = sum(p.numel() for p in model.parameters())
    assert abs(count / 133e6 - 1) < 0.04, count
