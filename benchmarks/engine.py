"""Speed and memory of the engine beside llama.cpp (and PyTorch bf16): the table of figures, with raw samples.

    python benchmarks/engine.py --folder FOLDER                      makes the models it misses there, then
    runs python benchmarks/engine.py --folder FOLDER --types Q4_0 --blocks 3 --quick

Protocol: each backend in its own process, in randomised complete blocks; same file, same ids, same threads, a
float32 KV cache on both sides, last-position logits only; read bandwidth and a canary inside each block. A
block whose canary drifts more than 5 % from the median is dropped by that rule. Ratios are medians of ratios
within a block. Bytes per token are those of the tensors a step reads, plus the keys and values of its
positions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmlite import gguf
from llmlite.bench.canary import Canary
from llmlite.bench.environment import record
from llmlite.bench.process import WorkerProcess
from llmlite.engine.bandwidth import ReadBandwidth
from llmlite.engine.cpu import target, usable_threads
from llmlite.resources import model_path
from llmlite.synth import synthesize

DRIFT = 0.05
N_PROMPT, N_GEN, DEPTH = 512, 32, 2048
CPU_SECONDS = "instead: tokens per second of CPU time on one thread, for a machine that others use too"

# Run in a backend's own process. With one thread nobody waits for anybody, so CPU time is work.
ONE_THREAD = """
import json, sys, time
from llmlite.bench.backends import make
name, path = sys.argv[1:]
ids = [1000 + i * 7 % 900 for i in range(128)]
backend = make(name)
backend.start()
backend.load(path, 512, 1)
backend.prefill(ids[:16])
def seconds(work):
    begin = time.process_time()
    work()
    return time.process_time() - begin
prefill = min(seconds(lambda: backend.prefill(ids)) for _ in range(2))
backend.prefill(ids[:8])
decode = min(seconds(lambda: backend.step(1000)) for _ in range(12))
print(json.dumps({"prefill": len(ids) / prefill, "decode": 1 / decode}))
"""


def main() -> int:
    """Run the benchmark as the command line says; print the table."""
    options = parse()
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"engine-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    with out.open("w", encoding="utf-8") as file:
        bench = Bench(options, folder, file)
        if options.cpu_seconds:
            bench.cpu_seconds()
            return 0
        bench.write({"environment": record(), "cpu": str(target()), "command": sys.argv})
        for type_name in options.types:
            bench.compare(bench.model(type_name), type_name, ["llmlite", "llamacpp"])
        if options.torch:
            bench.compare(bench.model("Q4_0"), "Q4_0 / bf16", ["llmlite", "torch-bf16"], decode=False)
        if not options.quick:
            bench.compare(model_path("tales:Q8_0"), "tales Q8_0", ["llmlite", "llamacpp"], n_prompt=256)
            bench.deep(bench.model("Q8_0"))
            bench.starts(bench.model(options.types[0]))
    print_table(out)
    print(f"raw samples: {out}")
    return 0


def parse() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--folder", required=True, help="for the models and the samples; 3 GB")
    parser.add_argument("--shape", default="llama-3.2-1b")
    parser.add_argument("--types", nargs="+", default=["Q4_0", "Q4_K_M", "Q8_0"])
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--torch", action="store_true", help="also PyTorch bf16 on the whole forward pass")
    parser.add_argument("--cpu-seconds", action="store_true", help=CPU_SECONDS)
    parser.add_argument("--quick", action="store_true", help="only the comparison with llama.cpp")
    return parser.parse_args()


class Bench:
    """Asks workers and writes every sample down."""

    def __init__(self, options: argparse.Namespace, folder: Path, file: Any) -> None:
        self.options, self.folder, self.file = options, folder, file
        self.canary = Canary()
        self.bandwidth = ReadBandwidth(options.threads)
        self.random = random.Random(0)

    def write(self, entry: dict[str, Any]) -> None:
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()

    def model(self, type_name: str) -> Path:
        """The synthetic model of that type, made on first use."""
        path = self.folder / f"{self.options.shape}-{type_name}.gguf"
        if not path.exists():
            print(f"making {path.name}", file=sys.stderr)
            synthesize(path, self.options.shape, type_name)
        return path

    def compare(
        self, path: Path, label: str, backends: list[str], *, n_prompt: int = N_PROMPT, decode: bool = True
    ) -> None:
        """Prefill and decode on every backend, block by block."""
        workers = {name: WorkerProcess(name, self.options.threads, timeout=900) for name in backends}
        try:
            for worker in workers.values():
                worker.ask("start")
                worker.ask("load", model=str(path), n_ctx=1024, n_threads=self.options.threads)
                worker.ask("prefill", ids=ids(n_prompt))  # warm: pages, kernels
            for block in range(self.options.blocks):
                order = self.random.sample(backends, len(backends))
                noise = {"canary_ns": self.canary.sing(), "bandwidth": self.bandwidth.measure(3)}
                for name in order:
                    entry = {"label": label, "block": block, "backend": name, **noise}
                    entry |= {"bytes": step_bytes(path), "n_prompt": n_prompt}
                    entry["prefill_ns"] = workers[name].ask("prefill", ids=ids(n_prompt))["samples_ns"]
                    if decode:
                        answer = workers[name].ask("decode", ids=ids(8), n_gen=N_GEN)
                        entry |= {"decode_ns": answer["samples_ns"], "n_gen": N_GEN}
                    self.write(entry)
        finally:
            for worker in workers.values():
                worker.close()

    def cpu_seconds(self) -> None:
        """Print tokens per CPU second of both programs, the best of three processes each, taken in turns."""
        for type_name in self.options.types:
            path, best = self.model(type_name), {}
            for _ in range(3):
                for name in ("llmlite", "llamacpp"):
                    command = [sys.executable, "-c", ONE_THREAD, name, str(path)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    found = json.loads(done.stdout.splitlines()[-1])
                    self.write({"label": "cpu seconds", "type": type_name, "backend": name, **found})
                    best[name] = {k: max(v, best.get(name, {}).get(k, 0)) for k, v in found.items()}
            for phase in ("prefill", "decode"):
                ours, theirs = best["llmlite"][phase], best["llamacpp"][phase]
                rates = f"{ours:.1f} and {theirs:.1f} tokens per CPU second"
                print(f"{type_name} {phase}: {rates}, {ours / theirs:.2f}", flush=True)

    def deep(self, path: Path) -> None:
        """Decode at depth 0 and 2048, and what is private to the process at the end."""
        with WorkerProcess("llmlite", self.options.threads, timeout=900) as worker:
            worker.ask("start")
            worker.ask("load", model=str(path), n_ctx=DEPTH + N_GEN, n_threads=self.options.threads)
            for block in range(self.options.blocks):
                for depth in (8, DEPTH):
                    answer = worker.ask("decode", ids=ids(depth), n_gen=N_GEN)
                    self.write({"label": "depth", "block": block, "depth": depth, "decode_ns":
                    answer["samples_ns"],
                                "canary_ns": self.canary.sing(), "bytes": step_bytes(path),
                                "kv_bytes": kv_bytes(path, depth)})  # fmt: skip
            self.write({"label": "memory", **worker.ask("memory")})

    def starts(self, path: Path) -> None:
        """Import, start to first token warm, and the first use ever, each in fresh processes."""
        code = f"import llmlite; llmlite.load({str(path)!r}, n_ctx=64).logits([1, 2, 3, 4], last_only=True)"
        for _ in range(self.options.blocks):
            self.write({"label": "bare", "seconds": seconds("pass")})
            self.write({"label": "import", "seconds": seconds("import llmlite")})
            self.write({"label": "first token, warm", "seconds": seconds(code)})
        empty = self.folder / "empty-cache"
        for old in empty.glob("kernels/*.o"):
            old.unlink()
        self.write({"label": "first use ever", "seconds": seconds(code, LLMLITE_CACHE=str(empty))})


def ids(n: int) -> list[int]:
    return [1000 + i * 7 % 900 for i in range(n)]


def seconds(code: str, **environment: str) -> float:
    begin = time.perf_counter()
    environment = {**os.environ, **environment}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    return time.perf_counter() - begin


def step_bytes(path: Path) -> int:
    """Bytes of weights that a step reads: everything but an embedding table that is not also the output."""
    with gguf.read(path) as file:
        tied = "output.weight" not in file.tensors
        return sum(t.n_bytes for name, t in file.tensors.items() if tied or name != "token_embd.weight")


def kv_bytes(path: Path, n_tokens: int) -> int:
    """Bytes of keys and values of n_tokens positions, float32."""
    with gguf.read(path) as file:
        prefix = file.metadata["general.architecture"]
        names = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")
        values = [file.metadata[f"{prefix}.{name}"] for name in names]
    layers, width, heads, shared = values
    return 2 * 4 * layers * (width // heads) * shared * n_tokens


def kept(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Entries of blocks whose canary stayed within 5 % of the median."""
    middle = statistics.median(entry["canary_ns"] for entry in entries)
    return (entry for entry in entries if abs(entry["canary_ns"] / middle - 1) <= DRIFT)


def print_table(path: Path) -> None:
    """Print the figures that stand in the samples of `path`."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_label: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_label.setdefault(entry.get("label", ""), []).append(entry)
    for label, group in by_label.items():
        if "backend" in group[0]:
            print_comparison(label, group)
    if "depth" in by_label:
        print_depth(by_label["depth"])
    if "memory" in by_label:
        print(f"private memory after depth {DEPTH}: {by_label['memory'][0]['private_bytes'] / 1e6:.0f} MB")
    for label in ("bare", "import", "first token, warm", "first use ever"):
        if label in by_label:
            print(f"{label}: {statistics.median(e['seconds'] for e in by_label[label]):.3f} s")


def print_comparison(label: str, group: list[dict[str, Any]]) -> None:
    good = list(kept(group))
    n_blocks, n_good = len({e["block"] for e in group}), len({e["block"] for e in good})
    print(f"{label}: {n_good} of {n_blocks} blocks within {DRIFT:.0%}")
    if not good:
        print("  the machine was too busy for figures: try again, or --cpu-seconds")
        return
    peers = {e["backend"] for e in good} - {"llmlite"}
    for phase, count in (("prefill", "n_prompt"), ("decode", "n_gen")):
        if f"{phase}_ns" not in group[0]:
            continue
        rates: dict[str, dict[int, float]] = {}
        for e in good:
            rates.setdefault(e["backend"], {})[e["block"]] = e[count] * 1e9 / e[f"{phase}_ns"][0]
        for name, found in rates.items():
            print(f"  {phase:8} {name:12} {statistics.median(found.values()):9.1f} tokens/s")
        for peer in peers & set(rates):
            ratios = [rates["llmlite"][b] / rates[peer][b] for b in rates["llmlite"] if b in rates[peer]]
            low, high = min(ratios), max(ratios)
            print(f"  {phase:8} over {peer}: {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
    if "decode_ns" in group[0]:
        ours = [e for e in good if e["backend"] == "llmlite"]
        shares = [e["bytes"] * e["n_gen"] * 1e9 / e["decode_ns"][0] / e["bandwidth"] for e in ours]
        width = statistics.median(e["bandwidth"] / 1e9 for e in good)
        print(f"  share of read bandwidth ({width:.1f} GB/s): {statistics.median(shares):.2f}")


def print_depth(group: list[dict[str, Any]]) -> None:
    shallow, deep = ([e for e in group if (e["depth"] == DEPTH) == is_deep] for is_deep in (False, True))
    ratios = [a["decode_ns"][0] / b["decode_ns"][0] for a, b in zip(shallow, deep)]
    weights = deep[0]["bytes"]
    ideal = weights / (weights + deep[0]["kv_bytes"])
    found = statistics.median(ratios)
    print(f"decode at depth {DEPTH} over depth 0: {found:.3f}, {found / ideal:.2f} of what the bytes allow")


if __name__ == "__main__":
    sys.exit(main())
