"""Frozen pretrained vision encoders: targets of alignment, and features of measures.

`load` returns an encoder whose weights are on this machine (efficientnet-lite0's come with pip), `untrained` one with
random weights, `cached_tokens` and `cached_pooled` the features of a whole data set, computed once and kept on disk.
"""

from labcore.encoders.cache import cached_pooled, cached_tokens
from labcore.encoders.frozen import Encoder, EncoderOutput, load, untrained
from labcore.encoders.specs import SPECS, EncoderSpec, Stage, TokenLayout, spec
from labcore.encoders.weights import check_encoder_weights, find_encoder_weights, weights_folder, weights_hash

__all__ = [
    "SPECS",
    "Encoder",
    "EncoderOutput",
    "EncoderSpec",
    "Stage",
    "TokenLayout",
    "cached_pooled",
    "cached_tokens",
    "check_encoder_weights",
    "find_encoder_weights",
    "load",
    "spec",
    "untrained",
    "weights_folder",
    "weights_hash",
]
