"""Hidden features of a flow over a data set, one vector per image and site, computed once and kept on disk.

Linear probes and CKNNA read them: the mean over tokens of the hidden state after a layer, of clean images, without a
label. That follows the first author of FlowBack (arXiv 2511.22345) in a later repository, with one difference: there the
hook reads the attention's output, and here the hidden is the layer's output after its MLP, as in the paper's equations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from labcore.data.protocol import Dataset
from labcore.derived import store_of
from labcore.files import cache_folder
from labcore.finite import DIVERGED, check_result, images_from
from labcore.flows.tarflow import TarFlow
from labcore.progress import Progress
from labcore.provenance import weights_hash
from labcore.reading import parts_of
from labcore.sites import Site, check_sites
from labcore.spread import check_limit, spread
from labcore.store import Rows

LAYOUT = 1
"""Version of the rows, a part of their key. Raise it with every change of their meaning, or of the code that computes them,
after which equal images and weights give other values."""


def all_sites(flow: TarFlow) -> list[Site]:
    """Return every (block, layer) of the flow, from image to noise, both counted from 1."""
    c = flow.config
    return [(block, layer) for block in range(1, c.num_blocks + 1) for layer in range(1, c.layers_per_block + 1)]


def sites_of(flow: TarFlow, sites: Iterable[Site] | None) -> list[Site]:
    """Return the sites, each once, in the given order; None: all of the flow. ValueError as `labcore.sites.check_sites`."""
    if sites is None:
        return all_sites(flow)
    return list(dict.fromkeys(check_sites(sites, flow.config.depths)))


def hidden_features(
    flow: TarFlow,
    dataset: Dataset,
    sites: Iterable[Site],
    root: Path | None = None,
    limit: int | None = None,
    chunk: int = 64,
    progress: Progress | None = None,
) -> dict[Site, Float[Tensor, "n width"]]:
    """Return {site: (n, width) float32}, the mean over tokens at each site, in the order of `sites`.

    dataset: one of `labcore.data`; `limit` of its images are used, evenly spread (None: all), in order. Images are clean
    and have no label (y = None). The rows are stored under `root` (None: hiddens/ in `labcore.files.cache_folder()`), in
    a folder named by weights, architecture, data, sites, number of images and `chunk`, the images of one forward pass.
    Stored rows are not computed again, and the processes of one launch share the rest. The tensors are mapped from these
    files: only read them, or clone them first. Raises ValueError for no sites, sites outside the flow, and a limit below
    1, and `labcore.finite.NotFinite` for features that are not finite.
    """
    sites = sites_of(flow, sites)
    check_limit(limit)
    dataset = spread(dataset, limit)
    of_flow = {"layout": LAYOUT, "weights": weights_hash(flow), "model": flow.config.computation()}
    where = Path(root) if root is not None else cache_folder() / "hiddens"
    store = store_of(
        dataset,
        where,
        "hiddens",
        key=lambda fingerprint: {**of_flow, "data": fingerprint, "sites": sorted(sites)},
        arrays={_array(site): Rows((flow.config.width,), "float32") for site in sorted(sites)},
        chunk=chunk,
    )

    @torch.no_grad()
    def compute(part: range, pixels: Tensor) -> dict[str, Tensor]:
        x = dataset.floats(pixels).to(flow.device, flow.dtype)
        with images_from(part.start):
            means = {site: _token_mean(h) for site, h in flow(x, hidden_sites=sites).hiddens.items()}
            check_result(torch.cat(list(means.values()), 1), "hidden_features", advice=DIVERGED)
        return {_array(site): means[site] for site in sites}

    def in_turn(parts: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        read = zip(parts, parts_of(dataset, parts, flow.device), strict=True)
        return (compute(part, pixels) for part, (pixels, _) in read)

    store.fill_in_turn(in_turn, progress)
    return {site: store[_array(site)] for site in sites}


def _token_mean(hidden: Float[Tensor, "b t width"]) -> Float[Tensor, "b width"]:
    """Return the mean over tokens, computed in float32 or better, as float32."""
    return hidden.to(torch.promote_types(hidden.dtype, torch.float32)).mean(dim=1).to(torch.float32)


def _array(site: Site) -> str:
    return f"block{site[0]}-layer{site[1]}"
