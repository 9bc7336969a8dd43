"""Measurements that are stored as one JSON object per file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Self

from llmlite import resources
from llmlite.errors import LlmliteError
from llmlite.system import files


@dataclass(kw_only=True)
class Saved:
    """Base class of measurements that can be saved and loaded; a subclass adds fields.

    Attributes:
        KIND: name of the kind of measurement in the file.
        SAMPLE: path of the bundled file below data/.
        environment: record of the machine; see `llmlite.bench.environment.record`.
    """

    KIND: ClassVar[str]
    SAMPLE: ClassVar[str]

    environment: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON file atomically and return its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"kind": self.KIND, **asdict(self)}
        files.write_text(path, json.dumps(content, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote.

        Raises:
            LlmliteError: the file can't be read, or has other contents or impossible figures.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(found, dict) or found.get("kind") != cls.KIND:
                raise ValueError(f"its kind isn't {cls.KIND!r}")
            return cls._from_object(found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else error
            raise LlmliteError(f"{path}: not a saved {cls.KIND}: {reason}") from None

    @classmethod
    def sample(cls) -> Self:
        """Return the bundled measurement; its `environment` describes the machine on which it was taken."""
        return cls.load(resources.data_path(cls.SAMPLE))

    @classmethod
    def _from_object(cls, found: Mapping[str, Any]) -> Self:
        raise NotImplementedError


def check_positive(name: str, value: Any) -> None:
    """Check that a value is a positive, finite number.

    Args:
        name: name of the value for the error message.
        value: the value.

    Raises:
        ValueError: it isn't.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
