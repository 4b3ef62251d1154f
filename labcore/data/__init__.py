"""Data sets: images in memory or in folders, their transforms and loaders."""

from labcore.data.datasets import Data, load
from labcore.data.folder import ImageFolderData
from labcore.data.images import ImageData
from labcore.data.protocol import Dataset
from labcore.data.transforms import to_float, to_uint8

__all__ = ["Data", "Dataset", "ImageData", "ImageFolderData", "load", "to_float", "to_uint8"]
