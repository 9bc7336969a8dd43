"""Measurements of speed, memory and quality; each backend runs in its own process.

    comparison = ll.bench.compare.run(ll.bench.Options(quick=True))
    print(comparison)

Names load on first use: a worker process imports this package before its clock starts, so the import must be
cheap.
"""

TYPE_CHECKING = False  # type checkers treat this name as true; so typing needn't be imported
if TYPE_CHECKING:
    from llmlite.bench import (
        article,
        backends,
        checks,
        compare,
        diff,
        energy,
        environment,
        envs,
        imatrix,
        memory,
        privacy,
        quality,
        samples,
        single,
        summary,
    )
    from llmlite.bench.article import claims
    from llmlite.bench.options import Options
    from llmlite.bench.samples import Comparison, Measurement
    from llmlite.bench.summary import METRICS

_MODULES = frozenset(
    "article backends checks compare diff energy environment envs imatrix memory privacy quality samples "
    "single summary".split()
)
_NAMES = {
    "Options": "options",
    "Comparison": "samples",
    "Measurement": "samples",
    "METRICS": "summary",
    "claims": "article",
}

__all__ = [
    "METRICS",
    "Comparison",
    "Measurement",
    "Options",
    "article",
    "backends",
    "checks",
    "claims",
    "compare",
    "diff",
    "energy",
    "environment",
    "envs",
    "imatrix",
    "memory",
    "privacy",
    "quality",
    "samples",
    "single",
    "summary",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"llmlite.bench.{name}")
    if name in _NAMES:
        return getattr(import_module(f"llmlite.bench.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'llmlite.bench' has no attribute {name!r}")
