"""Configurations of models and of their training, as validated, immutable values that are saved next to the weights.

Unknown keys, wrong types and values out of range are refused with pydantic's message naming the key. Named presets are
plain dictionaries from a name to a configuration.
"""

from labcore.config.runs import RENAMED, BaseRunConfig, RunConfig, StudentRunConfig, with_present_names
from labcore.config.sections import (
    MOST_TOKENS,
    AlignConfig,
    BackwardConfig,
    Count,
    DataConfig,
    Pixels,
    StudentConfig,
    TarFlowConfig,
    TokensConfig,
    TrainConfig,
    Width,
)
from labcore.strict import Config

SCHEMA = 1
"""Version of the saved format. A file of a newer schema is refused; an older one is migrated on load."""

__all__ = [
    "MOST_TOKENS",
    "RENAMED",
    "SCHEMA",
    "AlignConfig",
    "BackwardConfig",
    "BaseRunConfig",
    "Config",
    "Count",
    "DataConfig",
    "Pixels",
    "RunConfig",
    "StudentConfig",
    "StudentRunConfig",
    "TarFlowConfig",
    "TokensConfig",
    "TrainConfig",
    "Width",
    "with_present_names",
]
