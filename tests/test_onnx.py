"""Graphs of ONNX give the numbers of the models they were made of, for any batch, and do not say where they were made."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from labcore import zoo
from labcore.biflow.model import BackwardModel
from labcore.cli.app import app
from labcore.config import BackwardConfig, TarFlowConfig
from labcore.flows.tarflow import TarFlow
from labcore.hub import onnx as exporter
from labcore.inverse.guided_density import guided_log_prob
from labcore.kernels.affine import affine_inverse

SIZES = dict(image_size=8, channels=1, patch_size=4, width=32, head_dim=16, num_blocks=2, layers_per_block=1)


@pytest.fixture(scope="module")
def onnxruntime():
    for name in exporter.PACKAGES:
        pytest.importorskip(name, reason=f"export to ONNX needs {name}: pip install 'labcore[onnx]'")
    return pytest.importorskip("onnxruntime", reason="running ONNX needs it: pip install 'labcore[onnx]'")


def moved(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.eval()


def flow(**changes) -> TarFlow:
    return moved(TarFlow(TarFlowConfig(**{**SIZES, **changes})))


def student(**changes) -> BackwardModel:
    return moved(BackwardModel(BackwardConfig(**{**SIZES, **changes})))


def halved(model):
    """The same model with the weights that float16 can hold."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half().float())
    return model


def run(onnxruntime, path, *inputs: torch.Tensor) -> list[torch.Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return list(map(torch.from_numpy, session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))))


def batches():
    for num in (1, 5):
        yield torch.randn(num, 4, 16), torch.arange(num) % 4 - 1, torch.linspace(0.1, 2.0, num)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"num_classes": 3, "max_guidance": 2.0, "handover": "state"}])
def test_a_student_draws_the_same_images(onnxruntime, tmp_path, changes):
    model = student(**changes)
    path = exporter.export_student(model, tmp_path / "student.onnx")
    for z, y, w in batches():
        given = (z, y, w) if changes else (z,)
        (x,) = run(onnxruntime, path, *given)
        with torch.no_grad():
            torch.testing.assert_close(x, halved(model)(*given).x, atol=1e-5, rtol=1e-5)
    file = path.read_bytes()
    assert b".py" not in file and b"labcore" not in file  # no stack traces


@pytest.mark.slow
@pytest.mark.parametrize("weights", exporter.WEIGHTS)
@pytest.mark.parametrize("changes", [{}, {"num_classes": 3, "positions": "rope", "norm": "rmsnorm", "mlp": "swiglu"}])
def test_a_flow_has_the_same_noise_and_log_determinant(onnxruntime, tmp_path, changes, weights):
    model = flow(**changes)
    path = exporter.export_forward(model, tmp_path / "forward.onnx", weights)
    model = halved(model) if weights == "float16" else model
    for z, y, _ in batches():
        given = (model.unpatchify(z), y) if changes else (model.unpatchify(z),)
        found = run(onnxruntime, path, *given)
        with torch.no_grad():
            out = model(*given)
        torch.testing.assert_close(found, [out.z, out.log_det], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 2])
def test_sweeps_with_a_blocks_graph_invert_it(onnxruntime, tmp_path, block):
    model = halved(flow(num_classes=3))
    path = exporter.export_block(model, block, tmp_path / "block.onnx")
    for x, y, _ in batches():
        with torch.no_grad():
            z = model.blocks[block - 1](x, y).z
        guess = z
        for _ in range(model.config.tokens):
            log_scale, shift = run(onnxruntime, path, guess, y)
            guess = affine_inverse(z, log_scale, shift)
        torch.testing.assert_close(guess, x, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_density_with_guidance_is_the_same(onnxruntime, tmp_path):
    model = halved(flow(num_classes=3))
    path = exporter.export_guided_density(model, tmp_path / "density.onnx")
    for num in (1, 5):
        x, y, w = torch.randn(num, 1, 8, 8), torch.arange(num) % 4 - 1, torch.linspace(0, 2, num)
        (found,) = run(onnxruntime, path, x, y, w)
        with torch.no_grad():
            torch.testing.assert_close(found, guided_log_prob(model, x, y, w), atol=1e-3, rtol=1e-5)
    with pytest.raises(ValueError, match="the flow has no classes"):
        exporter.export_guided_density(flow(), tmp_path / "density.onnx")


@pytest.mark.slow
def test_half_precision_halves_the_file(onnxruntime, tmp_path):
    model = flow(width=128)
    half, full = (
        exporter.export_block(model, 1, tmp_path / f"{name}.onnx", name).stat().st_size for name in exporter.WEIGHTS
    )
    assert half < 0.6 * full


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "model.pt2"}, "files of ONNX end in .onnx"),
        ({"weights": "int8"}, "weights was 'int8'; allowed are float16, float32"),
        ({"block": 3}, "block was 3; this flow has blocks 1 to 2"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, options, message):
    arguments = {"block": 1, "path": tmp_path / "block.onnx", **options}
    with pytest.raises(ValueError, match=message):
        exporter.export_block(flow(), **arguments)


def test_weights_that_overflow_are_refused(onnxruntime, tmp_path):
    model = flow()
    with torch.no_grad():
        model.blocks[0].token_in.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match="overflow"):
        exporter.export_forward(model, tmp_path / "forward.onnx")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "PACKAGES", ("nothing_of_this_name",))
    with pytest.raises(ValueError, match=r"needs nothing_of_this_name; pip install 'labcore\[onnx\]'"):
        exporter.export_forward(flow(), tmp_path / "forward.onnx")


@pytest.mark.slow
def test_the_command_writes_a_file(onnxruntime, tmp_path):
    found = CliRunner().invoke(
        app, ["export", "fashion-tarflow", "--block", "2", "--out", str(tmp_path / "block.onnx")]
    )
    assert found.exit_code == 0, found.output
    assert str(tmp_path / "block.onnx") in found.output.replace("\n", "")
    model = zoo.load("fashion-tarflow")
    x, y = torch.randn(2, 49, 16), torch.tensor([-1, 3])
    log_scale, _ = run(onnxruntime, tmp_path / "block.onnx", x, y)
    with torch.no_grad():
        torch.testing.assert_close(log_scale, model.blocks[1](x, y).log_scale, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("fashion-biflow", ["--block", "1", "--out", "a.onnx"], "leave --block out"),
        ("fashion-tarflow", ["--out", "a.pt2"], "need a file that ends in .onnx"),
        ("fashion-tarflow", ["--block", "9", "--out", "a.onnx"], "blocks 1 to 8"),
    ],
)
def test_the_command_refuses_what_does_not_fit(model, options, message):
    found = CliRunner().invoke(app, ["export", model, *options])
    assert found.exit_code == 2 and message in found.output
