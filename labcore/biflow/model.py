"""The student, a learned inverse (BiFlow): one block for every block of the flow, from z to the image, and one that denoises.

    h^B = embed(z),   h^i = G^i(h^(i+1) | y, w),   x^i ~ head_i(h^i),   i = B-1 ... 0,   then the clean image

One pass gives the image and all states between. The inverted flow is not part of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labcore.biflow.cfg import blend, warn_outside
from labcore.config import BackwardConfig
from labcore.finite import check_states
from labcore.flows.metablock import Labels
from labcore.guidance import Guidance, guide, per_block
from labcore.nn.bidirectional import BidirectionalLayer
from labcore.nn.embed import ClassEmbedding, check_labels, rope_table, small_normal
from labcore.nn.layer import make_norm, without_autocast
from labcore.nn.patch import check_tokens, unpatchify
from labcore.nn.pretrained import Pretrained
from labcore.types import BackwardOutput

Step = Callable[[nn.Module, Tensor], Tensor]


class GuidanceEmbedding(nn.Module):
    """Embedding of a guidance scale: sinusoids, then two layers."""

    FREQUENCIES = 128

    def __init__(self, width: int):
        super().__init__()
        powers = torch.arange(self.FREQUENCIES, device="cpu") / self.FREQUENCIES
        frequencies = (100.0 * 1e-4**powers).to(torch.get_default_device())  # scales are of order 1
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * self.FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, w: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        angles = w[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class BackwardBlock(nn.Module):
    """G^i: tokens of class and guidance are prepended, all tokens see all, and the image's tokens are passed on.

    `embeds`: the block gets a state (b, t, d) and embeds it, instead of hidden tokens (b, t, width).
    """

    def __init__(self, config: BackwardConfig, embeds: bool):
        super().__init__()
        c = config
        self.token_in = nn.Linear(c.token_dim, c.width) if embeds else None
        self.class_embedding = ClassEmbedding(c.num_classes, c.width) if c.num_classes else None
        classes = c.class_tokens if c.num_classes else 0
        guidances = c.guidance_tokens if c.max_guidance else 0
        self.class_tokens = nn.Parameter(small_normal(classes, c.width))
        self.guidance_tokens = nn.Parameter(small_normal(guidances, c.width))
        rope = rope_table(c.rows_columns, c.head_dim, unturned=classes + guidances)
        self.register_buffer("rope", rope, persistent=False)
        self.layers = nn.ModuleList(
            BidirectionalLayer(c.width, c.head_dim, c.mlp_ratio) for _ in range(c.layers_per_block)
        )

    def forward(
        self, h: Float[Tensor, "b t e"], y: Labels = None, guidance: Float[Tensor, "b width"] | None = None
    ) -> Float[Tensor, "b t width"]:
        """Apply the block. guidance: the embedded scales; None if the model has no guidance input."""
        h = h if self.token_in is None else self.token_in(h)
        parts = []
        if self.class_embedding is not None:
            parts.append(self.class_tokens + self.class_embedding(y)[:, None])
        if guidance is not None:
            parts.append(self.guidance_tokens + guidance[:, None])
        h = torch.cat([*(part.expand(h.shape[0], -1, -1).to(h.dtype) for part in parts), h], dim=1)
        for layer in self.layers:
            h = layer(h, self.rope)
        return h[:, len(self.class_tokens) + len(self.guidance_tokens) :]


class Head(nn.Module):
    """phi_i of equation 2: hidden tokens to a state; starts at 0. In the number format of its weights: autocast would round the
    states, and with them the image, to bfloat16."""

    def __init__(self, width: int, token_dim: int):
        super().__init__()
        self.norm, self.out = make_norm("rmsnorm", width), nn.Linear(width, token_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Float[Tensor, "b t width"]) -> Float[Tensor, "b t d"]:
        with without_autocast(h):
            return self.out(self.norm(h.to(self.out.weight.dtype)))


class BackwardModel(Pretrained, nn.Module):
    """The student G_phi with the architecture of `config`; `blocks[0]` touches z, `blocks[-1]` gives the image."""

    config_class = BackwardConfig

    def __init__(self, config: BackwardConfig):
        super().__init__()
        self.config = config
        embeds = [number == 0 or config.handover == "state" for number in range(config.num_states)]
        self.blocks = nn.ModuleList(BackwardBlock(config, embed) for embed in embeds)
        self.heads = nn.ModuleList(Head(config.width, config.token_dim) for _ in self.blocks)
        self.guidance_embedding = GuidanceEmbedding(config.width) if config.max_guidance else None

    def forward(
        self,
        z: Float[Tensor, "b t d"],
        y: Labels = None,
        guidance: Guidance = 0.0,
    ) -> BackwardOutput:
        """Map noise to images, not clipped, and to the states between.

        Args:
            z: noise (b, t, d) in raster order.
            y: labels (b,), -1 for no class; default None, no class for all. Images without class are not guided.
            guidance: scale w; 0 (default) is off. A number, (b,) with one per image, or one for each block from z on, the
                denoising block last. If it is an input of the model, this takes one evaluation (equation 5), with a
                warning outside the trained range; else two evaluations of each guided block (equation 4).

        Raises:
            ValueError: labels or guidance do not fit the model.
            NotFinite: in eval mode, a state is not finite; the error names the first such block in the model's own order.
        """
        self._check(z, y)
        rows = per_block(guidance, self.config.num_states, z)
        if self.guidance_embedding is None:
            steps = [self._two_evaluations(y, w) for w in rows]
        else:
            warn_outside(guidance, self.config.max_guidance)
            scales = [z.new_zeros(len(z)) if w is None else w[:, 0] for w in rows]
            steps = [self._one_evaluation(y, self._embedded(w, y)) for w in scales]
        out = self._pass(z, steps)
        check_states(self, "the student", out.states)
        return out

    def blended(self, z: Float[Tensor, "b t d"], y: Labels, w: Float[Tensor, " b"]) -> BackwardOutput:
        """Run the training pass with guidance as input: each block's output is blended with the unguided one (equation 5).

        The unguided branch has no gradient. Raises ValueError if the model has no guidance input.
        """
        self._check(z, y)
        if self.guidance_embedding is None:
            raise ValueError("this model has no guidance input; make it with max_guidance above 0")
        guidance, no_guidance = self._embedded(w, y), self._embedded(torch.zeros_like(w), y)
        scale = w[:, None, None]

        def step(block: nn.Module, h: Tensor) -> Tensor:
            with torch.no_grad():
                unguided = block(h, None, no_guidance)
            return blend(block(h, y, guidance), unguided, scale)

        return self._pass(z, [step] * self.config.num_states)

    def unchecked(self, z: Float[Tensor, "b t d"], y: Labels, w: Float[Tensor, " b"] | None) -> BackwardOutput:
        """Run one evaluation without a check of values, for export. w: None if the model has no guidance input."""
        if self.guidance_embedding is None:
            step = self._two_evaluations(y, None)
        else:
            step = self._one_evaluation(y, self._embedded(w, y))
        return self._pass(z, [step] * self.config.num_states)

    def evaluations(self, guidance: float) -> int:
        """Return the number of network evaluations (NFE) of a sample with this guidance."""
        return 2 if guidance and self.guidance_embedding is None else 1

    def _pass(self, z: Tensor, steps: list[Step]) -> BackwardOutput:
        """Compute h^i = G^i(h^(i+1)) and x^i = head_i(h^i) from z to the image; steps[k] evaluates block k."""
        h, states = z, []
        for block, head, step in zip(self.blocks, self.heads, steps, strict=True):
            h = step(block, h)
            states.append(head(h))
            if self.config.handover == "state":
                h = states[-1]
        states = tuple(state.to(torch.promote_types(state.dtype, torch.float32)) for state in states)
        return BackwardOutput(unpatchify(states[-1], self.config.patch_size, self.config.image_shape), states)

    def _two_evaluations(self, y: Labels, w: Tensor | None) -> Step:
        """Apply equation 4; one evaluation if no image is guided (w or y None)."""
        if w is None or y is None:
            return lambda block, h: block(h, y)
        return lambda block, h: guide(block(h, y), block(h, None), w[:, None])

    def _one_evaluation(self, y: Labels, embedded: Tensor) -> Step:
        """Apply equation 5: the block has guidance as an input."""
        return lambda block, h: block(h, y, embedded)

    def _embedded(self, w: Tensor, y: Labels) -> Tensor:
        """Embed the guidance for all blocks; images without class have scale 0."""
        if y is None:
            w = torch.zeros_like(w)
        elif not y.is_floating_point():
            w = torch.where(y < 0, torch.zeros_like(w), w)
        return self.guidance_embedding(w)

    def _check(self, z: Tensor, y: Labels) -> None:
        check_tokens(z, self.config.tokens, self.config.token_dim, self.dtype)
        self.check_labels(y, len(z))

    def check_labels(self, y: Labels, batch: int, ranges: bool = False) -> None:
        """Check that y fits the model; ValueError otherwise. With `ranges`, values are read too, which waits for a GPU."""
        check_labels(y, batch, self.config.num_classes, ranges)

    @property
    def device(self) -> torch.device:
        return self.heads[0].out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.heads[0].out.weight.dtype
