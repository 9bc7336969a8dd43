"""Measure AMX tiles against the other kernels, PyTorch in bfloat16 and llama.cpp, on an Intel server.

    python benchmarks/amx.py FOLDER                        # Q4_0, 512 tokens, 1 and 16 threads, 3 rounds
    python benchmarks/amx.py FOLDER --types Q4_0,Q8_0,Q4_K_M --threads 1,16
    python benchmarks/amx.py FOLDER --bits                 # only compare the bits of every type

Needs `pip install 'llmlite-kit[torch,llamacpp]'`. A backend that isn't installed is named and left out.
Models have the shape of Llama-3.2-1B and random weights. A missing one is written to FOLDER first (0.8 to 1.3
GB).

It prints these ratios of prefill speed:

- tiles over llmlite's other kernels, for each number of threads (must be ≥ 2 on one thread),
- tiles over PyTorch in bfloat16 on the most threads (must be ≥ 1.4; oneDNN uses AMX by itself),
- tiles over llama.cpp (goal: 3), and whether that build reports AMX.

Each round gives a ratio of the best repetitions. The median and range over the rounds are printed. On a CPU
without AMX the program says so and ends with exit code 3; with --without-amx it first measures the others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPE = "llama-3.2-1b"
TILES, OTHER, TORCH, LLAMACPP = "llmlite, AMX", "llmlite, no AMX", "PyTorch bfloat16", "llama.cpp"
# name -> (backend, value of LLMLITE_AMX)
CONTESTANTS = {
    TILES: ("llmlite", "on"),
    OTHER: ("llmlite", "off"),
    TORCH: ("torch-bf16", "off"),
    LLAMACPP: ("llamacpp", "off"),
}
AIMS = {OTHER: "at least 2 on one thread", TORCH: "at least 1.4 on 16 threads", LLAMACPP: "goal: 3"}


def python(code: str) -> str:
    """Run code in its own Python process; return its output, or the last line of its error."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"unknown ({(done.stderr.strip().splitlines() or ['no error'])[-1][:120]})"
    return done.stdout.strip()


def llamacpp_amx() -> str:
    """Return the installed llama.cpp's own report on whether it was built with AMX."""
    code = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"
    info = python(code)
    found = re.findall(r"AMX\w* = \d", info)
    if found:
        return ", ".join(found)
    return info if info.startswith("unknown") else "no: its build doesn't report AMX"


def torch_amx() -> str:
    """Return the CPU capability and the version that PyTorch reports."""
    return python("import torch; print(torch.backends.cpu.get_cpu_capability(), torch.__version__)")


def turn(path: Path, name: str, n_prompt: int, n_threads: int, seconds: float | None = None) -> float | None:
    """Take one turn of at most `seconds`.

    Returns:
        The best prefill speed in tokens per second; None if the turn failed or took too long.
    """
    backend, tiles = CONTESTANTS[name]
    command = [sys.executable, "-m", "llmlite", "bench", str(path), "-b", backend, "-o", "json", "-d", "0"]
    command += ["-p", str(n_prompt), "-n", "0", "-r", "3", "-t", str(n_threads)]
    environment = {**os.environ, "LLMLITE_AMX": tiles}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        print(f"  left out: {name}: not done in time", flush=True)
        return None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no error"])[-1]
        print(f"  left out: {name}: {last[:150]}", flush=True)
        return None
    records: list[dict[str, Any]] = json.loads(done.stdout)
    return max(max(record["samples_ts"]) for record in records)


def measure(
    path: Path,
    n_prompt: int,
    n_threads: int,
    rounds: int,
    names: list[str],
    left: Callable[[], float | None] = lambda: None,
) -> None:
    """Take the turns on one file and print speeds and ratios; `left` returns the seconds that remain."""
    found: dict[str, list[float]] = {name: [] for name in names}
    names = list(names)
    for _ in range(rounds):
        for name in list(names):
            speed = turn(path, name, n_prompt, n_threads, left())
            if speed is None:
                names.remove(name)
            else:
                found[name].append(speed)
    print(f"\n{path.stem}, {n_prompt} tokens, {n_threads} threads")
    for name in names:
        speeds, line = found[name], f"  {name:<18} {max(found[name]):8.1f} tokens/s"
        if name != names[0] and len(found[names[0]]) == len(speeds):
            ratios = [a / b for a, b in zip(found[names[0]], speeds)]
            line += f"; {names[0]} is {statistics.median(ratios):.2f} times as fast"
            line += f" ({min(ratios):.2f} to {max(ratios):.2f}), {AIMS[name]}"
        print(line, flush=True)


def describe() -> None:
    """Describe this machine, and print which of the contestants may use AMX."""
    from llmlite.engine import amx_check
    from llmlite.engine.cpu import choose_threads, host, target

    print(f"{host()}; kernels for {target()}; {choose_threads()}; load {os.getloadavg()[0]:.1f}")
    print(f"AMX: {amx_check.report()[1]}")
    print(f"llama.cpp: {llamacpp_amx()}\nPyTorch: {torch_amx()}", flush=True)


def model(folder: Path, shape: str, name: str) -> Path:
    """Return the path of a model with random weights; write the model if it is missing.

    Raises:
        SystemExit: the model can't be made; `llmlite synth` has printed the reason.
    """
    path = folder / f"{shape}-{name}.gguf"
    if not path.exists():
        command = [sys.executable, "-m", "llmlite", "synth", shape, "--type", name, "-o", str(path)]
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(done.returncode)
    return path


def compare_bits() -> bool:
    """Multiply with both kernels in every type; print how many numbers differ."""
    import numpy as np

    from llmlite.engine import amx_check
    from llmlite.engine.families import FAMILIES
    from llmlite.quants import get
    from llmlite.quants.tensor import QuantTensor

    rng, same = np.random.default_rng(3), True
    for type_id, family in FAMILIES.items():
        if family.sub:
            weights = rng.standard_normal((100, 2304)).astype(np.float32)
            found = amx_check.compare(QuantTensor.quantize(weights, get(type_id).name, "w"))
            same &= not found.n_unlike
            print(
                f"{family.suffix:<8} {found.n_unlike} of {found.n} numbers differ; "
                f"{found.ratio:.2f} times as fast"
            )
    return same


def main() -> int:
    """Describe this machine, then take the turns, type by type."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", default="Q4_0")
    parser.add_argument("--threads", default="1,16")
    parser.add_argument("-p", type=int, default=512, help="tokens of a prompt (default: 512)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bits", action="store_true")
    parser.add_argument("--without-amx", action="store_true", help="measure the others if there is no AMX")
    options = parser.parse_args()
    from llmlite.engine import amx

    reason = amx.refusal()
    describe()
    if reason:
        print(f"\nThere is NO AMX here ({reason}), so its figures can't be measured.", flush=True)
        if options.bits or not options.without_amx:
            return 3
    if options.bits:
        return 0 if compare_bits() else 1
    names = [name for name in CONTESTANTS if not (reason and name == TILES)]
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.types.split(","):
        path = model(options.folder, SHAPE, name)
        for n in options.threads.split(","):
            measure(path, options.p, int(n), options.rounds, names)
    return 3 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
