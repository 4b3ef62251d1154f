"""A device that is not the CPU where there is none: tensors that say they are on "gpu:0", with their values on the CPU.

    python tests/second_device.py notebook 00_quickstart FOLDER
    python tests/second_device.py smoke latent-small FOLDER

What a GPU refuses is refused: operations on tensors of two devices, a generator of another one, tensors as numpy arrays.
So what runs here mixes no devices. Values are the CPU's, to the last bit where the operations are the same. What a GPU does by
itself (kernels, graphs, streams, its memory, autocast) is not seen here. torch knows one such device a process, for good.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

DEVICE = torch.device("privateuseone", 0)
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}  # by indices on the CPU too


class TwoDevices(RuntimeError):
    """What a GPU would refuse."""


class Elsewhere(torch.Tensor):
    """A tensor on the second device."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> Elsewhere:
        options = dict(strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype)
        new = torch.Tensor._make_wrapper_subclass(cls, values.size(), **options, device=DEVICE)
        new.values = values
        return new

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return carry_out(func, args, kwargs or {})

    @property
    def data(self) -> torch.Tensor:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other: Elsewhere) -> None:
        torch.Tensor.data.__set__(self, other)
        self.values = other.values

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.values.__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.values})"

    def tolist(self) -> list:
        return self.values.tolist()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None, **_: Any) -> Elsewhere:
        return Elsewhere(torch.tensor(data, dtype=dtype or self.dtype))

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.values.numpy(force=True)
        raise TwoDevices("a tensor of the second device as a numpy array")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()


def is_elsewhere(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def carry_out(func: Any, args: tuple, kwargs: dict) -> Any:
    """An operation on the CPU's values, if a GPU would do it, its results on the device where they belong."""
    flat, device = tree_leaves((args, kwargs)), kwargs.get("device")
    ours = [x for x in flat if isinstance(x, Elsewhere)]
    there = is_elsewhere(device) if device is not None else bool(ours)
    check(func, args, flat)
    if func in INDEXED or func is aten.copy_.default:
        there = isinstance(args[0], Elsewhere)
    if func is aten._local_scalar_dense.default:
        there = False
    values, options = tree_map(_of_the_cpu, (args, kwargs))
    options = {name: value for name, value in options.items() if name not in ("pin_memory", "non_blocking")}
    found = func(*values, **options)
    if not there:
        return found
    if func is aten.copy_.default:
        return args[0]
    found = tree_map(lambda x: Elsewhere(x.resolve_conj()) if type(x) is torch.Tensor else x, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if ours and func not in COPIES else found


def check(func: Any, args: tuple, flat: list) -> None:
    """TwoDevices for what a GPU refuses. Numbers of no dimension may be on the CPU, and indices."""
    ours = [x for x in flat if isinstance(x, Elsewhere)]
    others = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, Elsewhere) and x.ndim > 0]
    if ours and others and func not in COPIES | INDEXED:
        raise TwoDevices(f"{func} of tensors on two devices; on the CPU {[tuple(x.shape) for x in others]}")
    if func in INDEXED and ours and not isinstance(args[0], Elsewhere):
        raise TwoDevices(f"{func}: indices of the second device for a tensor of the CPU")


def _of_the_cpu(x: Any) -> Any:
    if isinstance(x, Elsewhere):
        return x.values
    return torch.device("cpu") if isinstance(x, torch.device) else x


class Operations(TorchDispatchMode):
    """Sees those that make tensors of nothing, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        flat = tree_leaves((args, kwargs))
        if is_elsewhere(kwargs.get("device")) or any(isinstance(x, Elsewhere) for x in flat):
            return carry_out(func, args, kwargs)
        return func(*args, **kwargs)


class Functions(TorchFunctionMode):
    """Those that torch does below any operation: tensors of Python's numbers, lists as indices, generators."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        there = is_elsewhere(kwargs.get("device")) or any(isinstance(x, Elsewhere) for x in args)
        if (generator := kwargs.get("generator")) is not None and is_elsewhere(generator.device) != there:
            raise TwoDevices(f"{func}: a generator of another device")
        if func in (torch.tensor, torch.as_tensor) and is_elsewhere(kwargs.get("device")):
            if isinstance(args[0], Elsewhere):
                return args[0].to(**kwargs)
            return Elsewhere(func(*args, **{**kwargs, "device": "cpu"}))
        if func is torch.Tensor.__getitem__ and isinstance(args[0], Elsewhere) and isinstance(args[1], list):
            return args[0][Elsewhere(torch.tensor(args[1]))]
        return func(*args, **kwargs)


class Generator(torch.Generator):
    """One of the second device draws the CPU's numbers."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        new = super().__new__(cls, "cpu")
        new.there = is_elsewhere(device)
        return new

    def __init__(self, device: Any = "cpu"):
        pass

    @property
    def device(self) -> torch.device:
        return DEVICE if self.there else torch.device("cpu")


class Event:
    """A time on a device that does things at once."""

    def __init__(self, *_: Any, **__: Any):
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.time - self.time)


def load(*args: Any, read: Any = torch.load, map_location: Any = None, **kwargs: Any) -> Any:
    """As torch.load; what goes to the second device comes by the CPU."""
    there = is_elsewhere(map_location)
    found = read(*args, map_location="cpu" if there else map_location, **kwargs)
    return tree_map(lambda x: x.to(DEVICE) if isinstance(x, torch.Tensor) else x, found) if there else found


class _Module(_DummyBackendModule):
    """What torch asks of a device."""

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed: int) -> None:
        pass


@contextlib.contextmanager
def second_device() -> Iterator[None]:
    """While open, "gpu" is a device, and accelerate's."""
    import accelerate.state

    _setup_privateuseone_for_python_backend("gpu", _Module())
    global DEVICE
    DEVICE = torch.device("gpu", 0)
    torch.Generator, torch.Event, torch.load = Generator, Event, load
    accelerate.state.PartialState.default_device = property(lambda state: DEVICE)
    with Functions(), Operations():
        yield


def _make_it_the_labs() -> None:
    """In all modules that ask for the process's device."""
    import importlib
    import pkgutil

    import labcore

    for found in pkgutil.walk_packages(labcore.__path__, "labcore."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            if hasattr(module, "process_device"):
                module.process_device = lambda: str(DEVICE)


def _spare_time() -> None:
    """A quarter of the pictures; and plans, whose tensors have no values, without the modes of this device."""
    from torch.utils._python_dispatch import _disable_current_modes

    import labcore.plan
    from labcore.data import embedded

    read, plan = embedded.read_split, labcore.plan.plan

    def plain(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return plan(*args, **kwargs)

    embedded.read_split = lambda split: tuple(part[::4] for part in read(split))
    labcore.plan.plan = plain


def done() -> None:
    """End the process here and now: torch's thread for such a device may not survive the interpreter's own end."""
    sys.stdout.flush()
    os._exit(0)


def notebook(name: str, folder: Path) -> None:
    """All cells of a notebook at its smoke size; ends with status 1 at the first that fails."""
    import matplotlib
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell

    matplotlib.use("agg")
    notebooks = Path(__file__).resolve().parent.parent / "notebooks"
    cells = [c for c in nbformat.read(notebooks / f"{name}.ipynb", 4).cells if c.cell_type == "code"]
    os.chdir(folder)
    shell = InteractiveShell.instance()
    for number, cell in enumerate(cells):
        source = cell.source.replace('"cuda" if torch.cuda.is_available() else "cpu"', f'"{DEVICE}"')
        assert "torch.cuda" not in source, f"{name}, cell {cell.id}: how is its device chosen?"
        parameters = f"\nsmoke, run_dir = True, {str(folder / 'run')!r}" if number == 0 else ""
        result = shell.run_cell(source + parameters)
        if not result.success:
            raise SystemExit(f"{name}, cell {cell.id}")


def smoke(preset: str, folder: Path) -> None:
    """A preset from training to measures at its smoke size."""
    from labcore.experiments.smoke import run_smoke

    run_smoke(preset, folder / "smoke")


def same(flow: Any, calls: dict[str, Any]) -> None:
    """Each call(flow, x, y), on the CPU and on the second device, the same numbers; results stay where the flow is."""
    import copy

    there = copy.deepcopy(flow).to(DEVICE)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, *flow.config.image_shape, generator=g, dtype=flow.dtype)
    y = torch.arange(3) % flow.config.num_classes
    for name, call in calls.items():
        here, found = call(flow, x, y), call(there, x.to(DEVICE), y.to(DEVICE))
        assert isinstance(found, Elsewhere), f"{name}: the result is on {found.device}"
        torch.testing.assert_close(found.values, here, msg=lambda said, name=name: f"{name}: {said}")
        print(name)


if __name__ == "__main__":
    what, name, folder = sys.argv[1:]
    with second_device():
        _make_it_the_labs()
        _spare_time()
        {"notebook": notebook, "smoke": smoke}[what](name, Path(folder))
    done()
