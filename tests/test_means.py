"""Means over steps and processes: what a checkpoint holds of them lets a log go on to the last bit."""

from types import SimpleNamespace

import pytest
import torch

from labcore.train.means import RunningMeans


def means_of(rank: int, world: int, values: torch.Tensor | None = None) -> RunningMeans:
    means = RunningMeans(SimpleNamespace(process_index=rank, num_processes=world, reduce=lambda x, how: x))
    for value in () if values is None else values:
        means.add("loss", value)
        means.add("nats", value / 3)
        means.steps += 1
    return means


def state_of(first: RunningMeans, second: RunningMeans) -> dict:
    """What the first of two processes saves: `gather` is called for the same names in the same order in both."""
    theirs = iter(second.sums[name][None] for name in sorted(second.sums))
    first.accelerator.gather = lambda mine: torch.cat([mine, next(theirs)])
    return first.state()


@pytest.fixture
def values() -> torch.Tensor:
    return torch.randn(2, 20, generator=torch.Generator().manual_seed(0))


def test_each_process_goes_on_with_its_own_sums(values):
    """An average of both at the time of saving differs in the last bit from one taken at the end."""
    saved = state_of(means_of(0, 2, values[0, :7]), means_of(1, 2, values[1, :7]))
    for rank in (0, 1):
        resumed = means_of(rank, 2)
        resumed.load(saved)
        for value in values[rank, 7:]:
            resumed.add("loss", value)
            resumed.add("nats", value / 3)
            resumed.steps += 1
        assert resumed.take() == means_of(rank, 2, values[rank]).take()
    early = means_of(0, 2)
    early.load({"running": {"loss": saved["running"]["loss"].mean()}, "averaged": 7})
    assert not torch.equal(early.sums["loss"], means_of(0, 2, values[0, :7]).sums["loss"])


def test_other_processes_than_before_share_the_mean(values):
    two = [means_of(rank, 2, values[rank]) for rank in (0, 1)]
    saved = state_of(*two)
    for world in (1, 3):
        other = means_of(world - 1, world)
        other.load(saved)
        expected = (two[0].sums["loss"] + two[1].sums["loss"]) / 2
        assert other.steps == 20 and torch.allclose(other.sums["loss"], expected)


def test_a_process_left_alone_saves_its_own_sums_without_asking(values):
    alone = means_of(0, 2, values[0])  # it has no `gather`: the other may be gone
    saved = alone.own_state()
    again = means_of(0, 1)
    again.load(saved)
    assert torch.equal(again.sums["loss"], alone.sums["loss"]) and again.steps == 20


def test_taking_starts_anew(values):
    means = means_of(0, 1, values[0])
    taken = means.take()
    assert taken == {"loss": pytest.approx(float(values[0].mean())), "nats": pytest.approx(float(values[0].mean()) / 3)}
    assert (means.sums, means.steps) == ({}, 0)


def test_the_largest_value_is_of_all_steps_micro_batches_and_processes():
    """A name that begins with "max_" is no mean, whatever else is reported."""
    one, other = means_of(0, 2), means_of(1, 2)
    for running, peaks in ((one, ((1.0, 5.0), (2.0, 3.0))), (other, ((7.0, 0.5), (4.0, 4.0)))):
        for parts in peaks:
            running.add_parts([{"max_log_scale": torch.tensor(peak), "loss": torch.tensor(peak)} for peak in parts])
            running.steps += 1
    assert float(one.sums["max_log_scale"]) == 5.0 and float(one.sums["loss"]) == 3.0 + 2.5
    saved = state_of(one, other)
    again, alone = means_of(1, 2), means_of(0, 1)
    again.load(saved)
    alone.load(saved)
    assert float(again.sums["max_log_scale"]) == float(alone.sums["max_log_scale"]) == 7.0
    one.accelerator.gather = lambda mine: torch.cat([mine, other.sums["max_log_scale"][None, None]])
    taken = one.take()
    assert taken == {"loss": 2.75, "max_log_scale": 7.0} and one.sums == {}
