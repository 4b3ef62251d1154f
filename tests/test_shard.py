"""FSDP2 on the CPU, by gloo: the same training as on one process, and the same files."""

import shutil
from types import SimpleNamespace

import pytest
import test_training
import torch
from conftest import perturbed
from test_training import assert_same_run, last_state, run_config

from labcore.config import TrainConfig
from labcore.runs.background import train_streamed
from labcore.train import checkpoint, shard
from labcore.train.log import read_log
from labcore.train.loop import Trained
from labcore.train.means import RunningMeans
from labcore.train.optim import Ema, make_optimizer
from labcore.train.saving import Saving
from labcore.train.state import TrainState
from labcore.train.strategies import strategy_for

folder = test_training.folder
one_thread = test_training.one_thread


def test_what_it_does_not_go_with():
    for wrong in (dict(precision="fp16"), dict(compile=True)):
        with pytest.raises(ValueError, match="'fsdp2' does not go with"):
            TrainConfig(steps=2, parallel="fsdp2", **wrong)


def assert_close_runs(a, b, rel=1e-3):
    logs = [read_log(run) for run in (a, b)]
    assert [r["step"] for r in logs[0]] == [r["step"] for r in logs[1]]
    for one, other in zip(*logs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=rel, abs=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)
    sa, sb = last_state(a), last_state(b)
    assert sa.keys() == sb.keys() and len(sa) > 40
    for name, value in sa.items():
        assert value.shape == sb[name].shape and value.dtype == sb[name].dtype and value.device == sb[name].device, name


@pytest.fixture
def first_of_two():
    """This process as number 0 of a pretended group of two, as accelerate would say it; nothing is exchanged."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield SimpleNamespace(
        num_processes=2,
        process_index=0,
        is_main_process=True,
        device=torch.device("cpu"),
        gather=lambda tensor: torch.cat([tensor, tensor]),
        prepare=lambda *given: given,
        prepare_model=lambda model, evaluation_mode: model,
        prepare_optimizer=lambda optimizer: optimizer,
    )
    torch.distributed.destroy_process_group()


def state_of(accelerator) -> TrainState:
    """A new training of a small flow, whole."""
    flow = perturbed(dtype=torch.float32)
    trained = Trained(flow, torch.nn.Module())
    optimizer = make_optimizer(trained.parameters(), TrainConfig(steps=2))
    return TrainState(trained, Ema(flow, 0.9), optimizer, RunningMeans(accelerator), None)


def test_a_process_holds_its_part_only(first_of_two):
    """DDP in disguise would pass every other test."""
    state = state_of(first_of_two)
    total = sum(p.numel() for p in state.model.parameters())
    strategy = strategy_for(first_of_two, state, TrainConfig(steps=2, parallel="fsdp2"))
    for model in (state.model, state.ema.model):
        held = sum(shard.own(p).numel() for p in model.parameters())
        assert total / 2 <= held < 0.6 * total
    mine = [p for group in state.optimizer.param_groups for p in group["params"]]
    assert sum(shard.own(p).numel() for p in mine) < 0.6 * total
    assert sum(p.numel() for p in strategy.whole(state.ema.model).parameters()) == total


@pytest.mark.parametrize(("parallel", "steps"), [("ddp", [3]), ("fsdp2", [])])
def test_after_an_error_a_process_saves_alone_where_it_holds_everything(first_of_two, tmp_path, parallel, steps):
    """The other processes may be gone: neither strategy may ask them."""
    state = state_of(first_of_two)
    strategy = strategy_for(first_of_two, state, TrainConfig(steps=4, parallel=parallel))
    saving = Saving(tmp_path, {"precision": "fp32", "run": {}}, 3, state, strategy)
    first_of_two.gather = lambda tensor: pytest.fail("asked a process that may be gone")
    saving.rescue()
    assert not checkpoint.folders(tmp_path)  # no step was done
    state.step = 3
    saving.rescue()
    assert [checkpoint.read(folder).step for folder in checkpoint.folders(tmp_path)] == steps


@pytest.mark.slow
def test_two_shards_equal_one_process(folder, tmp_path):
    """The loss curve to rounding; the files of a checkpoint; resumed shared out (bit for bit) and alone."""
    settings = dict(steps=30, log_every=3, save_every=10, eval_every=15)
    config = run_config(folder, **settings, parallel="fsdp2")
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    assert train_streamed(config, shared, 2, previews=False).finished
    assert train_streamed(run_config(folder, **settings), alone, previews=False).finished
    assert_close_runs(shared, alone)
    files = [sorted(str(p.relative_to(run)) for p in (run / "checkpoints").rglob("*")) for run in (shared, alone)]
    assert files[0] == files[1]
    states = [checkpoint.latest(run).state for run in (shared, alone)]
    assert {k: v for k, v in states[0]["files"].items() if "training" not in k} == {
        k: v for k, v in states[1]["files"].items() if "training" not in k
    }
    for name, processes in (("resumed", 2), ("taken over", 1)):
        run = tmp_path / name
        shutil.copytree(shared, run)
        shutil.rmtree(run / "checkpoints" / "step-00000030")
        shutil.rmtree(run / "model")
        (run / "train.json").unlink()
        assert train_streamed(config, run, processes, previews=False).finished
        if processes == 2:
            assert_same_run(run, shared)
        else:
            assert_close_runs(run, shared)


def test_whole_states_are_left_as_they_are():
    state = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    assert shard.whole_state(state, True) == state
    assert shard.whole_state(state, False)["state"][0]["step"] is None
