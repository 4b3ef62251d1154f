"""Plans: counts equal those of a real step, estimates follow from them, and what cannot be is refused."""

from functools import partial

import pytest
import torch
from conftest import perturbed
from PIL import Image
from typer.testing import CliRunner

from labcore import encoders, latents
from labcore.biflow.model import BackwardModel
from labcore.cli import plan as command
from labcore.cli.app import app
from labcore.config import DataConfig, RunConfig, StudentRunConfig
from labcore.encoders.perceptual import MOST, untrained_perceptual
from labcore.encoders.specs import SPECS
from labcore.evaluate.flops import count_flops, count_step
from labcore.flows.tarflow import TarFlow
from labcore.latents.weights import RANDOM, untrained
from labcore.plan import BYTES_PER_PARAMETER, GPUS, Estimate, Gpu, Machine, Plan, estimate, on_disk, plan
from labcore.plan.machine import machine
from labcore.plan.step import EFFICIENCY, STARTED, STARTED_ON_CPU
from labcore.presets import PRESETS
from labcore.rng import StepNoise
from labcore.runs.configure import as_named
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.train.distillation import Distillation
from labcore.train.objectives import Likelihood
from labcore.train.targets import Computed
from labcore.types import Batch

MODEL = dict(
    image_size=16, channels=1, patch_size=4, width=32, head_dim=16, num_blocks=3, layers_per_block=2, num_classes=10
)
TRAIN = dict(steps=100, batch_size=8)
ALIGN = dict(sites=[(3, 2), (2, 1)], direction="reverse")


def batch(num: int) -> Batch:
    x = torch.rand(num, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(x, torch.arange(num), torch.arange(num), torch.zeros(num, dtype=torch.bool))


def step_of(model, objective, num: int = 4):
    return lambda: objective(model, batch(num), StepNoise(0, 0, num, "cpu"))[0].backward()


class Targets:
    about, width = "random", SPECS["efficientnet-lite0"].token_layout(4).stage.width

    def __call__(self, given: Batch) -> torch.Tensor:
        return torch.randn(len(given.x), 16, self.width)


def flow(**changes) -> TarFlow:
    return perturbed(dtype=torch.float32, **{**MODEL, **changes}).train()


@pytest.mark.parametrize(
    "changes", [{}, {"positions": "rope", "mlp": "swiglu", "norm": "rmsnorm", "affine_clamp": 3.0}]
)
def test_parameters_and_flops_of_a_likelihood_step(changes):
    model = TarFlow(RunConfig(model={**MODEL, **changes}, train=TRAIN).model)
    found = plan(RunConfig(model={**MODEL, **changes}, train=TRAIN))
    assert found.parameters == found.trained == sum(p.numel() for p in model.parameters())
    assert found.flops == pytest.approx(count_flops(step_of(model, Likelihood(0.1))) / 4, rel=0.01)
    assert found.held > BYTES_PER_PARAMETER * found.parameters and found.tokens == 16


@pytest.mark.slow
def test_the_operators_of_a_step_are_those_of_a_real_one():
    assert count_step(lambda: torch.ones(2, 3).mul(2).view(6).add(1).expand(2, 6)) == (0, 3)
    found = plan(RunConfig(model=MODEL, train=TRAIN)).operators
    assert found == pytest.approx(count_step(step_of(flow(), Likelihood(0.1), 1))[1], rel=0.02)
    deeper = plan(RunConfig(model={**MODEL, "num_blocks": 6}, train=TRAIN)).operators
    assert deeper == pytest.approx(2 * found, rel=0.1)


@pytest.mark.slow
def test_a_small_step_takes_the_time_that_its_operators_take_to_start():
    taken = Plan(
        100, 100, flops=10**6, activations=10**9, held=10**10, tokens=64, batch_size=64, steps=1000, operators=2000
    )
    alone, eight = (estimate(taken, Gpu(100e12, 25e12, 90e9), gpus) for gpus in (1, 8))
    assert alone.by_starting and alone.seconds_per_step == eight.seconds_per_step == 2000 * STARTED
    assert alone.duration == "20 seconds"
    on_cpu = estimate(taken, machine("cpu").gpu._replace(single=25e12, memory=90e9), 1)
    assert on_cpu.seconds_per_step == 2000 * STARTED_ON_CPU and on_cpu.by_starting
    in_parts = estimate(taken, Gpu(100e12, 25e12, 30e9), 1)
    assert in_parts.accumulation == 4 and in_parts.seconds_per_step == 4 * alone.seconds_per_step
    assert not estimate(taken._replace(flops=10**12), Gpu(100e12, 25e12, 90e9), 1).by_starting


@pytest.mark.slow
def test_an_aligned_step_counts_its_heads_and_passes():
    config = RunConfig(model=MODEL, train=TRAIN, align=ALIGN)
    found, plain = plan(config), plan(RunConfig(model=MODEL, train=TRAIN))
    objective = LikelihoodAndAlignment(config.align, config.model, Targets(), 0.1, 0)
    assert found.parameters == plain.parameters < found.trained
    real = count_flops(step_of(flow(), objective)) / 4
    assert found.flops == pytest.approx(real, rel=0.01)
    assert found.flops > 1.05 * plain.flops and found.activations > plain.activations


@pytest.mark.slow
def test_a_learned_inverse_counts_its_flow_as_held():
    teacher = flow()
    config = StudentRunConfig(flow="x", model=dict(**MODEL, max_guidance=1.0), train=TRAIN)
    found = plan(config, teacher.config)
    model = BackwardModel(config.model)
    objective = Distillation(config.student, config.model, teacher, torch.ones(config.model.num_states), 0.1)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.flops == pytest.approx(count_flops(step_of(model, objective)) / 4, rel=0.01)
    own = sum(p.numel() for p in teacher.parameters())
    assert found.held > BYTES_PER_PARAMETER * found.trained + 4 * own


def test_activations_are_what_a_real_pass_keeps():
    """All but matrices of pairs of tokens: those of 2 heads and 16 tokens."""
    model = flow(width=64, head_dim=32)

    def kept(num: int, dtype: torch.dtype) -> int:
        storages = {}

        def keep(x):
            if x.shape not in ((2 * num, 16, 16), (num, 2, 16, 16)):
                storages[x.untyped_storage().data_ptr()] = x.untyped_storage()
            return x

        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", dtype):
            loss, _ = Likelihood(0.1)(model, batch(num), StepNoise(0, 0, num, "cpu"))
        assert bool(loss.isfinite())
        return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in own)

    found = plan(RunConfig(model={**MODEL, "width": 64, "head_dim": 32}, train=TRAIN)).activations
    assert found == pytest.approx((kept(8, torch.bfloat16) - kept(4, torch.bfloat16)) / 4, rel=0.02)


@pytest.mark.slow
def test_hidden_tokens_are_no_pairs_of_tokens():
    """Where the width equals the number of tokens too; a wider model holds more, in proportion."""
    narrow, equal, wide = (
        plan(RunConfig(model={**MODEL, "patch_size": 2, "width": width, "head_dim": 16}, train=TRAIN)).activations
        for width in (48, 64, 80)
    )
    assert equal == pytest.approx((narrow + wide) / 2, rel=0.02)


def test_what_a_run_keeps_on_disk():
    latent = as_named("flowback-256-reverse")[0]
    assert on_disk(latent) == {"latents": 2 * 2 * 2 * 4096, "encoder tokens": 2 * 2 * 256 * 768}
    assert on_disk(RunConfig(model=MODEL, train=TRAIN)) == {} == on_disk(as_named("biflow-16-w64-naive")[0])
    computed = as_named("flowback-64-reverse-7-8-l6", ["align.image_size=null", "align.targets=computed"])[0]
    assert on_disk(computed) == {}
    with pytest.raises(ValueError, match="unknown encoder 'nope'; there are"):
        plan(as_named("flowback-64-reverse-7-8-l6", ["align.encoder=nope"])[0])


@pytest.mark.slow
def test_an_encoder_in_every_step_is_counted():
    config = RunConfig(model=MODEL, train=TRAIN, align={**ALIGN, "targets": "computed"}, data=dict(image_size=16))
    targets = Computed(encoders.untrained("efficientnet-lite0"), 4)
    objective = LikelihoodAndAlignment(config.align, config.model, targets, 0.1, 0)
    found, cached = plan(config), plan(RunConfig(model=MODEL, train=TRAIN, align=ALIGN, data=dict(image_size=16)))
    assert found.flops == pytest.approx(count_flops(step_of(flow(), objective)) / 4, rel=0.01)
    assert (found.frozen, found.once) == (cached.once, 0) and cached.frozen == 0 < cached.once
    own = 4 * sum(p.numel() for p in targets.encoder._model.parameters())
    assert found.held - cached.held == own


@pytest.mark.slow
def test_distances_of_decoded_latents_are_counted():
    """Two decodings, one with a gradient computed again on the way back, and an encoder's pass over both sides."""
    sizes = dict(image_size=8, channels=4, patch_size=2, codec=RANDOM, positions="rope")
    inverse = {k: v for k, v in sizes.items() if k != "positions"}
    config = StudentRunConfig(
        flow="x",
        model={**MODEL, **inverse},
        train=dict(steps=10, batch_size=4),
        student=dict(perceptual={"efflite0": 1.0}),
    )
    teacher = flow(**sizes)
    found = plan(config, teacher.config)
    model = perturbed_inverse(config)
    decode = latents.load(RANDOM).decode
    distances = {"efflite0": untrained_perceptual("efflite0")}
    constants = torch.ones(config.model.num_states)
    objective = Distillation(config.student, config.model, teacher, constants, 0.1, distances, decode)
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    given = Batch(x, torch.arange(4), torch.arange(4), torch.zeros(4, dtype=torch.bool))
    real = count_flops(lambda: objective(model, given, StepNoise(0, 0, 4, "cpu"))[0].backward()) / 4
    assert found.flops == pytest.approx(real, rel=0.01) and found.frozen > 0.5 * found.flops
    assert found.once > 0 and found.held > BYTES_PER_PARAMETER * found.trained + _weights(RANDOM)
    many = config.replace(train=dict(steps=10, batch_size=256))
    assert plan(many, teacher.config).frozen == pytest.approx(found.frozen * MOST / 256, rel=1e-3)
    plain = plan(config.replace(student=dict()), teacher.config)
    assert (plain.frozen, plain.once) == (0, found.once) and plain.held < found.held


def perturbed_inverse(config: StudentRunConfig) -> BackwardModel:
    model = BackwardModel(config.model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model.train()


def _weights(autoencoder: str) -> int:
    return 4 * sum(p.numel() for p in untrained(autoencoder).parameters())


@pytest.mark.slow
def test_stable_diffusions_decoder_has_the_published_size():
    """49 million parameters and 308 giga multiply-adds a picture of 256 pixels, by BiFlow's paper."""
    config, teacher = as_named("biflow-256-b-lpips")
    found = plan(config, teacher)
    decoder = sum(p.numel() for p in untrained("sd-vae-ft-ema").decoder.parameters())
    assert decoder == pytest.approx(49e6, rel=0.02)
    four_passes = 4 * 2 * 308e9  # without a gradient, with one, again, and back
    assert found.frozen == pytest.approx(four_passes, rel=0.1)


def test_networks_that_nobody_knows_are_refused():
    with pytest.raises(FileNotFoundError, match="no autoencoder of that name"):
        plan(as_named("latent-small", ["model.codec=nowhere"])[0])
    with pytest.raises(ValueError, match="unknown distance 'vgg'"):
        plan(*as_named("biflow-16-w64-features", ["student.perceptual={vgg: 1.0}"]))


def test_an_estimate_follows_from_the_plan():
    taken = Plan(100, 100, flops=10**12, activations=10**9, held=10**10, tokens=256, batch_size=64, steps=1000)
    found = estimate(taken, Gpu(100e12, 25e12, 30e9), gpus=4, efficiency=0.5)
    assert found.seconds_per_step == 64 * 1e12 / (4 * 100e12 * 0.5)
    assert found.days == pytest.approx(1000 * found.seconds_per_step / 86400)
    assert (found.micro_batch, found.accumulation, found.memory) == (16, 1, 10e9 + 16e9)
    whole = estimate(taken._replace(half=False), Gpu(100e12, 25e12, 30e9), gpus=4, efficiency=0.5)
    assert whole.seconds_per_step == 4 * found.seconds_per_step
    tight = estimate(taken, Gpu(100e12, 25e12, 20e9), gpus=4)
    assert (tight.micro_batch, tight.accumulation) == (8, 2)
    assert estimate(taken, Gpu(100e12, 25e12, 11e9), gpus=4).micro_batch == 0
    huge = estimate(taken._replace(batch_size=2**31), Gpu(100e12, 25e12, 20e9), gpus=4)  # without trying every number
    assert (huge.micro_batch, huge.accumulation) == (8, 2**26)
    with pytest.raises(ValueError, match="gpus was 3; it must divide the batch of 64"):
        estimate(taken, GPUS["h100"], gpus=3)
    with pytest.raises(ValueError, match="efficiency was 1"):
        estimate(taken, GPUS["h100"], efficiency=1.5)
    with pytest.raises(ValueError, match="needs its flow"):
        plan(StudentRunConfig(flow="x", model=MODEL, train=TRAIN))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion-16", "biflow-16-w64-features"])
def test_the_command_line_says_them(name):
    found = CliRunner().invoke(app, ["plan", name, "--gpus", "1", "--kind", "h100"])
    assert found.exit_code == 0, found.output
    assert "parameters" in found.output and "1 x h100" in found.output and "a100" not in found.output
    assert ("of them in frozen networks" in found.output) == name.startswith("biflow")
    wrong = CliRunner().invoke(app, ["plan", name, "--kind", "h1000"])
    assert wrong.exit_code and "kind was 'h1000'; there are h200, h100" in wrong.output


@pytest.fixture
def folder(tmp_path):
    """Two classes of colour pictures."""
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (70, 80), (9 * i, 50, 7)).save(tmp_path / "pets" / name / f"{i:02d}.png")
    return tmp_path / "pets"


@pytest.mark.slow
def test_a_plan_of_emoji_is_in_minutes_on_one_gpu_and_hours_on_a_cpu(monkeypatch):
    here = Machine("cpu", "CPU with 1 thread", 1, Gpu(6e10, 6e10, 16e9))
    monkeypatch.setattr("labcore.plan.machine", lambda kind: here)
    found = CliRunner().invoke(app, ["plan", "emoji-32", "--set", "model.layers_per_block=1"])
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert sum(line.startswith("1 x ") for line in lines) == len(GPUS)
    assert all("minutes, " in line for line in lines if line.startswith("1 x "))
    assert any(line.startswith("this CPU") and "hours, " in line for line in lines)
    assert "mostly that of starting" in found.output and "of which 40% are assumed" in found.output
    assert lines[-1].endswith("lab rehearse emoji-32 --set model.layers_per_block=1")


@pytest.mark.slow
def test_a_plan_of_a_folder_follows_its_pictures(folder, monkeypatch):
    from labcore.data import throughput

    briefly = partial(throughput.images_per_second, seconds=0.0)
    monkeypatch.setattr(throughput, "images_per_second", briefly)
    words = [
        "plan",
        "pictures-64",
        "--data",
        str(folder),
        "--kind",
        "cpu",
        "--workers",
        "0",
        "--set",
        "model.num_blocks=1",
    ]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert "256 tokens an image" in found.output and " x h100" not in found.output and "vendor" not in found.output
    assert "pictures a second are read here" in found.output
    assert found.output.splitlines()[-1].endswith(f"lab rehearse pictures-64 --data {folder} --set model.num_blocks=1")


def test_sizes_on_disk_are_those_of_the_data():
    ships, folder = (DataConfig(name=name, limit=limit) for name, limit in (("emoji-32", None), ("emoji-32", 50)))
    assert command._training_images(ships, None) == (3210, "3,210 training images")
    assert command._training_images(folder, None) == (50, "50 training images")
    assert command._training_images(DataConfig(name="folder", path="x", image_size=8), None)[1] == "ImageNet"


def test_long_runs_are_planned_for_eight_gpus_and_short_ones_for_one():
    found = Plan(100, 100, flops=10**12, activations=10**9, held=10**10, tokens=256, batch_size=64, steps=10**6)
    assert (command._gpus(found), command._gpus(found._replace(steps=100))) == (8, 1)
    assert command._gpus(found._replace(batch_size=36)) == 4


def test_named_presets_bring_their_flow():
    config, teacher = as_named("biflow-256-b-final", ["train.batch_size=512"])
    assert isinstance(config, StudentRunConfig) and config.train.batch_size == 512
    assert teacher.model_dump(mode="json")["codec"] == PRESETS["itarflow-256-b"]["model"]["codec"]
    assert as_named("fashion-16")[1] is None


@pytest.mark.slow
def test_the_command_says_how_fast_pictures_are_read_here(monkeypatch):
    from labcore.data import throughput

    seen = []

    def rate(dataset, batch_size, num_workers):
        seen.append((dataset.image_size, dataset.channels, batch_size, num_workers))
        return 1234.5

    monkeypatch.setattr(throughput, "images_per_second", rate)
    small = ["--set", "model.num_blocks=1", "--data", "fashion-mnist-12k"]
    words = ["plan", "flowback-64-baseline", "--kind", "h100", *small, "--workers", "3"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "1,234 pictures a second are read here with 3 workers; the fastest GPUs above need" in done.output
    assert seen == [(64, 3, 32, 3)]
    CliRunner().invoke(app, words[:-2])  # the preset's own train.num_workers
    own = CliRunner().invoke(app, [*words[:-2], "--set", "train.num_workers=0"])
    assert [each[-1] for each in seen[1:]] == [8, 0]
    assert "are read here with the training's own process (train.num_workers=0)" in own.output
    latents = CliRunner().invoke(app, ["plan", "flowback-256-baseline", *small])
    assert "once: all later steps read stored latents" in latents.output, latents.output


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_a_second_are_counted(workers):
    from labcore.data import load
    from labcore.data.throughput import images_per_second

    assert images_per_second(load(), 64, workers, 0.05) > 64


@pytest.mark.parametrize(
    ("days", "words"), [(3.25, "3.25 days"), (0.5, "12 hours"), (1 / 288, "5 minutes"), (1e-6, "under a second")]
)
def test_durations_are_told_in_a_unit_that_fits(days, words):
    assert Estimate(1, 1, 0.0, 0.0, 0.0, days).duration == words


@pytest.mark.slow
def test_a_teacher_in_float32_takes_the_time_of_its_peak():
    """The flow under a student computes no gradient, and its operations take twice as long as those in bfloat16."""
    config, flow = as_named("biflow-16-w64-hidden-alignment")
    found = plan(config, flow)._replace(operators=0)
    each = count_flops(lambda: TarFlow(flow)(torch.zeros(1, *flow.image_shape), torch.zeros(1, dtype=torch.int64)))
    assert found.teacher == each < found.flops / 3
    half, single = (estimate(found._replace(half=which), GPUS["h100"], 1) for which in (True, False))
    assert half.seconds_per_step == pytest.approx(found.batch_size * (found.flops + each) / (989e12 * EFFICIENCY))
    assert single.seconds_per_step == pytest.approx(found.batch_size * found.flops / (67e12 * EFFICIENCY))
