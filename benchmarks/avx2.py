"""Compare llmlite with llama.cpp using AVX2 and nothing newer, in turns, for three types of weights.

    python benchmarks/avx2.py FOLDER                       # Q4_0, Q4_K_M, Q8_0; AVX2 alone
    python benchmarks/avx2.py FOLDER --cpu v3+vnni         # llmlite's gain from AVX-VNNI
    python benchmarks/avx2.py FOLDER --types Q4_0 --rounds 5 > docs/measurements/avx2.txt

llmlite's kernels are compiled for x86-64-v3 on every CPU. llama.cpp comes from the wheel xllamacpp, which is
built for AVX2 alone (`objdump -d` finds no zmm register in it). Models have the shape of Llama-3.2-1B and
random weights. A missing one is written to FOLDER first (0.8 to 1.3 GB each).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SHAPE = "llama-3.2-1b"


def main() -> None:
    """Make the missing models, then take the turns, type by type."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", default="Q4_0,Q4_K_M,Q8_0")
    parser.add_argument("--cpu", choices=("v3", "v3+vnni"), default="v3")
    parser.add_argument("-p", default="256", help="tokens of a prompt (default: 256)")
    parser.add_argument("-n", default="24", help="tokens that are generated (default: 24)")
    parser.add_argument("-r", default="2", help="repetitions in a turn (default: 2)")
    parser.add_argument("-t", default="2", help="threads (default: 2)")
    parser.add_argument("--rounds", default="3")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.types.split(","):
        path = options.folder / f"{SHAPE}-{name}.gguf"
        if not path.exists():
            command = [sys.executable, "-m", "llmlite", "synth", SHAPE, "--type", name, "-o", str(path)]
            subprocess.run(command, check=True)
        print(f"\n{name}, llmlite for {options.cpu}, {options.t} threads", flush=True)
        command = [sys.executable, str(Path(__file__).with_name("in_turns.py")), str(path)]
        command += ["--backends", "llmlite,xllamacpp", "--cpu", options.cpu, "--rounds", options.rounds]
        command += [f"-{option}{getattr(options, option)}" for option in "pnrt"]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
