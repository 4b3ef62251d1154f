"""Pictures of the lab: functions from tensors and records to matplotlib figures, in one style."""

from labcore.viz import figures, style
from labcore.viz.style import use

__all__ = ["figures", "style", "use"]
