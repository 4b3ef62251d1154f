"""Frozen vision encoders (being written)."""
