"""Make options of short comparisons."""

from __future__ import annotations

from typing import Any

from llmlite.bench.options import Options


def small(**changes: Any) -> Options:
    """Return the options of the smallest comparison, of the NumPy backend alone, with `changes`."""
    options: dict[str, Any] = {
        "backends": ("llmlite-eager",),
        "types": ("F16",),
        "threads": 1,
        "blocks": 1,
        "prompts": (8,),
        "depths": (4,),
        "n_gen": 2,
        "start_runs": 1,
    }
    return Options(**options | changes)
