"""The base of all configurations: validated, frozen values."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """Base of all configurations: immutable; unknown names, numbers that are not finite, and booleans as numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        """Reject booleans as numbers, because pydantic would take true for 1 and false for 0."""
        for name, value in values.items() if isinstance(values, dict) else ():
            kind = cls.model_fields[name].annotation if name in cls.model_fields else bool
            if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
                raise ValueError(f"{name} was {str(value).lower()}; give a value that is neither true nor false")
        return values

    def replace(self, **changes: Any) -> Config:
        """Return a validated copy with some values changed."""
        return type(self)(**{**self.model_dump(), **changes})

    @property
    def least_weights(self) -> int:
        """Lower bound on the number of weight tensors of a model with this configuration."""
        return 1
