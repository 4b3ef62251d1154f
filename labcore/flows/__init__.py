"""Flows: autoregressive blocks, TARFlow, and conversion of ml-tarflow's checkpoints."""
