"""R-REPA's losses, projectors, targets and objective, and training with them: oracles, and resumed equals undisturbed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training import MODEL, assert_same_run, folder, one_thread, unplugged  # noqa: F401
from torch.nn import functional as F
from typer.testing import CliRunner

from labcore import TarFlow, TarFlowConfig, encoders
from labcore.align.heads import Heads
from labcore.align.losses import LOSSES, TEMPERATURE
from labcore.cli.app import app
from labcore.config import AlignConfig, RunConfig
from labcore.data import load, to_float
from labcore.kinds import FLOW
from labcore.kinds.flow import default_sites, encoder_images
from labcore.rng import StepNoise
from labcore.runs.background import train_streamed
from labcore.runs.configure import configure
from labcore.runs.images import datasets
from labcore.runs.train import run_training
from labcore.train import checkpoint
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.train.log import read_log
from labcore.train.objectives import Likelihood
from labcore.train.targets import Cached, Computed
from labcore.types import Batch

pytestmark = pytest.mark.usefixtures("small_encoder")

SIZES = dict(
    image_size=8, channels=1, patch_size=2, width=16, num_blocks=4, layers_per_block=2, head_dim=8, num_classes=10
)


class Tokens:
    """Targets that are given."""

    about = "random"

    def __init__(self, width: int, tokens: int = 16):
        self.width, self.tokens = width, tokens

    def __call__(self, batch: Batch) -> torch.Tensor:
        return torch.randn(1000, self.tokens, self.width, generator=torch.Generator().manual_seed(1))[batch.index]


@pytest.fixture
def flow() -> TarFlow:
    torch.manual_seed(0)
    made = TarFlow(TarFlowConfig(**SIZES))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return made


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    x = torch.rand(6, 1, 8, 8) * 2 - 1
    return Batch(x, torch.arange(6), torch.arange(6), torch.zeros(6, dtype=torch.bool))


def noise(total: int = 6) -> StepNoise:
    return StepNoise(0, 0, total, "cpu")


def objective(**changes) -> LikelihoodAndAlignment:
    config = AlignConfig(**{"sites": ((3, 1), (4, 2)), **changes})
    return LikelihoodAndAlignment(config, TarFlowConfig(**SIZES), Tokens(12), label_dropout=0.0)


def test_losses_against_their_definitions():
    p, v = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    assert torch.allclose(LOSSES["cosine"](p, v), (1 - F.cosine_similarity(p, v, dim=-1)).mean(-1))
    assert torch.allclose(LOSSES["cosine"](2 * p, 3 * v), LOSSES["cosine"](p, v))
    by_hand = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        for j in range(5):
            cosines = torch.stack([F.cosine_similarity(p[i, j], v[i, k], dim=0) for k in range(5)]) / TEMPERATURE
            by_hand[i] += F.cross_entropy(cosines[None], torch.tensor([j])) / 5
    assert torch.allclose(LOSSES["nt-xent"](p, v), by_hand)
    standard = (v - v.mean(-1, keepdim=True)) / (v.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(LOSSES["mse"](p, v), ((p - standard) ** 2).mean((1, 2)))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_reward_the_target_and_work_in_float32(name):
    v = torch.randn(2, 5, 7)
    target = F.layer_norm(v, (7,))
    assert (LOSSES[name](target, v) < LOSSES[name](target.flip(1), v)).all()
    p = torch.randn(2, 5, 7, requires_grad=True)
    exact = LOSSES[name](p, v)
    with torch.autocast("cpu", torch.bfloat16):
        assert LOSSES[name](p, v).dtype == torch.float32
        assert torch.allclose(LOSSES[name](p, v), exact, atol=1e-6)
    target = v.clone().requires_grad_()
    LOSSES[name](p, target).sum().backward()
    assert p.grad is not None and target.grad is None


def test_projectors_are_shared_or_one_a_site():
    sites = ((1, 2), (4, 1))
    hiddens = {site: torch.randn(2, 5, 16) for site in sites}
    one, two = Heads(sites, 16, 32, 12, "shared"), Heads(sites, 16, 32, 12, "per-site")
    assert (len(one.projectors), len(two.projectors)) == (1, 2)
    assert {site: out.shape for site, out in two(hiddens).items()} == dict.fromkeys(sites, (2, 5, 12))
    assert torch.equal(one(hiddens)[4, 1], one.projectors[0](hiddens[4, 1]))
    assert torch.equal(two(hiddens)[4, 1], two.projectors[1](hiddens[4, 1]))
    kinds = [type(layer).__name__ for layer in one.projectors[0].layers]
    assert kinds == ["Linear", "SiLU", "Linear", "SiLU", "Linear"]


@pytest.mark.parametrize("direction", ["forward", "detach", "reverse", "reverse-literal"])
def test_the_objective_is_likelihood_plus_weight_times_alignment(flow, batch, direction):
    o = objective(direction=direction, weight=0.3)
    loss, logs = o(flow, batch, noise())
    nats, _ = Likelihood(label_dropout=0.0)(flow, batch, noise())
    assert torch.allclose(logs["nats_per_dim"], nats)
    x = batch.x + flow.config.noise_std * noise().normal("noise", (1, 8, 8))
    hiddens = flow(x, batch.y, hidden_sites=o.config.sites).hiddens  # of the noisy image
    by_hand = [LOSSES["cosine"](o.heads.projectors[0](h), Tokens(12)(batch)).mean() for h in hiddens.values()]
    assert torch.allclose(logs["align"], torch.stack(by_hand).mean(), atol=1e-6)
    assert torch.allclose(logs["align/block4-layer2"], by_hand[1], atol=1e-6)
    assert torch.allclose(loss, nats + 0.3 * logs["align"], atol=1e-6)
    assert {"seconds/encoder", "seconds/forward", "seconds/features"} <= logs.keys()


def test_a_batch_may_be_split(flow, batch):
    """The mean of two halves is the whole, for every loss."""
    for name in LOSSES:
        o = objective(loss=name)
        whole, _ = o(flow, batch, noise())
        halves = []
        for rows in (slice(0, 3), slice(3, 6)):
            part = Batch(*(value[rows] for value in batch))
            halves.append(o(flow, part, noise().share(rows))[0])
        assert torch.allclose(sum(halves) / 2, whole, atol=1e-5)


def test_projectors_follow_the_seed_and_leave_the_generator():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same = objective(), objective()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))


@pytest.fixture(scope="module")
def encoder():
    return encoders.load("efficientnet-lite0")


def test_kept_tokens_are_those_of_the_clean_and_mirrored_image(encoder, own_cache):
    data = load("fashion-mnist-12k", "test").subset(range(8))
    mirrored = torch.arange(8) % 2 == 0
    x = to_float(data.images)
    x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    batch = Batch(x, data.labels, torch.arange(8), mirrored)
    kept, computed = Cached(encoder, data, 7, mirror=True)(batch), Computed(encoder, 7)(batch)
    assert kept.shape == (8, 49, encoder.token_width(7))
    assert F.cosine_similarity(kept.float(), computed, dim=-1).min() > 0.9999
    unmirrored = Cached(encoder, data, 7)(batch._replace(mirrored=torch.zeros(8, dtype=torch.bool)))
    assert F.cosine_similarity(unmirrored[::2].float(), computed[::2], dim=-1).mean() < 0.99
    assert not computed.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(sites=()), "at least 1 item"),
        (dict(sites=((1, 1), (1, 1))), r"\[\(1, 1\)\] were given more than once"),
        (dict(sites=((3, 1),)), r"\[\(3, 1\)\] are outside the model; .* blocks 1\.\.2 and layers"),
        (dict(sites=((1, 2),)), r"layers 1\.\.1"),
        (dict(direction="backward"), "forward"),
        (dict(direction="detach", adjoint_sweeps=2), "only 'reverse' has sweeps"),
        (dict(loss="l1"), "cosine"),
        (dict(adjoint_sweeps=16), "with 16 tokens, 15 give the full gradient"),
        (dict(weight=0.0), "greater than 0"),
        (dict(image_size=64), r"align\.image_size was 64 for fashion-mnist-12k; only the pictures of a folder"),
        (dict(image_size=64, targets="computed"), "image_size was 64 with targets 'computed', which are of the images"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(model=MODEL, train=dict(steps=2), align={"sites": ((2, 1),), **changes})


def test_default_sites_are_the_papers_for_its_model():
    model = TarFlowConfig(image_size=64, patch_size=4, width=64, num_blocks=8, layers_per_block=8)
    assert default_sites("reverse", model) == ((7, 6), (8, 6))
    assert default_sites("forward", model) == ((1, 6), (2, 6))
    assert default_sites("reverse", model.replace(num_blocks=1)) == ((1, 6),)
    made = configure(align="detach", settings=["align.weight=0.5", "train.steps=200"])
    assert (made.align.direction, made.align.sites, made.align.weight) == ("detach", ((7, 2), (8, 2)), 0.5)
    assert configure().align is None and configure(align="off").align is None


@pytest.mark.usefixtures("as_users_run")
def test_a_missing_encoder_is_refused_before_training(folder, tmp_path, own_cache):  # noqa: F811
    run = align_config(folder, encoder="dinov2-b")
    with pytest.raises(FileNotFoundError, match="dinov2"):
        run_training(run, tmp_path / "run", previews=False)
    with pytest.raises(ValueError, match="efficientnet-lite0"):
        run_training(align_config(folder, encoder="dinov3"), tmp_path / "run", previews=False)
    with pytest.raises(ValueError, match="no stage of width 99"):
        run_training(align_config(folder, stage=99), tmp_path / "run", previews=False)
    assert not (tmp_path / "run" / "checkpoints").exists()


def align_config(folder: Path, steps: int = 12, **align) -> RunConfig:  # noqa: F811
    train = dict(steps=steps, batch_size=16, lr=3e-3, warmup_steps=2, ema_decay=0.9, precision="fp32", keep=9)
    train |= dict(log_every=2, eval_every=12, save_every=4)
    data = dict(name="folder", path=str(folder), image_size=8, flip=True)
    return RunConfig(model=MODEL, data=data, train=train, align={"sites": ((2, 1),), "stage": 40, **align})


@pytest.mark.slow
def test_the_encoder_sees_the_original_pictures_or_the_small_ones(folder, own_cache):  # noqa: F811
    """Row i of its tokens is of the picture that row i of the training images is, at the size that the setting says."""
    seen = {}
    for size in (None, 24):
        config = align_config(folder, image_size=size)
        config = config.replace(data=config.data.replace(limit=20).model_dump())
        training, _ = datasets(config)
        shown = encoder_images(config, training)
        assert shown.files == training.files and len(shown) == 20 and training.image_size == 8
        pixels = load("folder", "train", str(folder), size or 8).subset(
            [i * len(load("folder", "train", str(folder), 8)) // 20 for i in range(20)]
        )
        x = to_float(pixels.__getitems__(list(range(20)))[0])
        seen[size] = FLOW.objective(config, training, None).targets.tokens[0]
        want = encoders.load("efficientnet-lite0").tokens(x, config.model.grid, 40)
        torch.testing.assert_close(seen[size].float(), want, atol=2e-2, rtol=2e-2)
    assert (seen[None].float() - seen[24].float()).abs().max() > 0.1


@pytest.mark.parametrize("targets", ["cached", "computed"])
def test_it_aligns_and_resumes_bit_for_bit(folder, tmp_path, own_cache, targets):  # noqa: F811
    """Stopped in mid-epoch and given again: weights, projectors, optimizer and log are those of an undisturbed run."""

    config = align_config(folder, targets=targets)
    assert run_training(config, tmp_path / "calm", previews=False).finished
    with unplugged(6):
        run_training(config, tmp_path / "rough", previews=False)
    assert run_training(config, tmp_path / "rough", previews=False).finished
    states = [
        checkpoint.read_training(checkpoint.latest(tmp_path / name), torch.device("cpu")) for name in ("calm", "rough")
    ]
    heads = [state["objective"] for state in states]
    assert heads[0] and all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])
    assert_same_run(tmp_path / "calm", tmp_path / "rough")
    log = read_log(tmp_path / "calm")
    assert log[-1]["align"] < log[0]["align"] - 0.05
    assert {"align/block2-layer1", "seconds/encoder", "grad_norm/block_1", "grad_norm/block_2"} <= log[0].keys()
    assert not any(
        key.startswith("objective") for key in TarFlow.from_pretrained(tmp_path / "calm" / "model").state_dict()
    )


def test_another_alignment_is_another_run(folder, tmp_path, own_cache):  # noqa: F811
    run_training(align_config(folder, steps=4), tmp_path / "run", previews=False)
    with pytest.raises(ValueError, match=r"align\.weight was 0\.1, now 0\.2"):
        run_training(align_config(folder, steps=4, weight=0.2), tmp_path / "run", previews=False)


@pytest.mark.slow
def test_the_command_line_trains_it_on_a_folder(folder, tmp_path, own_cache):  # noqa: F811
    small = [
        "model.width=16",
        "model.head_dim=8",
        "model.patch_size=2",
        "train.steps=3",
        "train.warmup_steps=1",
        "train.batch_size=16",
    ]
    words = [word for setting in (*small, "align.stage=40") for word in ("--set", setting)]
    line = ["train", "--data", str(folder), "--image-size", "8", "--align", "reverse", "--out", str(tmp_path / "run")]
    answer = CliRunner().invoke(app, [*line, "--no-previews", *words])
    assert answer.exit_code == 0, answer.output
    described = checkpoint.latest(tmp_path / "run").state["run"]["align"]
    assert (described["direction"], json.loads(json.dumps(described["sites"]))) == ("reverse", [[7, 2], [8, 2]])


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_align_as_one(folder, tmp_path, own_cache, parallel, monkeypatch):  # noqa: F811
    """Both terms, gradient norms and projectors, with an encoder in each process; `reverse` with sweeps."""
    whole = replace(
        encoders.SPECS["efficientnet-lite0"], input_size=224
    )  # as the two processes, which are no part of this one, have it
    monkeypatch.setitem(encoders.SPECS, "efficientnet-lite0", whole)
    align = dict(direction="reverse", adjoint_sweeps=2, sites=((1, 1), (2, 1)), projectors="per-site")
    alone = align_config(folder, **align)
    shared = RunConfig(**{**alone.model_dump(), "train": alone.train.replace(parallel=parallel).model_dump()})
    for config, name, processes in ((alone, "alone", 1), (shared, "shared", 2)):
        assert train_streamed(config, tmp_path / name, processes, previews=False).finished
    runs = [read_log(tmp_path / name) for name in ("alone", "shared")]
    assert [record["step"] for record in runs[0]] == [record["step"] for record in runs[1]]
    for one, other in zip(*runs, strict=True):
        for key in ("loss", "align", "align/block1-layer1", "nats_per_dim"):
            assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-4), key
        assert one["grad_norm/block_2"] == pytest.approx(other["grad_norm/block_2"], rel=1e-2)
    heads = [
        checkpoint.read_training(checkpoint.latest(tmp_path / name), torch.device("cpu"))["objective"]
        for name in ("alone", "shared")
    ]
    assert heads[0].keys() == heads[1].keys() and len(heads[0]) == 12
    assert all(torch.allclose(heads[0][key], heads[1][key], atol=2e-3) for key in heads[0])
