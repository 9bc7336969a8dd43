"""Multiply matrices by AMX tiles, with routines that replace the machine's."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from llvmlite import binding as llvm

from llmlite.engine import jit
from llmlite.engine.amx_emit import block_module
from llmlite.engine.cpu import Target, target
from llmlite.engine.families import CHUNK, FAMILIES, MATMUL_TILES, Family
from llmlite.engine.plan import Plan, Share
from llmlite.engine.recorder import Recorder
from llmlite.quants import get
from llmlite.quants.tensor import QuantTensor
from tests.support.planned import random_weights
from tests.support.tile_unit import Emulator, emulated

NAMES = {get(number).name: family for number, family in FAMILIES.items() if family.sub}
FAST = ("Q8_0", "Q4_0", "Q4_K", "Q6_K")  # the others' kernels are compiled by `make test-all`
FORMS = list(itertools.product((32, 16), (False, True)))  # weights per scale, whether there are minimums
numbers = itertools.count()  # for unique names: a name can't be linked twice
TYPES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
# rows shorter than a group, with a partial last group, and longer than a chunk of 2048
WIDTHS = {32: (32, 288, CHUNK * 256 + 96), 256: (256, CHUNK * 256 + 256)}
SAPPHIRE_RAPIDS = Target(
    architecture="x86",
    name="sapphirerapids",
    features=",".join(
        f"+{name}"
        for name in "avx512f avx512bw avx512cd avx512dq avx512vl avx512vnni avx512vbmi avx512bf16 avx2 fma "
        "f16c bmi bmi2 popcnt lzcnt sse4.2".split()
    ),
)


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint32)


def product(w: QuantTensor, x: np.ndarray, *, tiles: bool, n_threads: int = 1) -> np.ndarray:
    """Return x Wᵀ from the kernel for many tokens."""
    recorder = Recorder(max_tokens=len(x), max_outputs=1, n_threads=n_threads, tiles=tiles)
    plan = Plan(recorder, recorder.matmul(w, recorder.embed(QuantTensor.quantize(x, "F32"), None)))
    assert (MATMUL_TILES in [op.kernel for op in plan.ops]) is tiles
    with plan.lock:
        return plan.run([Share(range(len(x)))]).copy()


def activations(n_tokens: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(n_tokens)
    return rng.standard_normal((n_tokens, width)).astype(np.float32) + np.float32(0.3)


def assert_same_bits(name: str) -> None:
    """Compare both kernels' bits, for all tails of rows, tokens and width, on one and two threads."""
    for width in WIDTHS[NAMES[name].block]:
        for n_rows, n_tokens, n_threads in ((37, 17, 1), (64, 35, 2)):
            w, x = random_weights(name, n_rows, width), activations(n_tokens, width)
            want = product(w, x, tiles=False)
            found = product(w, x, tiles=True, n_threads=n_threads)
            np.testing.assert_array_equal(bits(found), bits(want), str((width, n_rows, n_tokens)))


def replace_routines(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    use_routines(monkeypatch, target(), instructions=emulated(emulator), features=())


def use_routines(
    monkeypatch: pytest.MonkeyPatch, cpu: Target, forms: Iterable[tuple[int, bool]] = FORMS, **options: Any
) -> None:
    """Compile each form's routine for a CPU, and make the kernels call it.

    Args:
        monkeypatch: undoes the change.
        cpu: the CPU to compile for.
        forms: (weights per scale, whether there are minimums) of each form.
        options: options of `block_module`.
    """
    linker = jit._linker()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu.name, features=cpu.features, opt=3, jit=True, reloc="default"
    )
    for sub, has_minimum in forms:
        name = f"routine_{sub}_{int(has_minimum)}_{next(numbers)}"
        text = block_module(cpu, name, sub=sub, has_minimum=has_minimum, **options)
        code = bytes(machine.emit_object(llvm.parse_assembly(text)))
        builder = llvm.JITLibraryBuilder().add_object_img(code).export_symbol(name).add_current_process()
        library = builder.link(linker, name)
        jit._alive.append(library)
        # all types of this form share the routine
        routine = Family(module="", suffix="", block=32, sub=sub, has_minimum=has_minimum).tile_block
        monkeypatch.setattr(routine, "_address", library[name])
