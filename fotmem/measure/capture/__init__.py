"""Captures: keys, values and queries on disk, to measure stores with.

They come from a model that reads a text (`capture_model`), from arrays (`capture_arrays`,
`capture_hdf5`), or from a random generator (`capture_random`).
"""

from fotmem.measure.capture.arrays import capture_arrays, capture_files, capture_hdf5
from fotmem.measure.capture.info import CaptureInfo, KeyValues
from fotmem.measure.capture.layout import Capture
from fotmem.measure.capture.model import capture_model
from fotmem.measure.capture.synthetic import capture_random

__all__ = [
    "Capture",
    "CaptureInfo",
    "KeyValues",
    "capture_arrays",
    "capture_files",
    "capture_hdf5",
    "capture_model",
    "capture_random",
]
