"""What notebook 06 measures and draws."""

import pytest
import torch
from conftest import perturbed

from labcore import invert
from labcore.experiments import solvers as experiment
from labcore.inverse.methods import Method
from labcore.viz import solvers


@pytest.fixture
def flow():
    return perturbed()


@pytest.fixture
def z():
    return torch.randn(4, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


Y = torch.arange(4)


def test_solutions_are_the_states_of_the_flow_itself(flow, z):
    states = experiment.solutions(flow, z, Y)
    out = flow(flow.unpatchify(states[-1]), Y)
    for got, want in zip(states, (*out.latents[-2::-1], states[-1]), strict=True):
        torch.testing.assert_close(got, want, atol=1e-9, rtol=0)
    assert torch.equal(flow.unpatchify(states[-1]), invert(flow, z, Y).x)


def test_a_trace_has_what_is_exact_and_what_is_not(flow, z):
    found = experiment.trace(flow, z, Y, guidance=0.5, sweeps=6)
    assert list(found) == [3, 2, 1]
    for trace in found.values():
        assert trace.errors.shape == (6, 16) and trace.changes.shape == (6,)
        for sweep, errors in enumerate(trace.errors, 1):
            assert errors[: sweep + 1].max() < 1e-9
        assert trace.errors[0, 4:].max() > 1e-3 and trace.changes[0] > trace.changes[-1]


def test_ways_are_compared_with_the_sequential_one(flow, z):
    found = experiment.compare(
        flow, z, Y, 0.0, {"loose": [Method(segments=1, tolerance=0.1)] * 3, "exact": "jacobi"}, repeats=1
    )
    assert list(found) == ["sequential", "loose", "exact"]
    assert found["sequential"].error == 0 and found["sequential"].sweeps == (15, 15, 15)
    assert found["exact"].error < 1e-9 < found["loose"].error < 0.5
    assert sum(found["loose"].sweeps) < sum(found["exact"].sweeps)
    table = experiment.compared_table(found).splitlines()
    assert len(table) == 5 and table[2].startswith("| sequential | ") and "| 15, 15, 15 |" in table[2]
    assert "| SeJD | AFHQ | 186.3 | 41.2 | 4.5 |" in experiment.papers_table()


def test_nearer_starts_take_fewer_sweeps(flow, z):
    found = experiment.sweeps_by_guess(flow, z, Y, 0.0, [1.0, 1e-2, 1e-9])
    assert [sum(sweeps) for sweeps in found.values()] == sorted((sum(s) for s in found.values()), reverse=True)
    assert found[1e-9] == (1, 1, 1) and sum(found[1.0]) > sum(found[1e-2]) > 3


def test_figures_of_solvers(flow, z):
    traces = experiment.trace(flow, z, Y)
    figure = solvers.token_errors({block: traces[block].errors for block in (3, 1)}, "errors")
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["block 3", "block 1"] and panels[0].get_ylabel() == "sweep"
    assert panels[0].images[0].get_array().shape == traces[3].errors.shape
    figure = solvers.convergence({b: (t.changes.tolist(), t.errors.amax(1).tolist()) for b, t in traces.items()})
    assert [len(axes.lines) for axes in figure.axes] == [3, 3] and figure.axes[0].get_yscale() == "log"
    figure = solvers.cost({"sequential": (0.5, 0.0), "jacobi": (0.1, 1e-4)}, tolerance=1e-3)
    (axes,) = figure.axes
    assert axes.lines[0].get_ydata()[0] == solvers.FLOOR and axes.get_xlabel() == "milliseconds for the batch"
    found = experiment.sweeps_by_guess(flow, z, Y, 0.0, [1.0, 0.1])
    figure = solvers.sweeps_by_distance(found, range(3, 0, -1), {"learned": (0.3, 5)})
    assert [line.get_label() for line in figure.axes[0].lines] == ["block 3", "block 2", "block 1", "learned"]
