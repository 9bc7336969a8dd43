"""Compile every kernel for every level that wheels carry (llmlite/engine/shipped.py): `make wheel` runs this.

    python tools/compile_kernels.py --out build/kernels                     all levels: minutes at first
    python tools/compile_kernels.py --out build/kernels --level x86-64-v3   one of them

An object in the folder is kept if the same numba made it from the same source for the same features. Each
level is compiled in its own process, on Linux. On x86, LLVM also makes code for ARM: objects are made from
the LLVM IR, and numba's machine code for this machine is left out, because nothing would call it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llmlite.engine import shipped  # noqa: E402

TRIPLES = {"x86": "x86_64-unknown-linux-gnu", "arm": "aarch64-unknown-linux-gnu"}
MACHINES = {"x86": "x86_64", "arm": "aarch64"}  # the results of `platform.machine` there


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the objects and manifests")
    parser.add_argument("--level", action="append", choices=[level.name for level in shipped.LEVELS])
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="levels to compile at the same time"
    )
    parser.add_argument(
        "--only", metavar="FILE.NAME", action="append", help="compile only these kernels (for a trial)"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # compile in this process
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):  # kernels/team.py depends on the system that compiles it
        parser.error("kernels for wheels are compiled on Linux")
    levels = [level for level in shipped.LEVELS if not options.level or level.name in options.level]
    if options.here:
        compile_level(levels[0], options.out, options.only)
        return 0
    remove_others(options.out, {level.name for level in levels})

    def start(level: shipped.Level) -> int:
        command = [sys.executable, __file__, "--here", "--out", str(options.out), "--level", level.name]
        for name in options.only or ():
            command += ["--only", name]
        environment = {
            **os.environ,
            "NUMBA_CPU_NAME": level.cpu,
            "NUMBA_CPU_FEATURES": level.features,
            shipped.CHOICE: "compile",
        }
        return subprocess.run(command, env=environment, check=False).returncode

    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        codes = list(pool.map(start, levels))
    return max(map(abs, codes))


def remove_others(folder: Path, names: set[str]) -> None:
    """Remove levels that weren't asked for, because a wheel takes every file in the folder."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.suffix in (".bin", ".json") and path.stem not in names:
            path.unlink()


def compile_level(level: shipped.Level, folder: Path, only: list[str] | None) -> None:
    """Compile the kernels that the folder lacks, and write the level's two files."""
    spare_machine_code(level)
    import llvmlite
    import llvmlite.binding as llvm
    import numba

    import llmlite.engine.families  # declares all kernels  # noqa: F401
    from llmlite.engine import jit
    from llmlite.engine.cpu import target

    found = target()
    assert (found.architecture, found.name, found.features) == (level.architecture, level.cpu, level.features)
    made_by = f"numba {numba.__version__}, llvmlite {llvmlite.__version__}, LLVM {llvm.llvm_version_info}"
    machine = llvm.Target.from_triple(TRIPLES[level.architecture]).create_target_machine(
        cpu=level.cpu, features=level.features, opt=3, jit=True, reloc="default"
    )
    kernels = {f"{k.module}.{k.name}": k for k in jit.declared_for(level.required)}
    if only:
        kernels = {name: kernels[name] for name in only}
    kept = present(level, folder, made_by)
    objects, began, n_compiled = {}, time.monotonic(), 0
    for name, k in kernels.items():
        source = jit.source_of(k)
        code = kept.get((name, source))
        if code is None:
            code = jit.object_code(k, machine)
            n_compiled += 1
        objects[name] = source, code
    folder.mkdir(parents=True, exist_ok=True)
    shipped.write(folder, level, objects, made_by)
    size = sum(len(code) for _, code in objects.values())
    print(
        f"{level.name}: {len(objects)} kernels, {n_compiled} of them compiled now, {size / 1e6:.2f} MB, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )


def spare_machine_code(level: shipped.Level) -> None:
    """Make numba optimise for the level's machine, and keep it from making code for this one."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple, machine = TRIPLES[level.architecture], MACHINES[level.architecture]
    changed: Any = llvm
    changed.get_process_triple = lambda: triple
    changed = platform
    changed.machine = lambda: machine
    from numba.core import codegen

    changed = codegen
    changed.JITCPUCodegen.set_env = lambda self, name, env: None
    changed.JITCodeLibrary._finalize_specific = lambda self: None
    changed.JITCodeLibrary.get_pointer_to_function = lambda self, name: self._ensure_finalized() or 0


def present(level: shipped.Level, folder: Path, made_by: str) -> dict[tuple[str, str], bytes]:
    """Return (kernel, source) -> object from an earlier run with the same versions."""
    try:
        manifest = json.loads((folder / f"{level.name}.json").read_bytes())
        whole = (folder / f"{level.name}.bin").read_bytes()
    except (OSError, ValueError):
        return {}
    same = (manifest["cpu"], manifest["features"], manifest["made_by"]) == (
        level.cpu,
        level.features,
        made_by,
    )
    found = {}
    for name, entry in manifest["kernels"].items() if same else ():
        code = whole[entry["offset"] : entry["offset"] + entry["size"]]
        if hashlib.sha256(code).hexdigest() == entry["sha256"]:
            found[name, entry["source"]] = code
    return found


if __name__ == "__main__":
    sys.exit(main())
