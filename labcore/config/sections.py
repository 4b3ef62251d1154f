"""The sections of a run's configuration: models, data, training, and how each kind of run is taught."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from labcore.strict import Config

Count = Annotated[int, Field(gt=0, lt=2**31)]
"""A number of images, steps and the like; more fits in no counter of torch's."""
Pixels = Annotated[int, Field(gt=0, le=2**14)]
"""Along a side of an image."""
Width = Annotated[int, Field(gt=0, le=2**17)]
"""Values of a vector, or numbers of tokens and layers that a model may have. Far above what is trained anywhere; a file that
claims more is damaged or hostile."""
MOST_TOKENS = 2**16
"""Tokens of an image; tables of positions grow with them."""


class TokensConfig(Config):
    """What the flow and its learned inverse share: images cut into tokens, and transformers over these."""

    image_size: (
        Pixels | tuple[Pixels, Pixels]
    )  # pixels, or values of latents: one number for square images, else (height, width)
    channels: Annotated[int, Field(gt=0, le=2**12)] = 3  # 1 grey, 3 RGB; of latents as many as the codec has
    patch_size: Pixels  # pixels; one token is channels x patch x patch values
    width: Width  # Ch, hidden width of the transformers
    num_blocks: Width  # T of TARFlow, B of BiFlow: the flow's autoregressive blocks
    layers_per_block: Width  # K, attention + MLP layers in each block
    head_dim: Width = 64  # width of an attention head; divides width
    num_classes: int = Field(default=0, ge=0, le=2**24)  # 0: unconditional
    class_names: tuple[str, ...] | None = None  # of 0, 1, ...: from the data of the training; None: not known
    codec: str | None = (
        None  # the autoencoder whose latents the images are (labcore.latents.load); None: they are pixels
    )
    mlp_ratio: float = Field(
        default=4.0, gt=0, le=2**10
    )  # hidden / width for GELU; SwiGLU takes 2/3 of it, so that parameters stay equal

    @field_validator("image_size", mode="before")
    @classmethod
    def _one_number_for_a_square(cls, size: Any) -> Any:
        if isinstance(size, set | frozenset):
            raise ValueError("a set has no order; give (height, width)")
        pair = isinstance(size, list | tuple) and len(size) == 2
        return size[0] if pair and size[0] == size[1] else size

    @field_validator("codec")
    @classmethod
    def _no_codec_for_pixels(cls, codec: str | None) -> str | None:
        if codec == "":
            raise ValueError("codec was empty; give an autoencoder's name or folder, or null for pixels")
        return None if codec == "pixels" else codec

    @model_validator(mode="after")
    def _sizes_fit(self) -> TokensConfig:
        _, height, width = self.image_shape
        if height % self.patch_size or width % self.patch_size:
            divisors = [p for p in range(1, height + 1) if height % p == width % p == 0]
            raise ValueError(
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}; allowed are {divisors}"
            )
        names = self.class_names
        if names is not None and not len(names) == len(set(names)) == self.num_classes:
            raise ValueError(
                f"class_names has {len(names)} names ({len(set(names))} different) for {self.num_classes} classes; "
                "give each class one name, or leave class_names out"
            )
        if self.width % self.head_dim:
            raise ValueError(
                f"head_dim {self.head_dim} does not divide width {self.width}; "
                f"give a width that is a multiple of {self.head_dim}, or another head_dim"
            )
        return self

    @model_validator(mode="after")
    def _bounded(self) -> TokensConfig:
        if self.tokens > MOST_TOKENS:
            raise ValueError(
                f"image_size {self.image_size} at patch_size {self.patch_size} makes {self.tokens} tokens; at most "
                f"{MOST_TOKENS} are allowed: give a larger patch_size"
            )
        return self

    @property
    def least_weights(self) -> int:
        """Every layer of every block has weights."""
        return self.num_blocks * self.layers_per_block

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of an image."""
        size = self.image_size
        return (self.channels, *(size if isinstance(size, tuple) else (size, size)))

    @property
    def side(self) -> int:
        """Pixels along a side of a square image; ValueError for any other."""
        _, height, width = self.image_shape
        if height != width:
            raise ValueError(f"images of {height} x {width} pixels are not square; this needs square ones")
        return height

    @property
    def rows_columns(self) -> tuple[int, int]:
        """Tokens down and across the image."""
        _, height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def grid(self) -> int:
        """Tokens along one side of a square image; ValueError for any other."""
        rows, columns = self.rows_columns
        if rows != columns:
            raise ValueError(f"{rows} x {columns} tokens have no one side; this needs square images")
        return rows

    @property
    def tokens(self) -> int:
        """t, tokens of an image."""
        rows, columns = self.rows_columns
        return rows * columns

    @property
    def token_dim(self) -> int:
        """d, values in one token."""
        return self.channels * self.patch_size**2

    @property
    def dims(self) -> int:
        """Values in one image, t x d."""
        return self.tokens * self.token_dim

    def computation(self) -> dict[str, Any]:
        """JSON values of all that the model computes with: everything but the names of classes."""
        return self.model_dump(mode="json", exclude={"class_names"})

    def _check_rope(self) -> None:
        if self.head_dim % 4:
            raise ValueError(f"head_dim was {self.head_dim}; two-dimensional RoPE needs a multiple of 4")


class TarFlowConfig(TokensConfig):
    """A TARFlow (arXiv 2412.06329). The defaults of the options make it the published architecture.

    Notation P-Ch-T-K of the paper = patch_size - width - num_blocks - layers_per_block; the order of the tokens alternates
    between raster and reversed from block to block.
    """

    noise: Literal["gaussian", "uniform"] = "gaussian"  # what training adds: N(0, noise_std^2), or dequantisation
    noise_std: NonNegativeFloat | None = None  # in units of pixels in [-1, 1]; None: 0.1 for gaussian, 0 for uniform
    positions: Literal["learned", "rope"] = "learned"  # position embedding
    mlp: Literal["gelu", "swiglu"] = "gelu"  # activation of the MLP
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"  # normalisation of the layers
    affine_clamp: PositiveFloat | None = None  # c: log_scale and shift of each branch are held in [-c, c]
    volume_preserving: bool = False  # shift only, log_scale = 0; the prior then has a learned variance

    @model_validator(mode="before")
    @classmethod
    def _noise_std_of_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("noise_std") is None:
            values = {**values, "noise_std": 0.0 if values.get("noise") == "uniform" else 0.1}
        return values

    @model_validator(mode="after")
    def _options_fit(self) -> TarFlowConfig:
        if self.positions == "rope":
            self._check_rope()
        if self.noise == "uniform" and self.noise_std:
            raise ValueError(
                f"noise_std was {self.noise_std} with uniform dequantisation; leave it out, "
                "or train with noise='gaussian'"
            )
        return self


class BackwardConfig(TokensConfig):
    """A learned one-pass inverse (BiFlow, arXiv 2512.10953): a block for each of the flow's, and one that denoises.

    The paper gives no architecture table; tokens, their number and `max_guidance` are our choice, after related code.
    """

    denoiser: bool = True  # a last block, whose state is the clean image; without it the last state is the noisy one
    handover: Literal["hidden", "state"] = "hidden"  # to the next block: hidden tokens, or the state embedded again
    max_guidance: NonNegativeFloat = 0.0  # guidance is an input, trained on [0, this]; 0: it is not
    class_tokens: Width = 1  # prepended in every block of a class-conditional model
    guidance_tokens: Width = 1  # prepended in every block where guidance is an input

    @model_validator(mode="after")
    def _options_fit(self) -> BackwardConfig:
        self._check_rope()
        if self.max_guidance and not self.num_classes:
            raise ValueError(
                f"max_guidance was {self.max_guidance} with num_classes 0; guidance needs classes, leave it out"
            )
        return self

    @property
    def num_states(self) -> int:
        """Blocks of the model, each of which gives a state: B, and 1 for the denoiser."""
        return self.num_blocks + self.denoiser


class DataConfig(Config):
    """Which images, and what is done to them before the objective sees them."""

    name: Literal["fashion-mnist-12k", "fashion-mnist", "folder"] = "fashion-mnist-12k"  # the data set
    path: str | None = None  # where "folder" or the files of "fashion-mnist" are
    image_size: Pixels | None = None  # None: as the data has it; folders need one
    channels: Literal[1, 3] | None = None  # None: as the data has it
    crop: Literal["fit", "adm"] | None = None  # of a folder's pictures (labcore.data.picture); None: fit
    limit: Count | None = None  # as many images of each split, evenly spread; None: all
    flip: bool = False  # mirror each training image with probability 1/2; ml-tarflow does for ImageNet and AFHQ


class TrainConfig(Config):
    """How the loop trains. Optimizer defaults are ml-tarflow's; the rest is our choice and says so.

    batch_size counts images per optimizer step over all processes and micro-batches, so that the same configuration trains
    the same model on one process or eight.
    """

    steps: Count  # optimizer steps
    batch_size: Count = 256  # images of a step, over all processes and micro-batches
    accumulation: Count = 1  # micro-batches per step and process
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)  # random seed of everything in the run
    lr: PositiveFloat = 1e-4  # peak learning rate of the warm-up and the cosine
    min_lr: NonNegativeFloat = 1e-6  # start of the warm-up and end of the cosine
    warmup_steps: int = Field(default=0, ge=0, lt=2**31)  # steps of a linear warm-up; fewer than steps
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    weight_decay: NonNegativeFloat = 1e-4  # on all parameters, as ml-tarflow
    clip_norm: PositiveFloat | None = 1.0  # our choice; ml-tarflow does not clip
    label_dropout: float = Field(default=0.1, ge=0, le=1)  # share of labels replaced by "no class", for guidance
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)  # FlowBack's; ramps up as (1 + step) / (10 + step)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # autocast; weights stay float32
    tf32: bool = False  # on a GPU: float32 products and convolutions in TensorFloat-32
    compile: bool = False  # torch.compile of the model
    recompute: bool = False  # layers compute their activations again in the backward pass, and keep their inputs alone
    parallel: Literal["ddp", "fsdp2"] = "ddp"  # over processes: a copy of the model each, or shared out among them
    num_workers: int = Field(default=0, ge=0, le=1024)  # processes that read images
    log_every: Count = 50  # steps between records of the log
    eval_every: Count = 1000  # steps between test likelihoods and previews
    save_every: Count = 1000  # steps between checkpoints
    keep: Count = 3  # newest checkpoints that stay on disk

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset(
        {
            "precision",
            "tf32",
            "compile",
            "recompute",
            "parallel",
            "num_workers",
            "log_every",
            "eval_every",
            "save_every",
            "keep",
        }
    )
    """Settings that a resumed run may change: they say how a run is carried out, not what it computes."""

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        if self.min_lr > self.lr:
            raise ValueError(
                f"min_lr {self.min_lr:g} is above lr {self.lr:g}, to which the warm-up leads; give min_lr at most {self.lr:g}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas were {self.betas}; each must be at least 0 and below 1")
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        if self.parallel == "fsdp2" and (self.precision == "fp16" or self.compile):
            wrong = "compile" if self.compile else "precision 'fp16'"
            raise ValueError(f"parallel 'fsdp2' does not go with {wrong}; take bf16 without compile, or parallel 'ddp'")
        return self


class AlignConfig(Config):
    """R-REPA (FlowBack, arXiv 2511.22345): which hidden features are drawn to which encoder's tokens, and how.

    The defaults are the paper's where it gives one. Sites are (block, layer), counted from 1; block 1 touches the image.
    """

    direction: Literal["forward", "detach", "reverse", "reverse-literal"] = "reverse"  # see labcore.align.features
    sites: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(min_length=1)  # (block, layer) pairs, from 1
    weight: PositiveFloat = 0.1  # lambda, beside nats per dimension
    adjoint_sweeps: int = Field(default=0, ge=0, le=MOST_TOKENS)  # 0 is the paper's stop-gradient on the context
    loss: Literal["cosine", "nt-xent", "mse"] = "cosine"  # see labcore.align.losses
    encoder: str = "efficientnet-lite0"  # the paper's is dinov2-b; this one's weights are in a package
    weights: str | None = None  # the encoder's file, where it is not where `lab doctor` looks
    stage: Width | None = None  # channels of the encoder's stage; None: the one nearest to the flow's grid
    targets: Literal["cached", "computed"] = "cached"  # encoder tokens from disk, or anew for every batch
    image_size: PositiveInt | None = (
        None  # of a folder's pictures, read again for the encoder; None: what the flow sees
    )
    projectors: Literal["shared", "per-site"] = "shared"  # one projector for all sites, or one for each
    projector_width: Width | None = None  # None: the flow's width

    @model_validator(mode="after")
    def _fits(self) -> AlignConfig:
        if len(set(self.sites)) < len(self.sites):
            raise ValueError(f"sites contain duplicates: {list(self.sites)}; give each once")
        if self.image_size is not None and self.targets == "computed":
            raise ValueError(
                f"image_size was {self.image_size} with targets 'computed', which are of the images that the flow sees; "
                "take targets 'cached', or leave image_size out (null)"
            )
        if self.adjoint_sweeps and self.direction != "reverse":
            raise ValueError(
                f"adjoint_sweeps was {self.adjoint_sweeps} with direction {self.direction!r}; only 'reverse' has them"
            )
        return self


class StudentConfig(Config):
    """How a learned inverse is trained (BiFlow). Distances are means over tokens and values, weights 1 where nothing is said.

    The paper gives no weights, no p and c of equation 7 and no guidance range: these are our choice, after related code.
    """

    strategy: Literal["naive", "hidden-distillation", "hidden-alignment"] = (
        "hidden-alignment"  # which states are compared
    )
    normalise: Literal["none", "block", "sample"] = "block"  # states and targets, by the target's RMS: see norm_control
    align_weight: PositiveFloat = 1.0  # of the mean over the hidden states
    image_weight: NonNegativeFloat = 1.0  # of the squared error of the image
    perceptual: dict[str, PositiveFloat] = Field(
        default={}
    )  # distance -> weight, on images; see labcore.encoders.perceptual
    adaptive_power: NonNegativeFloat = 1.0  # p of equation 7; 0: plain distances
    adaptive_offset: PositiveFloat = 1e-2  # c of equation 7
