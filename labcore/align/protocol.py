"""Interfaces that alignment needs of a flow and its blocks. `TarFlow` and `MetaBlock` have them; coupling flows can, too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from labcore.flows.metablock import BlockOutput
from labcore.sites import Site
from labcore.types import FlowOutput


@runtime_checkable
class Block(Protocol):
    """An invertible block whose generative map is v = u exp(log_scale(v)) + shift(v), with output u and input v.

    No element of log_scale and shift may depend on itself, directly or in a circle: in some order of the elements each
    depends only on those before it. Autoregressive blocks and couplings fulfil this. `layers` has one entry per layer. A
    call with the 1-based numbers of layers returns a `BlockOutput`: z = u and log_scale as functions of v, with the shape
    of v; hiddens {layer: (b, t, width)}; everything in raster order.
    """

    if TYPE_CHECKING:  # a submodule, which isinstance does not find since Python 3.12
        layers: Sized

    def __call__(self, x: Tensor, y: Tensor | None, layers: Iterable[int]) -> BlockOutput: ...


@runtime_checkable
class Flow(Protocol):
    """A flow of such blocks: `blocks[0]` reads `patchify(x)`, each next block reads the z of the block before."""

    if TYPE_CHECKING:  # a submodule, which isinstance does not find since Python 3.12
        blocks: Sequence[Block]

    def patchify(self, x: Tensor) -> Tensor: ...

    def check_images(self, x: Tensor) -> None: ...

    def check_labels(self, y: Tensor | None, batch: int) -> None: ...

    def __call__(self, x: Tensor, y: Tensor | None, hidden_sites: Iterable[Site]) -> FlowOutput: ...
