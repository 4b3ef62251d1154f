"""What FlowBack says of the noise that flows of latents are trained with (arXiv 2511.22345), as claims on notebook 07's rows."""

from __future__ import annotations

from labcore.runs.verdicts import Claim

PAPER = "least FID of 4,096 samples at 0.20, of 0.10 to 0.30"
NOISE_CLAIMS = (
    Claim("0.2 has a lower FID than 0.1", "sigma 0.2", "sigma 0.1", "last.fid_efflite0", "lower", PAPER),
    Claim("0.2 has a lower FID than 0.3", "sigma 0.2", "sigma 0.3", "last.fid_efflite0", "lower", PAPER),
)
