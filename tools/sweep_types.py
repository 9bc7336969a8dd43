"""Measure every type and every mix on the bundled model, with and without importance matrix; keep the points.

    python tools/sweep_types.py      writes data/types.json (minutes; each run gives the same)

Run it again whenever the model or a quantizer changes, then tools/checksums.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from llmlite.errors import UnsupportedError
from llmlite.lessons import type_sweep
from llmlite.mixes import FILE_TYPES

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    bench = type_sweep.Bench()
    points = []
    jobs = [(bench.measure_type, name) for name in type_sweep.sweep_types()]
    jobs += [(bench.measure_mix, name) for name in FILE_TYPES]
    for measure, name in jobs:
        for imatrix in (False, True):
            if imatrix and name in ("F32", "F16", "BF16"):
                continue  # nothing to choose
            begin = time.monotonic()
            try:
                point = measure(name, imatrix=imatrix)
            except UnsupportedError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            points.append(point)
            print(
                f"{point.scope:8}{point.label:24} KL {point.kl:.3g}  {time.monotonic() - begin:.1f} s",
                flush=True,
            )
    (ROOT / "data" / type_sweep.FILE).write_text(type_sweep.write(points), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
