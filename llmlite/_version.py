"""The version. The build also reads it from here."""

__version__ = "0.1.0"
