"""Damaged results files by the thousand: every outcome is tables and text, or one ResultsError.

python -m tests.fuzz.fuzz_results N [SEED]      prints how many of N were read and refused
"""

from __future__ import annotations

import copy
import json
import random
import sys
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmlite.bench.samples import Comparison
from llmlite.errors import ResultsError
from llmlite.terminal import HARMFUL
from tests.support.synthetic import synthetic_comparison

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 10**400, -0.0, 1e-300, 1e308, "", "x", "\x1b[2J", "\u202e", "$x^{",
    [], [1], [0], [-5], [None], ["a"], [[1]], {}, {"a": 1}, [1e308, 1e308], "a" * 300, "F16", "llmlite",
    "decode", "\ud800", [True], 10**18, 2**62, "environment", "measurement", "note",
]  # fmt: skip


def base() -> list[dict[str, Any]]:
    """A few records of each kind."""
    comparison = synthetic_comparison()
    comparison.skipped.append({"backend": "llamacpp", "reason": "not installed"})
    comparison.notes.append("a note")
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for record in comparison.records():
        by_kind.setdefault(record["kind"], []).append(record)
    few = [record for records in by_kind.values() for record in records[:4]]
    return few + [r for r in by_kind["measurement"] if r["phase"] in ("prefill", "decode")][:24]


def damaged(random_: random.Random, records: list[dict[str, Any]]) -> bytes:
    """Change fields, records, or bytes."""
    changed = copy.deepcopy(records)
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        record = random_.choice(changed)
        name = random_.choice(list(record))
        kind = random_.randrange(6)
        if kind == 0:
            del record[name]
        elif kind == 1:
            other = random_.choice((name, "kind", "text", "reason", "extra"))
            record[other] = copy.deepcopy(random_.choice(VALUES))
        elif kind == 2 and isinstance(record[name], list) and record[name]:
            record[name][random_.randrange(len(record[name]))] = copy.deepcopy(random_.choice(VALUES))
        elif kind == 3:
            other = random_.choice(changed).get(name)
            from_other = random_.random() < 0.1 and isinstance(other, list) and other
            record[name] = copy.deepcopy(random_.choice(other if from_other else VALUES))
        elif kind == 4 and len(changed) > 1:
            changed.remove(record)
        else:
            record[name] = copy.deepcopy(random_.choice(VALUES))
        if not all(changed):
            changed = [r for r in changed if r] or [{"kind": "note", "text": ""}]
    data = bytearray("\n".join(json.dumps(record) for record in changed).encode())
    if random_.random() < 0.3:
        for _ in range(random_.choice((1, 2, 8))):
            place = random_.randrange(len(data))
            how = random_.randrange(5)
            if how == 0:
                data[place] = random_.randrange(256)
            elif how == 1:
                del data[place : place + random_.choice((1, 3, 100))]
            elif how == 2:
                data[place:place] = random_.choice(
                    (b"[" * 3000, b"\n", b"NaN", b"1e999", b"\xe2\x80\xa8", b"{}")
                )
            elif how == 3:
                del data[place:]
            else:
                data[place:place] = b"9" * 5000
            if not data:
                data = bytearray(b"\n")
    return bytes(data)


def run(n: int, seed: int, folder: Path) -> Counter[str]:
    """Try n files. Anything but tables or a ResultsError of one harmless line is raised."""
    random_ = random.Random(seed)
    records = base()
    path = folder / "results.jsonl"
    found: Counter[str] = Counter()
    for number in range(n):
        path.write_bytes(damaged(random_, records))
        try:
            comparison = Comparison.load(path)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                text = str(comparison)
            assert not HARMFUL.search(text)
            if number % 500 == 0:
                comparison._repr_html_()
                _draw(comparison)
            found["read"] += 1
        except ResultsError as error:
            text = str(error)
            assert str(path) in text and "\n" not in text and len(text) < 700, text
            assert not HARMFUL.search(text)
            found["refused"] += 1
    return found


def _draw(comparison: Comparison) -> None:
    from llmlite import plots

    plots.base.png(plots.comparison(comparison, theme="light"))


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        print(dict(run(int(sys.argv[1]), seed, Path(name))), f"seed {seed}")
