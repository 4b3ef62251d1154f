"""The lab on a device that is not the CPU, of which a process has one for good: so each test has a process of its own."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from in_turn import in_turn

TESTS = Path(__file__).parent
NOTEBOOKS = sorted(path.stem for path in (TESTS.parent / "notebooks").glob("*.ipynb"))


def run(*words: str, timeout: int = 600) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=timeout, cwd=TESTS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def run_code(code: str) -> str:
    return run("-c", textwrap.dedent(code) + "from second_device import done\ndone()\n")


@pytest.mark.slow
def test_what_a_gpu_refuses_is_refused_and_the_rest_has_the_cpus_numbers():
    code = """
        import pytest, torch
        from second_device import DEVICE, Elsewhere, TwoDevices, second_device
        with second_device():
            a, b = torch.arange(4.0, device="gpu:0"), torch.ones(4)
            for wrong in (
                lambda: a + b,
                lambda: torch.stack([a, b]),
                lambda: b[torch.tensor([1], device="gpu:0")],
                lambda: a.numpy(),
                lambda: torch.randn(2, device="gpu:0", generator=torch.Generator()),
                lambda: torch.randn(2, generator=torch.Generator("gpu:0")),
                lambda: torch.nn.Linear(4, 4)(a),
            ):
                with pytest.raises(TwoDevices):
                    wrong()
            assert (a + 1).device.type == "gpu" and (a + torch.tensor(1.0)).sum().item() == 10
            assert a[torch.tensor([1, 2])].tolist() == [1, 2] and a[[1, 2]].tolist() == [1, 2]
            c = torch.zeros(4)
            assert c.copy_(a) is c and c.tolist() == [0, 1, 2, 3] and type(c) is torch.Tensor
            a[:2] = 7
            a.view(2, 2)[1].add_(1)
            assert a.cpu().tolist() == [7, 7, 3, 4]
            linear = torch.nn.Linear(4, 4).to("gpu:0").double()
            linear(a.double()).sum().backward()
            assert linear.weight.grad.device.type == "gpu" and linear.weight.grad.dtype == torch.float64
    """
    run_code(code)


@pytest.mark.slow
def test_everything_that_takes_a_flow_gives_the_same_there():
    code = """
        from conftest import perturbed
        from labcore import invert, sample
        from labcore.align.features import features
        from labcore.evaluate import bayes_scores, class_scores
        from labcore.inverse import denoise
        from second_device import same, second_device
        def drawn(flow, x, y, **how):
            return sample(flow, 3, y, seed=1, noise_std=0.0, **how)
        calls = {
            "forward": lambda flow, x, y: flow(x, y).z,
            "log_prob": lambda flow, x, y: flow.log_prob(x, y),
            "denoise": lambda flow, x, y: denoise(flow, x, y, 0.1),
            "class_scores": lambda flow, x, y: class_scores(flow, x),
            "bayes_scores": lambda flow, x, y: bayes_scores(flow, x),
            "sample": drawn,
            "sample, guided": lambda flow, x, y: drawn(flow, x, y, guidance=1.0, attn_temp=0.9),
            "sample, linear": lambda flow, x, y: drawn(flow, x, y, guidance=1.0, guidance_schedule="linear"),
        }
        for solver in ("sequential", "jacobi", "gs-jacobi"):
            calls[solver] = lambda flow, x, y, solver=solver: invert(flow, flow(x, y).z, y, 0.5, solver=solver).x
        for way in ("reverse", "detach", "forward"):
            calls[f"features, {way}"] = lambda flow, x, y, way=way: features(flow, x, y, [(2, 1), (3, 2)], way)[2, 1]
        with second_device():
            same(perturbed(), calls)
            same(perturbed(norm="rmsnorm", mlp="swiglu", positions="rope"), calls)
    """
    assert len(run_code(code).splitlines()) == 28


@pytest.mark.slow
@pytest.mark.parametrize("name", in_turn(NOTEBOOKS, 5))
def test_every_notebook_goes_there(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    run("second_device.py", "notebook", name, str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("preset", in_turn(["latent-small", "flowback-64-reverse-7-8-l6", "biflow-256-b-final"], 3))
def test_every_kind_of_run_goes_there(preset, tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    run("second_device.py", "smoke", preset, str(tmp_path))
