"""BiFlow (Lu et al., arXiv 2512.10953, CVPR 2026): a bidirectional transformer that inverts a trained flow in one pass."""

from labcore.biflow.model import BackwardModel
from labcore.biflow.trajectory import Trajectory, trajectory

__all__ = ["BackwardModel", "Trajectory", "trajectory"]
