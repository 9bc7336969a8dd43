"""Measure the rows of the engine's table. `engine.py` runs them, and `engine_table.py` reads their samples.

The function of a row takes a `Bench`, measures, and writes each sample immediately.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from llmlite import gguf
from llmlite.bench.canary import Canary
from llmlite.bench.process import WorkerProcess
from llmlite.engine.bandwidth import ReadBandwidth
from llmlite.resources import model_path
from llmlite.synth import synthesize

ROOT = Path(__file__).resolve().parent.parent
N_PROMPT, N_GEN, DEPTH = 512, 16, 2048
TURNS = {"prefill": 1, "decode": 2}  # turns of each backend in a block: short, to follow each other closely
EXPERTS_SHAPE = "qwen3-30b-a3b-4-layers"
SETTLE = 0.1  # seconds: threads of the last backend and of the canary's BLAS go on spinning for a while
SONG = 25  # repetitions of the canary: about 60 ms
FIRST_IDS = (1, 2, 3, 4, 5, 6, 7, 8)
# A user's code up to the first token; the parent's clock stops when the line is printed.
FIRST_TOKEN = """
import sys, llmlite
model = llmlite.load(sys.argv[1], n_ctx=512)
print(int(model.logits({ids}, last_only=True)[0].argmax()), flush=True)
"""
THIRD_PARTY = """
import sys
before = set(sys.modules)
import llmlite
found = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(found - sys.stdlib_module_names - {"llmlite"}))
"""


@dataclass
class Bench:
    """Hold the things that all rows share: models, the canary, the clock, and the file of samples.

    Attributes:
        folder: the folder of the models.
        shape: the shape of the synthetic models.
        threads: threads of each backend.
        blocks: number of clean blocks to take.
        write: a function that writes one sample, a JSON object.
        deadline: the time.monotonic() at which the current row should end.
    """

    folder: Path
    shape: str
    threads: int
    blocks: int
    write: Callable[[dict[str, Any]], None]
    deadline: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self.canary = Canary(SONG)
        self.bandwidth = ReadBandwidth(self.threads)

    def model(self, type_name: str, shape: str | None = None) -> Path:
        """Return the path of the synthetic model of that type, which is made on first use."""
        shape = shape or self.shape
        path = self.folder / f"{shape}-{type_name}.gguf"
        if not path.exists():
            print(f"making {path.name}", file=sys.stderr)
            synthesize(path, shape, type_name)
        return path

    def machine(self) -> tuple[int, float]:
        """Measure the machine now: the canary's nanoseconds, and read bandwidth in bytes per second."""
        time.sleep(SETTLE)
        width = self.bandwidth.measure(5)
        song = self.canary.sing()
        time.sleep(SETTLE)
        return song, width

    def worker(self, backend: str, path: Path, n_ctx: int, stack: ExitStack, **options: Any) -> WorkerProcess:
        """Start a backend and load the model; its answers may take until a minute after the deadline."""
        timeout = max(60.0, self.deadline - time.monotonic() + 60)
        worker = stack.enter_context(
            WorkerProcess(backend, options.get("threads", self.threads), timeout=timeout)
        )
        worker.ask("start")
        worker.ask("load", model=str(path), n_ctx=n_ctx, n_threads=options.get("threads", self.threads))
        return worker

    def rounds(self, row: str, one: Callable[[], list[dict[str, Any]]]) -> None:
        """Take twice as many blocks as must be clean, or fewer if time runs out."""
        longest = 0.0
        for block in range(2 * self.blocks):
            begin = time.monotonic()
            if block and begin + longest > self.deadline:
                break
            for sample in one():
                self.write({"row": row, "kind": "block", "block": block, **sample})
            longest = max(longest, time.monotonic() - begin)

    def turns(self, sequence: list[tuple[str, Callable[[], dict[str, Any]]]]) -> dict[str, Any]:
        """Take named turns; measure the canary and the bandwidth before, between and after them.

        Returns:
            "order" (the names), "canary_ns", "bandwidth", and the `timings` of each name, turn by turn.
        """
        found: dict[str, Any] = {"order": [name for name, _ in sequence]}
        songs, widths = zip(self.machine())
        for name, turn in sequence:
            for key, value in timings(turn()).items():
                kept = found.setdefault(name, {})
                kept[key] = [*kept.get(key, []), *value] if isinstance(value, list) else value
            song, width = self.machine()
            songs, widths = (*songs, song), (*widths, width)
        return {**found, "canary_ns": songs, "bandwidth": widths}


def compare(
    bench: Bench,
    row: str,
    path: Path,
    peer: str,
    *,
    n_prompt: int = N_PROMPT,
    n_gen: int = N_GEN,
    repetitions: int = 1,
) -> None:
    """Measure a prefill block and a decode block of llmlite and a peer, in turns of random order."""
    names = ["llmlite", peer]
    with ExitStack() as stack:
        n_ctx = n_prompt + n_gen + 16
        workers = {name: bench.worker(name, path, n_ctx, stack) for name in names}
        for worker in workers.values():  # load pages and kernels
            worker.ask("prefill", ids=ids(n_prompt))
            worker.ask("decode", ids=ids(8), n_gen=2)
        asked = {"prefill": {"ids": ids(n_prompt)}, "decode": {"ids": ids(8), "n_gen": n_gen}}
        facts = {"bytes": step_bytes(path), "n_prompt": n_prompt, "n_gen": n_gen, "peer": peer}

        def block(phase: str) -> dict[str, Any]:
            order = bench.random.sample(names, 2) * TURNS[phase]
            ask = {name: partial(workers[name].ask, phase, **asked[phase], repetitions=repetitions)
                   for name in names}  # fmt: skip
            return {**facts, "phase": phase, **bench.turns([(name, ask[name]) for name in order])}

        phases = ("prefill", "decode") if n_gen else ("prefill",)
        bench.rounds(row, lambda: [block(phase) for phase in phases])


def timings(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a worker's answer that samples keep."""
    kept = ("samples_ns", "cpu_ns", "steps_ns", "n_threads")
    return {key: answer[key] for key in kept if key in answer}


def against_llamacpp(type_name: str) -> Callable[[Bench, str], None]:
    """Return the function that measures the synthetic model of one type against llama.cpp."""
    return lambda bench, row: compare(bench, row, bench.model(type_name), "llamacpp")


def against_torch(bench: Bench, row: str) -> None:
    """Compare prefill with PyTorch in bfloat16: the whole forward pass, with the same weights."""
    compare(bench, row, bench.model("Q4_0"), "torch-bf16", n_gen=0)


def experts(bench: Bench, row: str) -> None:
    """Measure a mixture of 128 experts, 8 of which each token uses in each layer."""
    compare(bench, row, bench.model("Q4_0", EXPERTS_SHAPE), "llamacpp")


def bundled(bench: Bench, row: str) -> None:
    """Measure the bundled model, which fits in the CPU's caches."""
    compare(bench, row, model_path("tales:Q8_0"), "llamacpp", n_prompt=256, n_gen=128, repetitions=3)


def depth(bench: Bench, row: str) -> None:
    """Measure decode with an empty cache and after 2048 tokens, in turns, with the cache that users get."""
    path, n_turns = bench.model("Q4_0"), TURNS["decode"]
    grown = 2  # tokens that the deep worker has added: it continues its text, so turns need no prompt
    with ExitStack() as stack:
        n_ctx = DEPTH + grown + 2 * bench.blocks * n_turns * N_GEN
        deep, shallow = (bench.worker("llmlite-f16", path, n_ctx, stack) for _ in range(2))
        deep.ask("decode", ids=ids(DEPTH), n_gen=grown)
        shallow.ask("decode", ids=ids(1), n_gen=grown)
        asked = {
            "deep": partial(deep.ask, "decode", ids=[], n_gen=N_GEN),
            "shallow": partial(shallow.ask, "decode", ids=ids(1), n_gen=N_GEN),
        }

        def block() -> list[dict[str, Any]]:
            nonlocal grown
            deeper = kv_bytes(path, DEPTH + grown + n_turns * N_GEN // 2) - kv_bytes(path, N_GEN // 2)
            grown += n_turns * N_GEN
            order = bench.random.sample(sorted(asked), 2) * n_turns
            facts = {"bytes": step_bytes(path), "kv_bytes": deeper, "n_gen": N_GEN}
            return [{**facts, **bench.turns([(name, asked[name]) for name in order])}]

        bench.rounds(row, block)


def memory(bench: Bench, row: str) -> None:
    """Measure private memory after position 2047, with n_ctx 2048 and cached kernels."""
    with ExitStack() as stack:
        worker = bench.worker("llmlite-f16", bench.model("Q4_0"), DEPTH, stack)
        worker.ask("decode", ids=ids(DEPTH - 8), n_gen=8)  # positions 2040 to 2047
        bench.write({"row": row, "kind": "memory", **worker.ask("memory")})


def imports(bench: Bench, row: str) -> None:
    """Measure `import llmlite` against a bare interpreter, in turns, and list the modules it imports."""
    found = subprocess.run(
        [sys.executable, "-c", THIRD_PARTY], env=environment(), check=True, capture_output=True, text=True
    )
    for _ in range(3 * bench.blocks):
        sample = {"bare": seconds_to_end("pass"), "import": seconds_to_end("import llmlite")}
        bench.write({"row": row, "kind": "import", "third_party": found.stdout.split(), **sample})


def first_token(bench: Bench, row: str) -> None:
    """Measure the time from process start to the first token, with the file and the kernels cached."""
    path = bench.model("Q4_0")
    with path.open("rb") as file:  # read it into the page cache
        while file.read(1 << 24):
            pass
    seconds_to_token(path)
    for _ in range(bench.blocks):
        if time.monotonic() < bench.deadline:
            bench.write({"row": row, "kind": "seconds", "seconds": seconds_to_token(path)["seconds"]})


def first_use(bench: Bench, row: str) -> None:
    """Measure the very first use, with an empty cache of kernels."""
    path, empty = bench.model("Q4_K_M"), bench.folder / "empty-cache"
    for old in empty.glob("kernels/*.o"):
        old.unlink()
    bench.write({"row": row, "kind": "seconds", **seconds_to_token(path, LLMLITE_CACHE=str(empty))})


def cpu_seconds(type_name: str) -> Callable[[Bench, str], None]:
    """Return the function that measures both programs' tokens per CPU second, on one thread each.

    Other load on the machine disturbs this figure least. A single thread never waits for another one, so its
    CPU time is all work.
    """

    def measure(bench: Bench, row: str) -> None:
        path = bench.model(type_name)
        with ExitStack() as stack:
            workers = {n: bench.worker(n, path, 512, stack, threads=1) for n in ("llmlite", "llamacpp")}
            for worker in workers.values():
                worker.ask("prefill", ids=ids(16))

            def block() -> list[dict[str, Any]]:
                facts = {"canary_ns": [bench.machine()[0]], "n_prompt": 128, "n_gen": 12}
                samples = [{**facts, "phase": phase} for phase in ("prefill", "decode")]
                for name in bench.random.sample(list(workers), 2):
                    samples[0][name] = timings(workers[name].ask("prefill", ids=ids(128)))
                    samples[1][name] = timings(workers[name].ask("decode", ids=ids(8), n_gen=12))
                return samples

            bench.rounds(row, block)

    return measure


# ---- pieces ------------------------------------------------------------------------------------------------


def ids(n: int) -> list[int]:
    return [1000 + i * 7 % 900 for i in range(n)]


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which child processes import this llmlite, even if it isn't installed."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **more}


def seconds_to_end(code: str) -> float:
    """Return the seconds that a new interpreter takes to start, run `code` and end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, capture_output=True)
    return time.perf_counter() - begin


def seconds_to_token(path: Path, **more: str) -> dict[str, Any]:
    """Return the seconds from an interpreter's start to the first token, and whether it compiled."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", FIRST_TOKEN.format(ids=list(FIRST_IDS)), str(path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(**more), text=True, **pipes) as process:
        token = process.stdout.readline()
        seconds = time.perf_counter() - begin
        _, errors = process.communicate()
    if not token.strip():
        raise RuntimeError(f"no token was printed: {errors.strip().splitlines()[-1:]}")
    return {"seconds": seconds, "progress": "compiling" in errors}


def step_bytes(path: Path) -> int:
    """Return the bytes of weights that a step reads: all but an embedding table that isn't the output."""
    with gguf.read(path) as file:
        tied = "output.weight" not in file.tensors
        return sum(t.n_bytes for name, t in file.tensors.items() if tied or name != "token_embd.weight")


def kv_bytes(path: Path, n_tokens: int, itemsize: int = 2) -> int:
    """Return the bytes of the keys and values of `n_tokens` positions."""
    with gguf.read(path) as file:
        prefix = file.metadata["general.architecture"]
        names = ("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv")
        layers, width, heads, shared = (file.metadata[f"{prefix}.{name}"] for name in names)
    return 2 * itemsize * layers * (width // heads) * shared * n_tokens
