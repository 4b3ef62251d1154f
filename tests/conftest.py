"""Small flows for the tests. Weights are perturbed: at initialisation a block is the identity, and any test passes there."""

from __future__ import annotations

import bare  # first: it hides the machine before any library reads its settings  # isort: skip
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import torch

if TYPE_CHECKING:
    from labcore import TarFlow

torch.set_num_threads(1)

SMALL = dict(
    image_size=8, channels=3, patch_size=2, width=16, num_blocks=3, layers_per_block=2, head_dim=8, num_classes=5
)
"""16 tokens of 12 values."""

OPTIONS = {
    "published": {},
    "modern": dict(positions="rope", mlp="swiglu", norm="rmsnorm"),
    "clamped": dict(affine_clamp=0.05),
    "volume-preserving": dict(volume_preserving=True),
    "unconditional": dict(num_classes=0),
    "oblong": dict(image_size=(4, 16), positions="rope"),
}
"""Every option of the architecture appears in one of these."""


def perturbed(std: float = 0.05, dtype: torch.dtype = torch.float64, seed: int = 0, **changes) -> TarFlow:
    """A small flow in eval mode with every parameter moved by N(0, std^2), checked to be no constant."""
    from labcore import TarFlow, TarFlowConfig  # here, so that tests/gpu can still choose how labcore is imported

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = TarFlow(TarFlowConfig(**{**SMALL, **changes})).to(dtype).eval()
        with torch.no_grad():
            for p in flow.parameters():
                p.add_(torch.randn_like(p), alpha=std)
        assert_alive(flow)
    return flow


@torch.no_grad()
def assert_alive(flow: TarFlow) -> None:
    """z depends on earlier tokens, and on the class where there are classes."""
    c = flow.config
    x = torch.randn(1, *c.image_shape, dtype=flow.dtype)
    moved = flow.patchify(x).clone()
    moved[:, 0] += 1.0
    block = flow.blocks[0]  # raster order: all later tokens may react to the first
    assert (block(moved).z - block(flow.patchify(x)).z)[:, 1:].abs().amax() > 1e-4
    if c.num_classes:
        zs = [flow(x, torch.tensor([k])).z for k in (0, 1, -1)]
        assert (zs[0] - zs[1]).abs().amax() > 1e-4
        assert (zs[0] - zs[2]).abs().amax() > 1e-4


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder for one test; without it the tests of a process share one."""
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def chances() -> random.Random:
    """Random numbers of tests that choose their path; the seed is printed, and $PYTEST_SEED repeats a run."""
    seed = os.environ.get("PYTEST_SEED") or str(random.SystemRandom().randrange(10**6))
    print(f"PYTEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory):
    """The embedded encoder and its random twin look at 64x64 pixels, a twelfth of the work; their features are others then,
    and are kept in a cache of the module's own."""
    from labcore.encoders import SPECS
    from labcore.evaluate import extractors

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABCORE_CACHE", str(tmp_path_factory.mktemp("small-encoder")))
        for name in ("efficientnet-lite0", "random-lite0"):
            patch.setitem(SPECS, name, replace(SPECS[name], input_size=64))
        patch.setitem(extractors._LAYERS["efflite0"], extractors.SPATIAL, ("spatial", 7 * 4 * 4))
        yield


@pytest.fixture
def installed_fashion_mnist() -> Path:
    """The folder of Debian's dataset-fashion-mnist; the test is skipped where that is not installed."""
    from labcore.data import fashion_mnist

    found = [folder for share in bare.REAL_SHARE.split(":") if (folder := Path(share, fashion_mnist.DEBIAN)).is_dir()]
    if not found:
        pytest.skip("needs Debian's dataset-fashion-mnist")
    return found[0]


@pytest.fixture(params=list(OPTIONS), ids=list(OPTIONS))
def flow(request) -> TarFlow:
    """A perturbed float64 flow with each set of options."""
    return perturbed(**OPTIONS[request.param])


@pytest.fixture
def images():
    """images(flow, n, scale): random images and labels (some NULL) that fit a flow."""

    def make(flow: TarFlow, n: int = 4, scale: float = 1.0, seed: int = 1):
        g = torch.Generator().manual_seed(seed)
        c = flow.config
        x = scale * torch.randn(n, *c.image_shape, generator=g, dtype=torch.float64)
        y = torch.arange(n) % c.num_classes if c.num_classes else None
        if y is not None:
            y[0] = -1
        return x.to(flow.dtype), y

    return make


@pytest.fixture
def as_users_run():
    """Without the shape checks that pytest switches on: users meet the library's own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def window():
    """A Chromium, for tests of the browser suite."""
    from benchmarks import jupyter_lab

    executable = jupyter_lab.chromium()
    if executable is None:
        pytest.fail("no Chromium here; `make test-browser` installs Debian's")
    with jupyter_lab.browser(executable) as found:
        yield found
