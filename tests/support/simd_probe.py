"""Check the SIMD operations for the CPU that NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name.

test_simd.py runs this in its own process. It compares every operation that is compiled differently from CPU
to CPU with NumPy. Then it prints one JSON line: the instructions of a dot product's assembly, and the largest
errors.
"""

import ctypes
import json
import re

import llvmlite.binding as llvm
import numba
import numpy as np
from numba import types

from llmlite.engine.cpu import target
from llmlite.engine.kernels.common import exp
from llmlite.engine.simd import (
    dot4,
    dot4_small,
    f32_to_half,
    half_to_f32,
    i32,
    i64,
    load_f16,
    load_f32x16,
    load_i32,
    load_i32x16,
    load_u8x16,
    load_u8x64,
    load_u16x16,
    lookup16,
    make_half8,
    make_pieces,
    make_shift_words,
    repeat16_u8x64,
    shift_any,
    splat_i32x16,
    spread_bits,
    store,
)

ERROR_FREE = {"error_model": "numpy"}
halves_4_apart = make_half8(0, 4)
# Bytes from constant places: with one window, with three, at odd places (other permutations), with none
PLACES = {
    (8, (0,)): [2, 50, 34, 18, 18, 2, 56, 0],
    (8, (4, 68, 100)): [4, 24, 44, 64, 84, 104, 124, 144],
    (8, (1, 69)): [1, 18, 35, 52, 69, 86, 103, 120],
    (1, (0, 68)): [17 * i for i in range(8)],
    (8, ()): [3, 90, 27],
}
SHIFTS = [0, 4, -4, 1, -3, 7, 0, -1]
one_window, three_windows, odd_windows, single_bytes, no_windows = (
    make_pieces(starts, n, windows) for (n, windows), starts in PLACES.items()
)
shifted_words = make_shift_words(SHIFTS)


def compiled(function, n_arguments: int):
    """Return the function as machine code that takes addresses and counts, and its assembly."""
    made = numba.cfunc(types.void(*[i64] * n_arguments), **ERROR_FREE)(function)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * n_arguments)(made.address), made


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def dot(u, s, out, n):
    for i in range(n):
        store(out + i * 64, dot4(splat_i32x16(i32(0)), load_u8x64(u + i * 64), load_u8x64(s + i * 64)))


def dot_small(u, s, out, n):
    for i in range(n):
        store(
            out + i * 64,
            dot4_small(load_i32x16(out + i * 64), load_u8x64(u + i * 64), load_u8x64(s + i * 64)),
        )


def from_half(h, out, n):
    for i in range(0, n, 16):
        store(out + i * 4, half_to_f32(load_u16x16(h + i * 2)))


def from_half_scalar(h, out, n):
    for i in range(n):
        store(out + i * 4, load_f16(h + i * 2))


def to_half(x, out, n):
    for i in range(0, n, 16):
        store(out + i * 2, f32_to_half(load_f32x16(x + i * 4)))


def exponential(x, out, n):
    for i in range(0, n, 16):
        store(out + i * 4, exp(load_f32x16(x + i * 4)))


def bytewise(v, table, out):
    words = load_u8x64(v)
    store(out, lookup16(repeat16_u8x64(load_u8x16(table)), shift_any(words, 4)))
    store(out + 64, shift_any(words, 3))
    store(out + 128, shift_any(words, -5))
    store(out + 192, spread_bits(load_i32(v)))
    store(out + 224, halves_4_apart(v))


def gathered(v, out):
    store(out, one_window(v))
    store(out + 64, three_windows(v))
    store(out + 128, odd_windows(v))
    store(out + 192, single_bytes(v))
    store(out + 200, no_windows(v))
    store(out + 224, shifted_words(load_u8x64(v)))


def check_dots(rng: np.random.Generator) -> None:
    n = 64
    u, s = rng.integers(0, 256, (2, n, 64), dtype=np.uint8)
    u[:4], s[:4] = 255, np.array([[127], [128], [255], [1]])  # extremes that would saturate vpmaddubsw
    exact = (u.astype(np.int32) * s.view(np.int8)).reshape(n, 16, 4).sum(2)
    out = np.zeros((n, 16), np.int32)
    compiled(dot, 4)[0](address(u), address(s), address(out), n)
    np.testing.assert_array_equal(out, exact)
    u &= 127
    exact = (u.astype(np.int32) * s.view(np.int8)).reshape(n, 16, 4).sum(2) + 7
    out[:] = 7
    compiled(dot_small, 4)[0](address(u), address(s), address(out), n)
    np.testing.assert_array_equal(out, exact)


def check_halves(rng: np.random.Generator) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    expected = every.view(np.float16).astype(np.float32)
    for function in (from_half, from_half_scalar):
        out = np.empty(1 << 16, np.float32)
        compiled(function, 3)[0](address(every), address(out), len(every))
        np.testing.assert_array_equal(out, expected)
    bits = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    special = np.float32(
        [0, -0.0, 65504, 65519.996, 65520, 1e30, np.inf, -np.inf, 2**-24, 2**-25, 2**-25 * 1.001]
    )
    x = np.concatenate([bits.view(np.float32), expected, expected + expected * np.float32(2**-11), special])
    x = np.ascontiguousarray(np.resize(x[~np.isnan(x)], len(x) // 16 * 16))
    back = np.empty(len(x), np.uint16)
    compiled(to_half, 3)[0](address(x), address(back), len(x))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(back, x.astype(np.float16).view(np.uint16))


def check_exp() -> float:
    x = np.linspace(-87, 87, 1 << 12, dtype=np.float32)
    out = np.empty_like(x)
    compiled(exponential, 3)[0](address(x), address(out), len(x))
    return float(np.abs(out / np.exp(x.astype(np.float64)) - 1).max())


def check_bytes(rng: np.random.Generator) -> None:
    v, table = rng.integers(0, 256, 64, dtype=np.uint8), rng.integers(0, 256, 16, dtype=np.uint8)
    v[1::4] &= 0x7B  # keep the float16 values finite
    out = np.empty(256, np.uint8)
    compiled(bytewise, 3)[0](address(v), address(table), address(out))
    np.testing.assert_array_equal(out[:64], table[v >> 4])
    np.testing.assert_array_equal(out[64:128], v >> 3)
    np.testing.assert_array_equal(out[128:192], (v.astype(int) << 5).astype(np.uint8))
    np.testing.assert_array_equal(out[192:224], np.unpackbits(v[:4], bitorder="little") * 255)
    halves = v.view(np.float16)[:16:2].astype(np.float32)
    np.testing.assert_array_equal(out[224:].view(np.float32), halves)


def check_gathers(rng: np.random.Generator) -> None:
    v, out = rng.integers(0, 256, 164, dtype=np.uint8), np.empty(288, np.uint8)
    compiled(gathered, 2)[0](address(v), address(out))
    at = 0
    for (n, _), starts in PLACES.items():
        expected = np.concatenate([v[start : start + n] for start in starts])
        np.testing.assert_array_equal(out[at : at + len(expected)], expected)
        at += len(expected)
    words, bits = v[:64].view(np.uint64), np.array(SHIFTS)
    expected = np.where(
        bits < 0,
        words << np.maximum(-bits, 0).astype(np.uint64),
        words >> np.maximum(bits, 0).astype(np.uint64),
    )
    np.testing.assert_array_equal(out[224:].view(np.uint64), expected)


def instructions(function) -> list[str]:
    """Return the instructions in the assembly of `function`, sorted."""
    cpu = target()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu.name, features=cpu.features, opt=3
    )
    text = machine.emit_assembly(llvm.parse_assembly(compiled(function, 4)[1].inspect_llvm()))
    return sorted(set(re.findall(r"^\t([a-z][a-z0-9]+)\b", text, re.M)))


if __name__ == "__main__":
    random = np.random.default_rng(0)
    check_dots(random)
    check_halves(random)
    check_bytes(random)
    check_gathers(random)
    report = {"exp": check_exp(), "dot": instructions(dot), "dot_small": instructions(dot_small)}
    print(json.dumps(report))
