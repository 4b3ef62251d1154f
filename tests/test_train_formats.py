"""How a run is carried out: programs of the compiler, number formats, what is of a whole step, and what no step waits for."""

import json
import os
import re
import warnings
from pathlib import Path

import accelerate
import pytest
import torch
from test_number_formats import Waits, backward, waits  # noqa: F401 (a fixture)

from labcore import TarFlow, TarFlowConfig, tf32
from labcore.config import AlignConfig, StudentConfig, TrainConfig
from labcore.data.images import ImageData
from labcore.flows.tarflow import TarFlow as Flow
from labcore.nn.pretrained import read_tensors
from labcore.train import checkpoint, environment, monitor, precision
from labcore.train.alignment import LikelihoodAndAlignment
from labcore.train.distillation import Distillation
from labcore.train.log import read_log
from labcore.train.loop import Hooks, train
from labcore.train.objectives import Likelihood
from labcore.train.step import Steps
from labcore.types import Batch

SIZES = dict(image_size=8, channels=1, patch_size=2, width=16, num_blocks=2, layers_per_block=2, head_dim=8)


def flow_of(**changes) -> TarFlow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = TarFlow(TarFlowConfig(**{**SIZES, "num_classes": 2, **changes}))
        with torch.no_grad():
            for p in flow.parameters():
                p.add_(torch.randn_like(p), alpha=0.1)
    return flow


def config(**changes) -> TrainConfig:
    few = dict(steps=4, batch_size=12, accumulation=3, log_every=2, eval_every=4, save_every=4, precision="fp32")
    return TrainConfig(**{**few, **changes})


@pytest.fixture(scope="module")
def images() -> ImageData:
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (24, 1, 8, 8), generator=g, dtype=torch.uint8)
    return ImageData(pixels, torch.arange(24) % 2, ("a", "b"), "toy", "train")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(checkpoint.latest(folder).path / "model" / "model.safetensors")


# programs


@pytest.fixture
def programs(monkeypatch) -> list[int]:
    """One entry for each program that is made, with the number of its operations; nothing is translated."""
    made: list[int] = []
    real = torch.nn.Module.compile

    def backend(graph, inputs):
        made.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: real(self, backend=backend))
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


@pytest.mark.parametrize("recompute", [False, True])
def test_one_program_for_all_layers_and_none_for_diagnoses(programs, images, tmp_path, as_users_run, recompute):
    """Blocks in two orders were two programs of all their layers, and each diagnosis of other sizes made more."""
    hooks = Hooks(
        diagnose=lambda model, x, y: monitor.state_rms(model, x[:3], None),
        evaluate=lambda ema: {"trip": monitor.round_trip_error(ema, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))},
    )
    plain = train(flow_of(), Likelihood(), images, config(), tmp_path / "plain", hooks=hooks)
    assert not programs and plain.finished
    settings = config(compile=True, recompute=recompute)
    train(flow_of(), Likelihood(), images, settings, tmp_path / "compiled", hooks=hooks)
    assert len(programs) == 1
    for name, value in weights(tmp_path / "plain").items():
        torch.testing.assert_close(weights(tmp_path / "compiled")[name], value, atol=2e-6, rtol=1e-5)


def test_a_learned_inverse_needs_few_programs(programs, images, tmp_path, as_users_run):
    model = backward(**SIZES, num_classes=2, max_guidance=1.0)
    flow = flow_of()
    objective = Distillation(StudentConfig(), model.config, flow, torch.ones(model.config.num_states))
    train(model.train(), objective, images, config(compile=True), tmp_path)
    assert 1 <= len(programs) <= 4


def test_compiling_without_memory_is_not_a_compiler_that_fails():
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        precision.try_compile([], full)


# what is of the whole step


def test_the_largest_log_scale_is_that_of_all_micro_batches_and_steps(images, tmp_path, monkeypatch):
    seen: list[float] = []
    real = Flow.forward

    def watched(self, x, y=None, hidden_sites=(), callback=None):
        def both(number, block):
            seen.append(float(block.log_scale.abs().amax()))
            if callback:
                callback(number, block)

        return real(self, x, y, hidden_sites, both)

    monkeypatch.setattr(Flow, "forward", watched)
    train(flow_of(), Likelihood(), images, config(), tmp_path)
    first, second = read_log(tmp_path)
    half = 2 * 3 * 2  # steps, micro-batches, blocks
    assert len(seen) == 2 * half
    assert first["max_log_scale"] == pytest.approx(max(seen[:half]), rel=1e-6)
    assert second["max_log_scale"] == pytest.approx(max(seen[half:]), rel=1e-6)
    assert max(seen[:half]) > max(seen[half - 2 : half])  # the last micro-batch's is another


# what a step waits for


def aligned() -> LikelihoodAndAlignment:
    class Tokens:
        width, about = 12, "given"

        def __call__(self, batch: Batch) -> torch.Tensor:
            return torch.ones(len(batch.x), 16, 12)

    settings = AlignConfig(sites=((1, 1), (2, 2)), direction="reverse")
    return LikelihoodAndAlignment(settings, TarFlowConfig(**SIZES, num_classes=2), Tokens())


@pytest.mark.parametrize("kind", ["plain", "volume-preserving", "aligned", "inverse"])
@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_no_step_waits_for_the_device(waits, images, tmp_path, monkeypatch, kind, chosen):  # noqa: F811
    """Between records. fp16 is not seen here: its scaler asks for one number a step."""
    model = backward(**SIZES, num_classes=2, max_guidance=1.0).train() if kind == "inverse" else flow_of()
    if kind == "volume-preserving":
        model = flow_of(volume_preserving=True)
    objective = aligned() if kind == "aligned" else Likelihood()
    if kind == "inverse":
        objective = Distillation(StudentConfig(), model.config, flow_of(), torch.ones(model.config.num_states))
    real = Steps.take

    def counted(self, batches):
        with waits:
            return real(self, batches)

    monkeypatch.setattr(Steps, "take", counted)
    train(model, objective, images, config(steps=2, log_every=100, precision=chosen), tmp_path)
    assert waits.count == 0


def test_waits_are_seen(waits):  # noqa: F811
    with waits:
        bool(torch.ones(1).isfinite().all()), float(torch.ones(())), torch.ones(2).sum().item()
    assert waits.count == 3


# number formats


def test_auto_is_bf16_on_cuda_and_says_so(monkeypatch):
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert precision.resolve("auto", device, print) == "bf16"
    assert precision.describe(config(precision="auto"), "bf16", device) == (
        "precision bf16 (auto, on cuda), TF32 convolutions"
    )
    with tf32.use(False):
        assert precision.describe(config(), "fp32", device) == "precision fp32 (on cuda), TF32 off"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    assert precision.resolve("auto", device, print) == "fp32"
    with pytest.warns(UserWarning, match="an old card has no bf16; training in fp32"):
        assert precision.resolve("bf16", device, print) == "fp32"
    with pytest.raises(ValueError, match="precision 'fp16' needs a CUDA device, and this is cpu"):
        precision.resolve("fp16", torch.device("cpu"), print)


def test_tf32_is_a_setting_of_training_that_may_change(images, tmp_path, monkeypatch, capsys):
    states, real = [], Steps.take
    monkeypatch.setattr(Steps, "take", lambda self, b: states.append(tf32.describe()) or real(self, b))
    before = tf32.describe()
    train(flow_of(), Likelihood(), images, config(steps=2), tmp_path)
    assert "precision fp32 (on cpu)\n" in capsys.readouterr().out
    old = checkpoint.latest(tmp_path).path / "state.json"
    state = json.loads(old.read_text())
    assert state["run"]["train"].pop("tf32") is False
    del state["digest"]  # checkpoints from before the setting have none
    old.write_text(json.dumps(state))
    train(flow_of(), Likelihood(), images, config(steps=2, tf32=True), tmp_path)  # a run from before the setting
    train(flow_of(), Likelihood(), images, config(steps=2, tf32=True), tmp_path / "on")
    assert states == ["off"] * 2 + ["on"] * 2 and tf32.describe() == before


# memory


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
              RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried")]
)  # fmt: skip
def test_too_little_memory_is_one_message_and_what_was_done_is_saved(images, tmp_path, monkeypatch, error):
    real = Steps.take

    def fills(self, batches):
        if self.state.step == 3:
            raise error
        return real(self, batches)

    monkeypatch.setattr(Steps, "take", fills)
    with pytest.raises(ValueError, match="too little memory") as caught:
        train(flow_of(), Likelihood(), images, config(), tmp_path)
    for word in (
        "train.batch_size=12",
        "train.accumulation=3",
        "4 images at a time",
        "recompute",
        "lab plan",
        "memory",
    ):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value) and checkpoint.latest(tmp_path).step == 3
    monkeypatch.setattr(Steps, "take", lambda *_: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        train(flow_of(), Likelihood(), images, config(), tmp_path / "other")


# environment


def names_in_accelerate() -> set[str]:
    """Environment variables that accelerate's source reads, with the prefixes that it puts before some."""
    root, found = Path(accelerate.__file__).parent, set()
    quoted = r"""["']([A-Z][A-Z0-9_]{3,})["']"""
    reads = rf"(?:environ\.get\(|environ\[|getenv\(|parse_\w+_from_env\(|get_int_from_env\(\[?)\s*{quoted}"
    prefixed = rf"(?:environ\.get\(|parse_\w+_from_env\()\s*\w*prefix \+ {quoted}"
    for path in [
        root / "state.py",
        root / "accelerator.py",
        root / "parallelism_config.py",
        root / "utils" / "dataclasses.py",
    ]:
        text = path.read_text()
        found |= set(re.findall(reads, text))
        prefix = None
        for line in text.splitlines():
            if given := re.search(r"""prefix = ["']([A-Z0-9_]+)["']""", line):
                prefix = given[1]
            found |= {prefix + name for name in re.findall(prefixed, line)}
    return found


LAUNCHERS = re.compile(
    r"RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_(ADDR|PORT)|FORK_LAUNCHED|CCL_.*|KMP_.*|OMP_.*|MPI_.*|NCCL_.*|PMI_.*"
    r"|OMPI_.*|MV2_.*|PT_HPU.*|XLA_.*|TORCH_.*|PYTORCH_.*|TPU_.*|.*_HPU|WANDB_.*|DEEPSPEED_.*|MLFLOW_.*|CLEARML_.*|.*XPU.*|AWS_.*|SM_.*"
)
"""What launchers and backends set, which is not accelerate's own."""


def test_every_variable_that_accelerate_reads_is_hidden_or_a_launchers(monkeypatch):
    names = names_in_accelerate()
    assert {"ACCELERATE_DYNAMO_BACKEND", "FSDP_OFFLOAD_PARAMS", "PARALLELISM_CONFIG_TP_SIZE"} <= names
    assert {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "MEGATRON_LM_TP_DEGREE"} <= names and len(names) > 60
    own = {name for name in names if not LAUNCHERS.fullmatch(name)}
    for name in own:
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("RANK", "0")
    warned = pytest.warns(UserWarning, match="ignored environment variables: ACCELERATE_")
    with warned as said, environment.configuration_alone():
        left = own & set(os.environ)
    assert left <= {"ACCELERATE_USE_CPU"}, f"accelerate reads {left}"
    assert len(said) == 1 and all(f"{name}=4" in str(said[0].message) for name in own - {"ACCELERATE_USE_CPU"})
    assert own <= set(os.environ)


ASKED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("4", "four"),
    "ACCELERATE_DYNAMO_BACKEND": ("eager", "no such"),
    "ACCELERATE_MIXED_PRECISION": ("bf16", "fp8", "x"),
    "ACCELERATE_USE_FSDP": ("true",),
    "ACCELERATE_USE_DEEPSPEED": ("true",),
    "ACCELERATE_USE_MEGATRON_LM": ("true",),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("true",),
    "ACCELERATE_TORCH_DEVICE": ("cuda:7",),
    "ACCELERATE_DEBUG_MODE": ("perhaps",),
    "ACCELERATE_CPU_AFFINITY": ("perhaps",),
    "ACCELERATE_FP8_BACKEND": ("MSAMP",),
}


SHORT = dict(steps=1, warmup_steps=0)


@pytest.fixture(scope="module")
def plain(images, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights of a short run whose environment asks for nothing."""
    folder = tmp_path_factory.mktemp("plain")
    train(flow_of(), Likelihood(), images, config(**SHORT), folder)
    return weights(folder)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ASKED.items() for value in values])
def test_the_environment_does_not_change_a_run(images, plain, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match=f"ignored environment variables: {name}={value}") as said:
        train(flow_of(), Likelihood(), images, config(**SHORT), tmp_path)
    assert len([w for w in said if "ignored" in str(w.message)]) == 1 and os.environ[name] == value
    found = weights(tmp_path)
    assert all(torch.equal(v, found[k]) for k, v in plain.items())


def test_what_switches_nothing_on_is_not_worth_a_word(monkeypatch):
    """As `accelerate launch` sets them."""
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"):
        monkeypatch.setenv(name, "no")
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "default")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with environment.configuration_alone():
            assert "ACCELERATE_MIXED_PRECISION" not in os.environ


def test_the_launchers_word_for_the_cpu(monkeypatch):
    for value, on in (("true", True), ("1", True), ("false", False), ("0", False), ("", False)):
        monkeypatch.setenv("ACCELERATE_USE_CPU", value)
        with environment.configuration_alone():
            assert environment.on_cpu() is on
    monkeypatch.setenv("ACCELERATE_USE_CPU", "perhaps")
    with pytest.raises(ValueError, match="ACCELERATE_USE_CPU is 'perhaps'; give true or false"):
        environment.on_cpu()
