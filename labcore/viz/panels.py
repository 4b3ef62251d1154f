"""Panels that show the inside of a flow: states, tokens and layers. The flow is evaluated once, when a panel is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from labcore.flows.metablock import Labels
from labcore.flows.tarflow import TarFlow
from labcore.inverse.denoise import denoise
from labcore.inverse.fixed_point import Sweep
from labcore.inverse.solve import invert
from labcore.sites import Site
from labcore.viz import controls, frames
from labcore.viz.class_labels import class_names
from labcore.viz.panel import Panel


def trajectory(
    x: Float[Tensor, "b c h w"], states: Sequence[Float[Tensor, "b c h w"]], image_names: Sequence[str] = ()
) -> Panel:
    """Make a panel that goes from image to noise block by block.

    Args:
        x: images (b, c, h, w).
        states: state after each block, as images; the last is z.
        image_names: names under the images, for example classes; default none.

    Raises:
        ValueError: there are no states.
    """
    if not states:
        raise ValueError("there are no states; give the flow's latents as images")
    named = {"x": x.cpu()} | {f"x{_raised(i)}": s.cpu() for i, s in enumerate(states[:-1], 1)} | {"z": states[-1].cpu()}
    return Panel(
        lambda block: frames.state(named, block, image_names=image_names),
        {"block": controls.whole("after block", 0, len(states), 0)},
        play="block",
        caption="A batch of images after each block of a flow, with a histogram of its values and their root mean square",
    )


def learned_states(
    flow: TarFlow, states: Sequence[Float[Tensor, "b t d"]], z: Float[Tensor, "b t d"], y: Labels = None
) -> Panel:
    """Make a panel that goes from noise to image: states of the exact inverse and of a student, from the same z.

    states: states of a student of `flow`: x^(T-1) ... x^0 and, if the student denoises, the clean image. The clean image is
    compared with the exact x^0 after score denoising. Raises ValueError for another number of states.
    """
    if len(states) - len(flow.blocks) not in (0, 1):
        raise ValueError(
            f"{len(states)} states for a flow with {len(flow.blocks)} blocks; give all states of its student"
        )
    found: dict[int, Tensor] = {}
    invert(flow, z, y, callback=lambda sweep: found.__setitem__(sweep.block, sweep.x))
    exact = [flow.unpatchify(found[number]).cpu() for number in range(len(flow.blocks), 0, -1)]
    names = [f"x{_raised(i)}" for i in range(len(exact) - 1, -1, -1)]
    if len(states) > len(exact):
        names.append("clean")
        exact.append(denoise(flow, flow.unpatchify(found[1]), y).cpu())
    learned, classes = [flow.unpatchify(state).cpu() for state in states], class_names(y, flow.config.class_names)
    return Panel(
        lambda state: frames.beside_exact(exact, learned, names, state, image_names=classes),
        {"state": controls.whole("state", 0, len(names) - 1, 0)},
        play="state",
        caption="States of the exact inverse and of the student from the same noise, and the error of each student's state",
    )


def solver_steps(
    flow: TarFlow, z: Float[Tensor, "b t d"], y: Labels = None, guidance: float = 0.0, images: int = 4
) -> Panel:
    """Make a panel that inverts a block for the first `images` of z, token by token and by Jacobi sweeps.

    One step is one evaluation of the block. A block does not change its first token, so one token is known at the start, and
    one more after each step.
    """
    z, y = z[:images], None if y is None else y[:images]
    classes = class_names(y, flow.config.class_names)
    blocks, tokens = len(flow.blocks), flow.config.tokens
    solved: dict[int, Tensor] = {}
    swept: dict[int, list[Tensor]] = {number: [] for number in range(1, blocks + 1)}
    invert(flow, z, y, guidance, callback=lambda sweep: solved.__setitem__(sweep.block, sweep.x))

    def keep(sweep: Sweep) -> None:
        swept[sweep.block].append(sweep.x)

    invert(flow, z, y, guidance, solver="jacobi", callback=keep)

    def draw(block: int, step: int):
        given = z if block == blocks else solved[block + 1]
        sweeps = min(step, len(swept[block]))
        exact, iterate = solved[block], [given, *swept[block]][sweeps]
        numbers = torch.arange(tokens, device=z.device, dtype=torch.float64)[None, :, None]
        order = flow.blocks[block - 1].permute(numbers)[0, :, 0].long()
        done = torch.zeros(tokens, dtype=torch.bool, device=z.device)
        done[order[: step + 1]] = True
        off = (iterate - exact).abs().amax((0, 2))
        pictures = [
            flow.unpatchify(torch.where(done[:, None], exact, given)).cpu(),
            flow.unpatchify(iterate).cpu(),
        ]
        known = tuple(_pixels(flow, where).cpu() for where in (done, off <= frames.EXACT))
        return frames.solving(*pictures, known, off[order].cpu(), (step, sweeps), block, image_names=classes)

    moved = {
        "block": controls.whole("block", 1, blocks, blocks),
        "step": controls.whole("evaluations", 0, tokens - 1, 0),
    }
    return Panel(draw, moved, play="step", caption="The inverse of a block, solved token by token and by Jacobi sweeps")


def layers(
    x: Float[Tensor, "b c h w"],
    flows: Mapping[str, Mapping[Site, Float[Tensor, "b t width"]]],
    fixed: Mapping[str, Float[Tensor, "b t d"]] | None = None,
    start: Site | Sequence[int] | None = None,
    image_names: Sequence[str] = (),
) -> Panel:
    """Make a panel of the cosine between the features of one token and of all others in its image, at a chosen site.

    Args:
        x: a few square images (b, c, h, w).
        flows: flow -> {site: hidden tokens (b, t, width)}.
        fixed: name -> features without a site, such as encoder tokens on the same grid; default none.
        start: the site that is shown first; default the last.
        image_names: names under the images, for example classes; default none.

    Raises:
        ValueError: features belong to other images, grids or sites, or two have the same name.
    """
    if x.shape[-2] != x.shape[-1]:
        raise ValueError(f"images are {x.shape[-2]} x {x.shape[-1]} pixels; give square ones")
    sites, grid = _checked(x, flows, dict(fixed or {}))
    start = sites[-1] if start is None else tuple(start)
    if start not in sites:
        raise ValueError(f"site {start} is not among {', '.join(map(str, sites))}")

    def draw(site: Site, row: int, column: int):
        token = (row - 1) * grid + column - 1
        sources = {name: hidden[site] for name, hidden in flows.items()} | dict(fixed or {})
        maps = {name: cosines(features, token).view(-1, grid, grid) for name, features in sources.items()}
        title = f"cosine with the marked token, block {site[0]}, layer {site[1]}"
        return frames.similarity(x, maps, (row - 1, column - 1), title, image_names)

    moved = {"site": controls.along("block, layer", {f"block {b}, layer {la}": (b, la) for b, la in sites}, start)}
    moved |= {name: controls.whole(f"token's {name}", 1, grid, grid // 2 + 1) for name in ("row", "column")}
    return Panel(draw, moved, caption="Cosine between the features of the marked token and of all others in its image")


def cosines(features: Float[Tensor, "b t d"], token: int) -> Float[Tensor, "b t"]:
    """Return the cosine of each token's features with one token's, after subtracting the mean over the image's tokens."""
    centred = F.normalize((features - features.mean(1, keepdim=True)).float(), dim=-1)
    return (centred @ centred[:, token, :, None])[..., 0].cpu()


def _checked(
    x: Tensor, flows: Mapping[str, Mapping[Site, Tensor]], fixed: Mapping[str, Tensor]
) -> tuple[list[Site], int]:
    """Return the sites that all flows have, and the number of tokens along a side. Raises ValueError."""
    if not flows or flows.keys() & fixed.keys():
        raise ValueError(
            f"flows are {', '.join(flows) or 'none'}, features without sites {', '.join(fixed) or 'none'}; "
            "give at least one flow, and each name once"
        )
    sites = sorted(set.intersection(*(set(hidden) for hidden in flows.values())))
    if not sites:
        raise ValueError(f"{', '.join(flows)} have no site in common")
    first = next(iter(flows.values()))[sites[0]].shape[1]
    features = {name: hidden[site] for name, hidden in flows.items() for site in sites} | fixed
    for name, found in features.items():
        if found.shape[:2] != (len(x), first) or math.isqrt(first) ** 2 != first:
            raise ValueError(
                f"{name}: features of shape {tuple(found.shape)} for {len(x)} images; give ({len(x)}, {first}, width), "
                "tokens of a square grid, as the others"
            )
    return sites, math.isqrt(first)


def _pixels(flow: TarFlow, tokens: Tensor) -> Tensor:
    """Return a mask (h, w) of the pixels of those tokens (t,) that are True."""
    p = flow.config.patch_size
    return tokens.view(flow.config.rows_columns).repeat_interleave(p, 0).repeat_interleave(p, 1)


def _raised(number: int) -> str:
    """Return a number in superscript digits, for widgets and pictures that cannot show formulas."""
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
