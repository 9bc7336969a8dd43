"""Text from a model: one answer at a time, or many at once."""

from __future__ import annotations

from llmlite.generate.batch import Batch
from llmlite.generate.generation import Generation
from llmlite.generate.stops import StopStrings

__all__ = ["Batch", "Generation", "StopStrings"]
