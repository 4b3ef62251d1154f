"""What FlowBack (arXiv 2511.22345) says of the noise of flows of latents, as claims on the rows of notebook 07."""

from __future__ import annotations

from labcore.campaigns.verdicts import Claim

PAPER = "least FID of 4,096 samples at 0.20, of 0.10 to 0.30"
NOISE_CLAIMS = (
    Claim("0.2 has a lower FID than 0.1", "sigma 0.2", "sigma 0.1", "last.fid", "lower", PAPER),
    Claim("0.2 has a lower FID than 0.3", "sigma 0.2", "sigma 0.3", "last.fid", "lower", PAPER),
)
