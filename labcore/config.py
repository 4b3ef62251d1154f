"""Configurations: what a model is and how it is trained, as validated, frozen values that are saved beside the weights.

Unknown keys, wrong types and values out of range are refused with pydantic's message naming the key. Named presets are
plain dictionaries from a name to a configuration.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

SCHEMA = 1
"""Version of the saved format. A file of a newer schema is refused; an older one is migrated on load."""


class Config(BaseModel):
    """Base of all configurations: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def replace(self, **changes: Any) -> Config:
        """A validated copy with some values changed."""
        return type(self)(**{**self.model_dump(), **changes})


class TarFlowConfig(Config):
    """A TARFlow (arXiv 2412.06329). The defaults of the options make it the published architecture.

    Notation P-Ch-T-K of the paper = patch_size - width - num_blocks - layers_per_block.
    """

    image_size: PositiveInt  # pixels, square images
    channels: PositiveInt = 3
    patch_size: PositiveInt  # pixels; one token is channels x patch x patch values
    width: PositiveInt  # Ch, hidden width of the transformers
    num_blocks: PositiveInt  # T, autoregressive blocks; their order alternates raster / reversed
    layers_per_block: PositiveInt  # K, attention + MLP layers in each block
    head_dim: PositiveInt = 64
    num_classes: int = Field(default=0, ge=0)  # 0: unconditional
    noise: Literal["gaussian", "uniform"] = "gaussian"  # what training adds: N(0, noise_std^2), or dequantisation
    noise_std: NonNegativeFloat | None = None  # in units of pixels in [-1, 1]; None: 0.1 for gaussian, 0 for uniform
    positions: Literal["learned", "rope"] = "learned"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_ratio: PositiveFloat = 4.0  # hidden / width for GELU; SwiGLU takes 2/3 of it, so that parameters stay equal
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    affine_clamp: PositiveFloat | None = None  # c: log_scale and shift of each branch are held in [-c, c]
    volume_preserving: bool = False  # shift only, log_scale = 0; the prior then has a learned variance

    @model_validator(mode="before")
    @classmethod
    def _noise_std_of_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("noise_std") is None:
            values = {**values, "noise_std": 0.0 if values.get("noise") == "uniform" else 0.1}
        return values

    @model_validator(mode="after")
    def _fits(self) -> TarFlowConfig:
        if self.image_size % self.patch_size:
            divisors = [p for p in range(1, self.image_size + 1) if self.image_size % p == 0]
            raise ValueError(
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}; allowed are {divisors}"
            )
        if self.width % self.head_dim:
            raise ValueError(
                f"head_dim {self.head_dim} does not divide width {self.width}; "
                f"give a width that is a multiple of {self.head_dim}, or another head_dim"
            )
        if self.positions == "rope" and self.head_dim % 4:
            raise ValueError(f"head_dim was {self.head_dim}; two-dimensional RoPE needs a multiple of 4")
        if self.noise == "uniform" and self.noise_std:
            raise ValueError(
                f"noise_std was {self.noise_std} with uniform dequantisation; leave it out, "
                "or train with noise='gaussian'"
            )
        return self

    @property
    def grid(self) -> int:
        """Tokens along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """t, tokens of an image."""
        return self.grid**2

    @property
    def token_dim(self) -> int:
        """d, values in one token."""
        return self.channels * self.patch_size**2

    @property
    def dims(self) -> int:
        """Values in one image, t x d."""
        return self.tokens * self.token_dim
