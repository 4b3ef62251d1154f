"""CKNNA: agreement of the nearest neighbours, and of their distances, between two sets of features of the same images.

Huh et al., The Platonic Representation Hypothesis (arXiv 2405.07987), as REPA (arXiv 2410.06940) uses it to compare a
generator with a vision encoder. Rows are normalised to length 1; K = A A^T, L = B B^T; m_K keeps the k nearest others of
each row,

    CKNNA = s(K, L) / sqrt(s(K, K) s(L, L)),   s(K, L) = HSIC(m_K m_L K, m_K m_L L)

with the unbiased HSIC of Song et al. (Feature Selection via Dependence Maximization, JMLR 2012, eq. 5):

    HSIC(K, L) = [tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'K L 1] / (n(n-3)),   zero diagonals

The masks are not symmetric ("j is near i" is not "i is near j"), so tr(K L) is the sum over K times the transpose of L.
For the same reason 1'K L 1 differs from 1'L K 1, and CKNNA(a, b) from CKNNA(b, a), by about a thousandth: we keep the
published form. The same neighbours with the same similarities give 1. Unrelated features do not give 0 but up to k/n, the
share of neighbours that agree by chance: 0.005 for 2,000 images and k = 10, but 0.1 for 100. k = n - 1 keeps all others and is
CKA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from labcore.sites import Site


def cknna(a: Float[Tensor, "n d1"], b: Float[Tensor, "n d2"], k: int = 10) -> float:
    """Return CKNNA of two features of the same n images, computed in float64.

    Needs a few n x n matrices of float64: 32 MB each for 2,000 images, 800 MB for 10,000. Chance is up to k/n, so compare
    only values with equal n and k. Among equally near neighbours (copies of one image) the choice is arbitrary.

    Args:
        a: features (n, width), floating.
        b: features (n, width) of the same images in the same order; the width may differ.
        k: number of neighbours, default 10 as in REPA.

    Returns:
        CKNNA, at most 1.

    Raises:
        ValueError: numbers of rows differ; n < 4; k is not in 2..n - 1; values are not finite; a row is zero; or all rows
            point in one direction.
    """
    _check_pair(a, b)
    return _alignment(_neighbours(a, k, "the first features"), _neighbours(b, k, "the second features"))


def cknna_sites(
    flow_features: Mapping[Site, Float[Tensor, "n width"]], encoder_features: Float[Tensor, "n d"], k: int = 10
) -> dict[Site, float]:
    """Return CKNNA at each site (`labcore.evaluate.hidden_features`) with an encoder's features of the same images.

    Use 2,000 to 5,000 images. The encoder's side is computed once. Raises ValueError as `cknna`, and for no sites.
    """
    if not flow_features:
        raise ValueError("no sites were given; give the result of hidden_features(flow, dataset, sites)")
    for features in flow_features.values():
        _check_pair(features, encoder_features)
    encoder = _neighbours(encoder_features, k, "the encoder's features")
    return {
        site: _alignment(_neighbours(features, k, f"the features at site {site}"), encoder)
        for site, features in flow_features.items()
    }


class _Neighbours(NamedTuple):
    """Cosines between images, the k nearest others of each row, and s(K, K)."""

    cosines: Float[Tensor, "n n"]
    near: Bool[Tensor, "n n"]
    own: float


def _neighbours(features: Float[Tensor, "n d"], k: int, name: str) -> _Neighbours:
    n = len(features)
    if not isinstance(k, Integral) or isinstance(k, bool):
        raise ValueError(f"k was {k!r}; give a whole number of neighbours, as 10")
    if n < 4 or not 2 <= k <= n - 1:
        raise ValueError(f"{n} images and k = {k}; CKNNA takes at least 4 images and k from 2 to n - 1. REPA's k is 10")
    x = features.detach().double()
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} hold NaN or infinity in {int((~x.isfinite()).any(dim=1).sum())} of {n} rows")
    # by the largest value first: squares of very small or large features stay within float64
    largest = x.abs().amax(dim=1, keepdim=True)
    if not bool((largest > 0).all()):
        raise ValueError(f"{name} are all zero in {int((largest == 0).sum())} of {n} rows; leave these images out")
    x = x / largest
    x = x / x.norm(dim=1, keepdim=True)
    cosines = x @ x.T
    if float(cosines.min()) > 1 - 1e-12:
        raise ValueError(f"{name} point in the same direction for all {n} images, so no image is nearer than another")
    near = torch.zeros_like(cosines, dtype=torch.bool)
    near.scatter_(1, cosines.clone().fill_diagonal_(-math.inf).topk(k, dim=1).indices, True)
    masked = cosines * near  # m_K K
    own = float(_hsic(masked, masked))
    if not own > 0:
        raise ValueError(
            f"{name} have s(K, K) = {own:.3g}, and CKNNA divides by its root: the {k} neighbours of the {n} images are not "
            "mutual, or all equally near. Give more images or a larger k"
        )
    return _Neighbours(cosines, near, own)


def _alignment(a: _Neighbours, b: _Neighbours) -> float:
    both = a.near & b.near
    return float(_hsic(a.cosines * both, b.cosines * both)) / math.sqrt(a.own * b.own)


def _hsic(k: Float[Tensor, "n n"], l: Float[Tensor, "n n"]) -> Float[Tensor, ""]:  # noqa: E741
    """Return the unbiased HSIC of two matrices with zero diagonals, symmetric or not (Song et al. 2012, eq. 5)."""
    n = len(k)
    trace = (k * l.T).sum()
    product = k.sum() * l.sum() / ((n - 1) * (n - 2))
    return (trace + product - 2 / (n - 2) * (k.sum(dim=0) @ l.sum(dim=1))) / (n * (n - 3))


def _check_pair(a: Tensor, b: Tensor) -> None:
    for x in (a, b):
        if x.ndim != 2 or not x.is_floating_point():
            raise ValueError(f"features are {x.dtype} of shape {tuple(x.shape)}; give floating (images, width)")
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} images; give features of the same images in the same order")
