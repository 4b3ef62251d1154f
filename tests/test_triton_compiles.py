"""Triton's kernels compile for an H100 (sm_90) without one. No registers are spilled, and a thread reads 16 bytes at a time.

A kernel is compiled for the arguments that its own caller gives: the caller runs on the CPU, and the launch is caught.
"""

import inspect
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

import labcore.kernels

triton = pytest.importorskip("triton", reason="Triton is not installed: it has no wheels for this system")

H100 = ("cuda", 90, 32)
NAMES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.bool: "i1",
    torch.int64: "i64",
}


def kernels(name: str):
    """The module labcore.kernels.NAME, read without the tests' shape checks: Triton compiles what it finds in the file."""
    spec = spec_from_file_location(f"unchecked_{name}", Path(labcore.kernels.__file__).with_name(f"{name}.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Caught:
    """Takes a kernel's place and keeps the arguments of each launch."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, []

    def __getitem__(self, grid):
        return lambda *given, **named: self.launches.append((given, named))


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """compiled(module, name, call): PTX of the kernel `name` for each launch that `call` makes."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def go(module, name, call):
        kernels = {key: value for key, value in vars(module).items() if isinstance(value, triton.JITFunction)}
        found = {key: Caught(value) for key, value in kernels.items() if value.fn.__module__ == module.__name__}
        for key, kernel in found.items():
            monkeypatch.setattr(module, key, kernel)
        monkeypatch.setitem(sys.modules, f"labcore.kernels.{Path(module.__file__).stem}", module)
        call()
        assert found[name].launches
        return [ptx_of(found[name].kernel, *launch) for launch in found[name].launches]

    return go


def ptx_of(kernel, given, named) -> str:
    """Compiled as a launch with these arguments would be: what 16 divides is known to be so, and a 1 is a constant."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {"num_warps": named.pop("num_warps")} if "num_warps" in named else {}
    arguments = inspect.signature(kernel.fn).bind(*given, **named).arguments
    constants = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    constants |= {name for name, value in arguments.items() if type(value) is int and value == 1}
    signature = {name: "constexpr" if name in constants else _type(value) for name, value in arguments.items()}
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, value) in enumerate(arguments.items())
        if name not in constants and _divisible(value)
    }
    source = ASTSource(kernel, signature, {name: arguments[name] for name in constants}, attributes)
    return triton.compile(source, target=GPUTarget(*H100), options=options).asm["ptx"]


def _type(value) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + NAMES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32" if abs(value) < 2**31 else "i64"


def _divisible(value) -> bool:
    if isinstance(value, torch.Tensor):
        return value.data_ptr() % 16 == 0
    return type(value) is int and value % 16 == 0


def spilled(ptx: str, folder) -> int:
    """Bytes of registers that do not fit and go to memory, as NVIDIA's assembler says, which comes with Triton."""
    from triton.backends.nvidia.compiler import get_ptxas

    file = folder / "kernel.ptx"
    file.write_text(ptx)
    words = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", str(file), "-o", str(folder / "kernel.cubin")]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stderr
    found = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert found, said
    return sum(int(number) for pair in found for number in pair)


def loads(ptx: str) -> dict[int, int]:
    """Bytes -> how many loads from global memory take so many at once."""
    found: dict[int, int] = {}
    for many, bits in re.findall(r"ld\.global(?:\.[a-z_:0-9]+?)*?(?:\.v(\d))?\.[bfusi](\d+) ", ptx):
        size = int(many or 1) * int(bits) // 8
        found[size] = found.get(size, 0) + 1
    return found


def numbers(*shape, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("e", [64, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@torch.no_grad()
def test_cached_attention(dtype, e, compiled, tmp_path):
    cache, q = numbers(2, 2, 16, 256, e, dtype=dtype), numbers(2, 16, 1, e, dtype=dtype)
    module = kernels("attention_triton")
    for ptx in compiled(module, "_attend", lambda: module.cached_attention(q, *cache[:, :, :, :65], e**-0.5)):
        assert spilled(ptx, tmp_path) == 0
        if e == 64:
            assert set(loads(ptx)) == {16}


@pytest.mark.parametrize("kernel", ["_forward", "_backward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_affine_step(dtype, kernel, compiled, tmp_path):
    module = kernels("affine_triton")
    x, a, shift = (numbers(4, 256, 48, dtype=dtype).requires_grad_() for _ in range(3))

    def call():
        z, log_det = module.affine_forward(x, a, shift)
        (z.sum() + log_det.sum()).backward()

    for ptx in compiled(module, kernel, call):
        assert spilled(ptx, tmp_path) == 0
        assert loads(ptx).get(16, 0) >= 3 and loads(ptx).keys() <= {16, dtype.itemsize}


@pytest.mark.parametrize("d", [12, 48])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_change_of_a_sweep(dtype, d, compiled, tmp_path):
    module = kernels("change_triton")
    new, old = numbers(2, 7, d, dtype=dtype), numbers(2, 7, d, dtype=dtype)
    for ptx in compiled(module, "_change", lambda: module.sweep_change(new, old, 1e-6)):
        assert spilled(ptx, tmp_path) == 0
        assert loads(ptx) == {dtype.itemsize: 2}  # a thread has one value: neighbours are read together


def test_spills_are_seen(tmp_path):
    """The oracle of these tests: a function that is allowed too few registers."""
    from triton.backends.nvidia.compiler import get_ptxas

    lines = [f"ld.global.f32 %f{i}, [%rd1+{4 * i}];" for i in range(64)]
    lines += [f"st.global.f32 [%rd2+{4 * i}], %f{63 - i};" for i in range(64)]
    body = "\n".join(lines)
    ptx = f""".version 8.0
.target sm_90a
.address_size 64
.visible .entry crowded(.param .u64 from, .param .u64 to) .maxnreg 24
{{
.reg .f32 %f<64>;
.reg .b64 %rd<3>;
ld.param.u64 %rd1, [from];
ld.param.u64 %rd2, [to];
{body}
ret;
}}
"""
    assert get_ptxas(90).path and spilled(ptx, tmp_path) > 0
    assert loads(ptx) == {4: 64}


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
@pytest.mark.parametrize("activation", ["none", "gelu", "swiglu"])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_linear_of_few_rows(dtype, rows, activation, norm, compiled, tmp_path):
    module = kernels("token_triton")
    x, weight, bias = numbers(rows, 4096, dtype=torch.float32), numbers(64, 4096, dtype=dtype), numbers(64, dtype=dtype)
    call = lambda: module.linear(x, weight, bias, norm, 1e-5, activation)  # noqa: E731
    for ptx in compiled(module, "_linear", call):
        assert spilled(ptx, tmp_path) == 0
        assert loads(ptx).get(16, 0) >= 4


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_attention_that_keeps_the_token(dtype, rows, compiled, tmp_path):
    module = kernels("token_triton")
    cache, position = numbers(2, rows, 16, 256, 64, dtype=dtype), torch.tensor([65])
    qkv = numbers(rows, 3 * 16 * 64, dtype=torch.float32)
    call = lambda: module.attend(qkv, *cache, position, None, 0.125)  # noqa: E731
    for ptx in compiled(module, "_attend", call):
        assert spilled(ptx, tmp_path) == 0
        assert loads(ptx).get(16, 0) >= 4
