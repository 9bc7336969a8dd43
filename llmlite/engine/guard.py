"""The guard's old place; see llmlite.guard."""

from llmlite.guard import Watch

__all__ = ["Watch"]
