"""Experiments: what the notebooks compare, measure and claim."""
