"""The class of batch jobs queued by earlier versions, which submitit finds by this name; see labcore.campaigns.slurm."""

from labcore.campaigns.slurm import Job

__all__ = ["Job"]
