"""The sections of a run's configuration: models, data, training, and how each kind of run is taught."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from labcore.directions import check_direction
from labcore.sites import check_distinct
from labcore.strict import Config

Count = Annotated[int, Field(gt=0, lt=2**31)]
"""A number of images, steps and the like; below 2^31, the range of torch's counters."""
Pixels = Annotated[int, Field(gt=0, le=2**14)]
"""Side of an image in pixels."""
Width = Annotated[int, Field(gt=0, le=2**17)]
"""Length of a vector, or number of tokens or layers of a model. The limit is far above any trained model, so a file that claims
more is damaged or hostile."""
MOST_TOKENS = 2**16
"""Largest number of tokens of an image; the memory of position tables grows with it."""


class TokensConfig(Config):
    """Settings that a flow and its student share: how images are cut into tokens, and the size of the transformers."""

    image_size: (
        Pixels | tuple[Pixels, Pixels]
    )  # side of square images, or (height, width); in pixels, for latents in values
    channels: Annotated[int, Field(gt=0, le=2**12)] = 3  # 1: grey, 3: RGB; for latents the channels of the codec
    patch_size: Pixels  # side of a patch in pixels; one token has channels x patch x patch values
    width: Width  # hidden width of the transformers (Ch in the paper)
    num_blocks: Width  # autoregressive blocks of the flow (T in TARFlow, B in BiFlow)
    layers_per_block: Width  # layers (attention and MLP) of each block (K in the paper)
    head_dim: Width = 64  # width of an attention head; divides width
    num_classes: int = Field(default=0, ge=0, le=2**24)  # number of classes; 0: unconditional
    class_names: tuple[str, ...] | None = None  # names of the classes 0, 1, ..., taken from the data; None: not known
    codec: str | None = (
        None  # name or folder of the autoencoder whose latents are modelled (labcore.latents.load); None: pixels
    )
    mlp_ratio: float = Field(
        default=4.0, gt=0, le=2**10
    )  # hidden width of the MLP / width; SwiGLU uses 2/3 of it, which gives the same number of parameters

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
    def depths(self) -> tuple[int, ...]:
        """Number of layers of each block, block 1 first."""
        return (self.layers_per_block,) * self.num_blocks

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

    noise: Literal["gaussian", "uniform"] = "gaussian"  # training adds N(0, noise_std^2), or uniform dequantisation
    noise_std: NonNegativeFloat | None = None  # for pixels in [-1, 1]; None: 0.1 for gaussian, 0 for uniform
    positions: Literal["learned", "rope"] = "learned"  # position embedding
    mlp: Literal["gelu", "swiglu"] = "gelu"  # activation of the MLP
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"  # normalisation of the layers
    affine_clamp: PositiveFloat | None = None  # c: log_scale and shift of each branch are clamped to [-c, c]
    volume_preserving: bool = False  # true: log_scale = 0, so blocks only shift, and the prior's variance is learned

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
    """A learned one-pass inverse (BiFlow, arXiv 2512.10953): one block for each block of the flow, and a denoising block.

    The paper gives no architecture table. The prepended tokens, their number and `max_guidance` are our choice, after related
    code.
    """

    denoiser: bool = True  # add a last block whose state is the clean image; false: the last state is the noisy image
    handover: Literal["hidden", "state"] = "hidden"  # the next block gets hidden tokens, or the state, embedded again
    max_guidance: NonNegativeFloat = 0.0  # above 0: guidance is an input, trained on [0, max_guidance]; 0: no input
    class_tokens: Width = 1  # tokens for the class, prepended in every block of a class-conditional model
    guidance_tokens: Width = 1  # tokens for the guidance, prepended in every block if guidance is an input

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
        """Number of states, one for each block of the model: B, plus 1 for the denoiser."""
        return self.num_blocks + self.denoiser


class DataConfig(Config):
    """The data set, and how its images are prepared for the objective."""

    name: Literal["fashion-mnist-12k", "fashion-mnist", "emoji-32", "emoji", "folder"] = (
        "fashion-mnist-12k"  # the data set
    )
    path: str | None = None  # the folder of "folder", or of the IDX files of "fashion-mnist", or the font of "emoji"
    image_size: Pixels | None = None  # side in pixels; None: that of the data. Folders need it
    channels: Literal[1, 3] | None = None  # 1: grey, 3: RGB; None: as the data has
    crop: Literal["fit", "adm"] | None = None  # crop of a folder's pictures (labcore.data.picture); None: fit
    background: str | None = None  # colour behind transparent pixels of a folder, by name or as #rrggbb; None: white
    test_share: float | None = Field(
        default=None, gt=0, lt=1
    )  # share of each class's files that are test images, for a folder without splits; None: 0.1
    split_seed: int | None = Field(
        default=None, ge=0, lt=2**63
    )  # random seed that shuffles the files before the share is taken; None: sorted order
    limit: Count | None = None  # number of images of each split, evenly spread; None: all
    flip: bool = False  # mirror each training image with probability 1/2; ml-tarflow does for ImageNet and AFHQ


class TrainConfig(Config):
    """How the loop trains. Optimizer defaults are ml-tarflow's; the rest is our choice and says so.

    batch_size counts images per optimizer step over all processes and micro-batches, so that the same configuration trains
    the same model on one process or eight.
    """

    steps: Count  # optimizer steps
    batch_size: Count = 256  # images of one optimizer step, over all processes and micro-batches
    accumulation: Count = 1  # micro-batches per step and process; more of them save memory
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)  # random seed of everything in the run
    lr: PositiveFloat = 1e-4  # peak learning rate of the warm-up and the cosine
    min_lr: NonNegativeFloat = 1e-6  # start of the warm-up and end of the cosine
    warmup_steps: int = Field(default=0, ge=0, lt=2**31)  # steps of a linear warm-up; fewer than steps
    betas: tuple[float, float] = (0.9, 0.95)  # betas of AdamW
    weight_decay: NonNegativeFloat = 1e-4  # weight decay of AdamW on all parameters, as ml-tarflow
    clip_norm: PositiveFloat | None = 1.0  # largest norm of the gradient, our choice; None: no clipping, as ml-tarflow
    sampling: Literal["balanced"] | None = None  # balanced: all classes equally often; None: each image once an epoch
    label_dropout: float = Field(default=0.1, ge=0, le=1)  # share of labels replaced by "no class", for guidance
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)  # FlowBack's; averaging ramps up as (1 + step) / (10 + step)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # autocast; auto: the fastest. Weights stay float32
    tf32: bool = False  # on a GPU: compute float32 products and convolutions in TensorFloat-32
    compile: bool = False  # compile the model with torch.compile
    recompute: bool = False  # compute activations again in the backward pass, to save memory (activation checkpointing)
    parallel: Literal["ddp", "fsdp2"] = "ddp"  # several processes: each holds the whole model, or the model is sharded
    num_workers: int = Field(default=0, ge=0, le=1024)  # worker processes that read images
    log_every: Count = 50  # steps between records of the log
    eval_every: Count = 1000  # steps between test likelihoods and previews
    save_every: Count = 1000  # steps between checkpoints
    keep: Count = 3  # number of newest checkpoints that are kept

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
    """R-REPA (FlowBack, arXiv 2511.22345): which hidden features are aligned with which encoder's tokens, and how.

    The defaults are the paper's where it gives one. Sites are (block, layer), counted from 1; block 1 is next to the image.
    """

    direction: Literal["forward", "detach", "reverse", "reverse-literal"] = "reverse"  # see labcore.align.features
    sites: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(min_length=1)  # (block, layer) pairs, counted from 1
    weight: PositiveFloat = 0.1  # weight of the alignment loss relative to nats/dim (lambda)
    adjoint_sweeps: int = Field(default=0, ge=0, le=MOST_TOKENS)  # 0: stop-gradient on the context, as in the paper
    loss: Literal["cosine", "nt-xent", "mse"] = "cosine"  # see labcore.align.losses
    encoder: str = "efficientnet-lite0"  # the frozen encoder, with weights from a package; the paper uses dinov2-b
    weights: str | None = None  # the encoder's file; None: where `lab doctor` looks
    stage: Width | None = None  # stage of the encoder, given by its channels; None: the one nearest to the flow's grid
    targets: Literal["cached", "computed"] = "cached"  # encoder tokens: read from disk, or computed for every batch
    image_size: PositiveInt | None = (
        None  # side in pixels at which a folder's pictures are read for the encoder; None: the flow's size
    )
    projectors: Literal["shared", "per-site"] = "shared"  # one projector for all sites, or one for each site
    projector_width: Width | None = None  # hidden width of the projector; None: the flow's width

    @model_validator(mode="after")
    def _fits(self) -> AlignConfig:
        check_distinct(self.sites)
        if self.image_size is not None and self.targets == "computed":
            raise ValueError(
                f"image_size was {self.image_size} with targets 'computed', which are of the images that the flow sees; "
                "take targets 'cached', or leave image_size out (null)"
            )
        check_direction(self.direction, self.adjoint_sweeps)
        return self


class StudentConfig(Config):
    """How a student (a learned inverse, BiFlow) is trained. Distances are means over tokens and values.

    The paper gives no weights, no p and c of equation 7, and no guidance range: these are our choice, after related code.
    """

    strategy: Literal["naive", "hidden-distillation", "hidden-alignment"] = (
        "hidden-alignment"  # which states of student and teacher are compared
    )
    normalise: Literal["none", "block", "sample"] = "block"  # divide states by the target's RMS: see norm_control
    align_weight: PositiveFloat = 1.0  # weight of the mean distance over the hidden states
    image_weight: NonNegativeFloat = 1.0  # weight of the squared error of the image
    perceptual: dict[str, PositiveFloat] = Field(
        default={}
    )  # {distance: weight} of perceptual distances between images; see labcore.encoders.perceptual
    adaptive_power: NonNegativeFloat = 1.0  # p of equation 7; 0: plain distances
    adaptive_offset: PositiveFloat = 1e-2  # c of equation 7
