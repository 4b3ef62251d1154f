"""Tests that run on a CUDA device, or on the CPU where that makes sense: see tests/gpu/device.py."""
