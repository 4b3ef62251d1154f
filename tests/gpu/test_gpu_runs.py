"""Whole commands and what they read: drawing, loaders, encoders, autoencoder, one-process groups, and a notebook."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gpu.device import CUDA, DEVICE, FASHION, error, exact, mid_flow, needs_cuda, numbers, slow_on_a_cpu, small_flow
from gpu.runs import embedded, pictures, trainable, weights
from labcore import encoders, latents
from labcore.data import load
from labcore.data.loaders import StepSampler, micro_batches
from labcore.evaluate import likelihood
from labcore.evaluate.generate import Sampling, generate
from labcore.rng import StepNoise
from labcore.runs.train import run_training
from labcore.train import shard
from labcore.train.log import read_log
from labcore.train.loop import Trained
from labcore.train.objectives import Likelihood
from labcore.train.optim import Ema
from labcore.types import Batch


def child(code: str, *words: str, **options) -> subprocess.Popen:
    """Python in a process group of its own."""
    line = [sys.executable, "-c", textwrap.dedent(code), *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True, **options)


@pytest.mark.parametrize("compiled", [False, None] if CUDA else [False])
def test_generate_resumes(compiled, tmp_path):
    """Stopped after the second chunk and gone on: the images of an undisturbed drawing, bit for bit."""
    chunk = 64 if CUDA else 2
    way = {"compiled": compiled} if "compiled" in Sampling.model_fields else {}
    sampling = Sampling(num=4 * chunk, chunk=chunk, guidance=0.5, seed=3, **way)
    flow, seen = small_flow(torch.float32), []

    def unplugged(_, done, __):
        seen.append(done)
        if done == 2 * chunk:
            raise KeyboardInterrupt

    calm = generate(flow, sampling, tmp_path / "calm").images.clone()
    with pytest.raises(KeyboardInterrupt):
        generate(flow, sampling, tmp_path / "rough", unplugged)
    rough = generate(flow, sampling, tmp_path / "rough", lambda _, done, __: seen.append(done)).images
    assert torch.equal(rough, calm) and len(calm.unique()) > 50
    assert seen[-1] == 4 * chunk and seen.count(chunk) == 1


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """JPEGs in two classes."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for k in range(2):
        (root / f"class{k}").mkdir()
        for i in range(1000 if CUDA else 40):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((96, 80), Image.Resampling.BICUBIC).save(root / f"class{k}" / f"{i:04d}.jpg", quality=90)
    return root


def test_loader(photographs):
    """Workers forked after CUDA has begun, into pinned memory: the batches of no workers."""
    torch.zeros(1, device=DEVICE)
    data = load("folder", "train", str(photographs), 64)
    batches = [
        list(micro_batches(data, StepSampler(len(data), 24, 0, 0, 20 if CUDA else 3, 2), workers, pin=CUDA))
        for workers in (0, 8 if CUDA else 2)
    ]
    assert len(batches[0]) == len(batches[1]) == (40 if CUDA else 6)
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert other[0].is_pinned() == CUDA


@slow_on_a_cpu
def test_loader_ends(photographs):
    """SIGTERM ends a process that reads, and all of its readers, within 10 s."""
    code = """
        import sys, torch
        from labcore.data import load
        from labcore.data.loaders import StepSampler, micro_batches
        device, folder = sys.argv[1:]
        torch.zeros(1, device=device)
        data = load("folder", "train", folder, 64)
        batches = iter(micro_batches(data, StepSampler(len(data), 24, 0, 0, 10**6), 8, pin=device == "cuda"))
        next(batches)
        print(*(worker.pid for worker in batches._workers), flush=True)
        for _ in batches:
            pass
    """
    process = child(code, DEVICE.type, str(photographs))
    readers = [int(word) for word in process.stdout.readline().split()]
    assert len(readers) == 8
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(10)
    while any(Path(f"/proc/{pid}/status").exists() for pid in readers) and time.monotonic() < start + 10:
        time.sleep(0.05)
    assert time.monotonic() < start + 10


def three_steps(flow: torch.nn.Module, shared: bool) -> dict[str, torch.Tensor]:
    """Of AdamW on MID's likelihood; the weights, whole."""
    flow.to(DEVICE)
    c, trained, ema = flow.config, Trained(flow, Likelihood()), Ema(flow, 0.9)
    if shared:
        shard.shard_(trained, flow, ema.model, DEVICE.type)
        assert all(type(p).__name__ == "DTensor" for p in flow.parameters())
    optimizer = torch.optim.AdamW(trained.parameters(), 1e-3)
    for step in range(3):
        x = numbers(4, *c.image_shape, seed=step).to(DEVICE, torch.float32)
        y = (torch.arange(4) % c.num_classes).to(DEVICE)
        batch = Batch(x, y, torch.arange(4), torch.zeros(4, dtype=torch.bool, device=DEVICE))
        trained(batch, StepNoise(0, step, 4, DEVICE))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    return shard.whole_state(flow.state_dict(), True)


@slow_on_a_cpu
def test_fsdp2_alone():
    """One process that shares out with itself: the same weights, and whole ones are saved."""
    want = three_steps(trainable(), False)
    backend, store = "nccl" if CUDA else "gloo", torch.distributed.HashStore()
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        got = three_steps(trainable(), True)
    finally:
        torch.distributed.destroy_process_group()
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert type(got[name]) is torch.Tensor and got[name].device.type == "cpu"
        torch.testing.assert_close(got[name], value, atol=1e-6, rtol=1e-5)
    moved = trainable().state_dict()
    assert max(float((want[name] - moved[name].cpu()).abs().amax()) for name in want) > 1e-3


@slow_on_a_cpu
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_launched_alone(parallel, tmp_path):
    """`lab train --num-processes 1` is the run in this process."""
    config = embedded(6, 64, batch_size=16, parallel=parallel)
    file, words = tmp_path / "run.yaml", ["--out", str(tmp_path / "launched"), "--no-previews", "--num-processes", "1"]
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    line = [sys.executable, "-m", "labcore.cli", "train", "--config", str(file), *words]
    environment = os.environ if CUDA else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, capture_output=True, text=True, timeout=95, env=environment)
    assert done.returncode == 0 and "done: 6 steps" in done.stdout, done.stderr[-2000:]
    run_training(config, tmp_path / "here", previews=False)
    want, got = weights(tmp_path / "here"), weights(tmp_path / "launched")
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-5, rtol=1e-5)


def test_likelihood():
    flow, data = mid_flow(), pictures().subset(list(range(20)))
    want = likelihood(exact(flow), data)
    got = likelihood(flow.to(DEVICE), data)
    assert got.nats_per_dim == pytest.approx(want.nats_per_dim, abs=1e-5) and got.n == len(data)


@slow_on_a_cpu
def test_features():
    """The embedded encoder's tokens, pooled features and logits."""
    x = numbers(4, 3, 64, 64, scale=0.5).clamp(-1, 1).float()
    here, there = encoders.load("efficientnet-lite0"), encoders.load("efficientnet-lite0", device=DEVICE)
    for look in (lambda e: e.tokens(x, 7), lambda e: e.pooled(x), lambda e: e.logits(x)):
        assert look(there).device.type == DEVICE.type
        assert error(look(there), look(here)) < 2e-3


@slow_on_a_cpu
def test_autoencoder():
    """The shipped autoencoder there and back."""
    x = load("fashion-mnist-12k", "test").images[:8].float() / 127.5 - 1
    here, there = latents.load("fashion-vae"), latents.load("fashion-vae").to(DEVICE)
    raw = here.raw(x)
    assert error(there.raw(x.to(DEVICE)), raw) < 2e-3
    back = there.decode(there.final(raw.to(DEVICE)))
    assert back.device.type == DEVICE.type and error(back, here.decode(here.final(raw))) < 2e-3


@slow_on_a_cpu
def test_five_steps_on_latents(tmp_path, monkeypatch):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
    latent = {**FASHION, "image_size": 7, "channels": 4, "patch_size": 1, "codec": "fashion-vae"}
    config = embedded(5, 64, model=latent, batch_size=16, eval_every=5)
    assert run_training(config, tmp_path / "run", previews=False).finished
    log = read_log(tmp_path / "run")
    assert len([r for r in log if "nats_per_dim" in r]) == 5 and abs(log[-1]["test_nats_per_dim"]) < 100


@needs_cuda
def test_notebook(tmp_path):
    """The quickstart at its smoke size by the runner, which gives it the first device."""
    line = [sys.executable, "-m", "labcore.cli", "run", "00_quickstart", "--smoke", "--root", str(tmp_path)]
    shared = (
        Path(find_spec("nbconvert").origin).parents[1] / "share" / "jupyter"
    )  # of packages in a folder of their own
    environment = {**os.environ, "OMP_NUM_THREADS": "2"} | ({"JUPYTER_PATH": str(shared)} if shared.is_dir() else {})
    done = subprocess.run(line, capture_output=True, text=True, timeout=98, env=environment)
    logs = "".join(log.read_text()[-2000:] for log in tmp_path.rglob("log.txt"))
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:] + logs
    assert "on GPU 0" in done.stdout + done.stderr
    state = json.loads(next(tmp_path.rglob("run.json")).read_text())
    assert torch.cuda.get_device_name(0) in state["attempts"][-1]["device"]
    page = next(tmp_path.rglob("notebook.html"))
    if os.environ.get("OUT"):
        (Path(os.environ["OUT"]) / "notebook.html").write_bytes(page.read_bytes())
