"""Runs: one training or evaluation, from its configuration to a folder with everything it produced."""
