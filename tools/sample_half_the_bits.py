"""Measure llmlite at every rung of the ladder of types, and PyTorch beside it, for the lessons to show.

    python tools/sample_half_the_bits.py      writes data/samples/half_the_bits.json (minutes; needs torch)

Every rung is measured in processes of its own, in blocks (llmlite.bench.compare). Run it on a quiet machine,
and again whenever the model changes, then tools/checksums.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from llmlite import resources
from llmlite.bench import Options, compare
from llmlite.bench.backends import BACKENDS
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import summarize
from llmlite.lessons.half_the_bits import FILE, LADDER, Ladder, Row
from llmlite.quantize import quantize_file
from llmlite.quantize.mixes import canonical

ROOT = Path(__file__).resolve().parent.parent
TORCH = {"torch-f32": ("F32", 4), "torch-bf16": ("BF16", 2)}  # what it holds, bytes per weight


def main() -> int:
    ladder, rows, others = Ladder(), [], []
    for type_name in LADDER:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"tales-{type_name}.gguf"
            quantize_file(resources.model_path("tales"), path, canonical(type_name), pure=True)
            backends = ("llmlite", *TORCH) if type_name == "F16" else ("llmlite",)
            found = compare.run(
                Options(
                    model=str(path),
                    backends=backends,
                    blocks=7,
                    prompts=(64,),
                    depths=(64,),
                    n_gen=64,
                    start_runs=1,
                )
            )
        told = ladder.told(type_name)
        rows.append(row(found, "llmlite", "llmlite", type_name, told.n_bytes, told.text))
        for backend, (held, size) in TORCH.items() if type_name == "F16" else ():
            n_weights = sum(t.n_elements for t in ladder.source.tensors.values())
            others.append(row(found, backend, BACKENDS[backend].title, held, n_weights * size))
        print(rows[-1], flush=True)
    environment = found.environment
    machine = (
        f"{environment['cpu_info']}, {environment['n_cpu_allowed']} cores, {environment['test_time'][:10]}"
    )
    text = json.dumps(
        {"machine": machine, "rows": [asdict(r) for r in [*rows, *others]]}, indent=1, ensure_ascii=False
    )
    (ROOT / "data" / FILE).parent.mkdir(exist_ok=True)
    (ROOT / "data" / FILE).write_text(text + "\n", encoding="utf-8")
    return 0


def row(found: Comparison, backend: str, title: str, held: str, n_bytes: int, tale: str = "") -> Row:
    def median(metric: str) -> float:
        return next(s.value for s in summarize(found, metric) if s.backend == backend)

    return Row(
        backend=title,
        type=held,
        weight_bytes=n_bytes,
        private_bytes=int(median("private") * 1e6),
        tokens_per_second=round(median("decode")),
        tale=tale,
    )


if __name__ == "__main__":
    sys.exit(main())
