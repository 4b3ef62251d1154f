"""Alignment of a flow's hidden features with a frozen vision encoder (FlowBack / R-REPA, arXiv 2511.22345).

`features` is both a module here and the function in it; `labcore.align.features` is the function.
"""

from labcore.align.adjoint import rebuild
from labcore.align.features import features
from labcore.align.protocol import Block, Flow
from labcore.directions import DIRECTIONS, Direction

__all__ = ["DIRECTIONS", "Block", "Direction", "Flow", "features", "rebuild"]
