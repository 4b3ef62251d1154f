"""Embeddings of classes and positions, and the check of labels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from labcore.tensors import only_shapes


class ClassEmbedding(nn.Module):
    """One vector for each class. "No class" (y = None, or NULL = -1) is the mean of all vectors (TARFlow, guidance).

    Only this class defines "no class", so the forward pass and the inverse agree. A row of class probabilities p instead of a
    label gives the mixture p^T E of the table E (FlowBack, Algorithm 1).
    """

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(small_normal(num_classes, width))

    def forward(self, y: Int[Tensor, " b"] | Float[Tensor, "b k"] | None) -> Float[Tensor, "#b width"]:
        """Return the vectors (b, width) of labels (b,) or class probabilities (b, k); (1, width) for None."""
        if y is None:
            return self.weight.mean(dim=0, keepdim=True)
        if y.is_floating_point():
            return y.to(self.weight.dtype) @ self.weight
        no_class = (y < 0)[:, None]
        of_class = F.embedding(
            y.clamp_min(0), self.weight
        )  # before the mean, because autograd adds gradients in this order
        return torch.where(no_class, self.weight.mean(dim=0), of_class)

    def extra_repr(self) -> str:
        return f"classes={self.weight.shape[0]}, width={self.weight.shape[1]}"


def check_labels(y: Tensor | None, batch: int, num_classes: int, ranges: bool = False) -> None:
    """Raise ValueError unless y fits a model of `num_classes` classes and a batch of `batch` images.

    Allowed are int64 labels (batch,) with values in -1..num_classes-1, float probabilities (batch, num_classes), and None.
    Values on a GPU are checked only with `ranges`, because this waits for the GPU.
    """
    if y is None:
        return
    if num_classes == 0:
        raise ValueError("labels were given, but this model is unconditional (num_classes=0); pass y=None")
    if y.is_floating_point():
        if y.shape != (batch, num_classes):
            raise ValueError(
                f"class probabilities have shape {tuple(y.shape)}; this model takes ({batch}, {num_classes})"
            )
        if ranges or _on_cpu(y):
            _check_probabilities(y)
        return
    if y.shape != (batch,) or y.dtype != torch.int64:
        raise ValueError(f"labels have shape {tuple(y.shape)} and dtype {y.dtype}; give int64 of shape ({batch},)")
    if (ranges or _on_cpu(y)) and batch and not -1 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(
            f"labels run from {int(y.min())} to {int(y.max())}; allowed are 0..{num_classes - 1}, and -1 for no class"
        )


def _on_cpu(y: Tensor) -> bool:
    return y.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_probabilities(y: Float[Tensor, "b k"]) -> None:
    """Raise ValueError unless every row has probabilities that sum to 1, up to rounding in their number format."""
    rows = y.detach().double()
    rounding = max(1e-3, 8 * torch.finfo(y.dtype).eps)  # our choice
    sums_to_1 = (rows.sum(1) - 1).abs() <= rounding
    wrong = ~((rows >= 0).all(1) & sums_to_1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{int(wrong.sum())} of {len(y)} rows of class probabilities hold values below 0, or do not sum to 1: row {row} "
            f"sums to {float(rows[row].sum()):.6g}; make them, for example, with logits.softmax(dim=1)"
        )


def small_normal(*shape: int) -> Tensor:
    """Return first values of a table: normal, with a standard deviation of 0.01 as in ml-tarflow."""
    return torch.empty(shape) if only_shapes() else torch.randn(shape) * 1e-2


def grid_positions(grid: tuple[int, int]) -> Int[Tensor, "t 2"]:
    """Return (row, column) of each token, (t, 2), in raster order, for a grid of (rows, columns)."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([rows.flatten(), columns.flatten()], dim=-1)


def rope_table(grid: tuple[int, int], head_dim: int, base: float = 100.0, unturned: int = 0) -> Float[Tensor, "t e 2"]:
    """Return cos and sin, (t, e, 2) with e = head_dim / 2, of two-dimensional rotary positions (RoFormer, arXiv 2104.09864).

    The first half of the pairs is rotated by the row, the second half by the column. Base 100 suits grids of 7 to 32 tokens
    along a side. It is our choice, because FlowBack and BiFlow say "RoPE" and give no base. unturned: number of tokens before
    the grid that have no position and are not rotated; default 0.
    """
    per_axis = head_dim // 4
    if only_shapes():
        return torch.empty(unturned + math.prod(grid), 2 * per_axis, 2)
    frequencies = base ** (-torch.arange(per_axis, dtype=torch.float64) / per_axis)
    angles = (grid_positions(grid).double()[:, :, None] * frequencies).flatten(1)
    table = torch.stack([angles.cos(), angles.sin()], dim=-1).to(torch.get_default_dtype())
    return torch.cat([torch.tensor([1.0, 0.0]).expand(unturned, 2 * per_axis, 2), table])


def rotate(x: Float[Tensor, "b heads n head"], table: Float[Tensor, "n e 2"]) -> Float[Tensor, "b heads n head"]:
    """Rotate each pair (x_2i, x_2i+1) of queries or keys by its angle in `table`; the dtype of x is kept.

    Computed as a product of complex numbers; for torch.compile, which does not support these, with real numbers.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if torch.compiler.is_compiling():
        even, odd = x.to(wide).unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = table.to(wide).unbind(-1)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    else:
        pairs = torch.view_as_complex(x.to(wide).unflatten(-1, (-1, 2)))  # x_2i + i x_2i+1
        turned = torch.view_as_real(pairs * torch.view_as_complex(table.to(wide)))
    return turned.flatten(-2).to(x.dtype)
