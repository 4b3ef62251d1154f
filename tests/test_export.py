"""Exported students give the model's own images, for any batch, in a process without labcore."""

import subprocess
import sys

import pytest
import torch

from labcore import zoo
from labcore.biflow.export import export
from labcore.biflow.model import BackwardModel
from labcore.config import BackwardConfig

SMALL = dict(image_size=8, channels=1, patch_size=4, width=32, head_dim=16, num_blocks=2, layers_per_block=1)


def moved(**changes) -> BackwardModel:
    torch.manual_seed(0)
    model = BackwardModel(BackwardConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"num_classes": 3}, {"num_classes": 3, "max_guidance": 2.0, "handover": "state"}]
)
def test_a_graph_gives_the_models_images(tmp_path, changes):
    model = moved(**changes)
    graph = torch.export.load(export(model, tmp_path / "model.pt2")).module()
    for num in (1, 5):
        z, y, w = torch.randn(num, 4, 16), torch.arange(num) % 4 - 1, torch.linspace(0.1, 2.0, num)
        given = [z, *([y] if "num_classes" in changes else []), *([w] if "max_guidance" in changes else [])]
        with torch.no_grad():
            torch.testing.assert_close(graph(*given), model(*given).x, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_the_shipped_one_runs_without_labcore(tmp_path):
    model, path = zoo.load("fashion-biflow"), tmp_path / "inverse.pt2"
    export(model, path)
    z, y, w = torch.randn(3, 49, 16, generator=torch.Generator().manual_seed(0)), torch.arange(3), torch.full((3,), 1.0)
    torch.save((z, y, w), tmp_path / "given.pt")
    code = (
        "import torch, sys\n"
        f"x = torch.export.load({str(path)!r}).module()(*torch.load({str(tmp_path / 'given.pt')!r}))\n"
        f"torch.save(x.detach(), {str(tmp_path / 'x.pt')!r})\n"
        "assert not any(name.startswith('labcore') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "x.pt"), model(z, y, w).x, atol=1e-5, rtol=1e-4)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match="end in"):
        export(moved(), tmp_path / "model.onnx")
