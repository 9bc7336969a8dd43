"""Measure every type and mix on the bundled model, with and without an importance matrix; store the points.

    python tools/sweep_types.py            write data/types.json (minutes; every run gives the same)
    python tools/sweep_types.py IQ Q3_K    measure names with these prefixes; keep the other points

Run it again whenever the model or a quantizer changes, then tools/checksums.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from llmlite import resources
from llmlite.errors import LlmliteError, UnsupportedError
from llmlite.lessons import type_sweep
from llmlite.lessons.type_sweep import Point
from llmlite.quantize.mixes import FILE_TYPES

ROOT = Path(__file__).resolve().parent.parent
Key = tuple[str, str, bool]
ORDER = [("tensors", name) for name in type_sweep.sweep_types()] + [("mix", name) for name in FILE_TYPES]


def main(prefixes: list[str]) -> int:
    names = list(dict.fromkeys(name for _, name in ORDER))
    if unknown := [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]:
        print(f"no name begins with {unknown[0]!r}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    points = kept() if prefixes else {}
    bench = type_sweep.Bench()
    for scope, name in ORDER:
        if prefixes and not name.startswith(tuple(prefixes)):
            continue
        for imatrix in (False, True):
            if imatrix and name in ("F32", "F16", "BF16"):
                continue  # an importance matrix changes nothing
            begin = time.monotonic()
            measure = bench.measure_type if scope == "tensors" else bench.measure_mix
            try:
                point = measure(name, imatrix=imatrix)
            except UnsupportedError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            points[scope, name, imatrix] = point
            print(
                f"{scope:8}{point.label:24} KL {point.kl:.3g}  {time.monotonic() - begin:.1f} s", flush=True
            )
    keys = [(scope, name, imatrix) for scope, name in ORDER for imatrix in (False, True)]
    text = type_sweep.write(points[key] for key in keys if key in points)
    (ROOT / "data" / type_sweep.FILE).write_text(text, encoding="utf-8")
    return 0


def kept() -> dict[Key, Point]:
    """Return the stored points, or none if they belong to another model."""
    try:
        stored = type_sweep.shipped()
    except LlmliteError:
        return {}
    if stored.model != resources.sha256(resources.model_path("tales")):
        return {}
    return {(p.scope, p.name, p.imatrix): p for p in stored.points}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
