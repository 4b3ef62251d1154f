"""Experiments: the comparisons, measures and claims of the notebooks."""
