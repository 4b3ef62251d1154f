"""Functions on tensors whose speed matters: each has one reference in torch, and some have a twin in Triton."""
