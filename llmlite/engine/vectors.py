"""Vectors in numba: types that are LLVM vectors, their loads and stores, and operations that rearrange them.

A vector is a local variable, in registers. Addresses are plain integers, so `load_u8x32(w + 2)` reads 32
bytes from the address `w + 2`; no alignment is assumed anywhere. Operators `+ - * & | ^` work lane by lane on
equal types (`arithmetic`).

The target's features alone decide, during compilation, which instructions are used. An intrinsic of a missing
extension would abort the process, so every operation has a neutral form that any CPU runs (see `emit`).

`llmlite.engine.simd` gathers these names for kernels. Importing this module imports numba.
"""

import functools

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from llmlite.engine import emit

# No fast-math flag: two kernels must give the same bits, so LLVM may not reorder additions, nor turn a
# multiplication and an addition into one instruction. Kernels write `fma` themselves. The flag is set
# explicitly, because numba passes the caller's flags on to a helper that names none.
OPTIONS = {"error_model": "numpy", "fastmath": False}
inline = functools.partial(numba.njit, forceinline=True, **OPTIONS)

_ELEMENTS = {
    "u8": emit.I8, "u16": emit.I16, "i32": emit.I32, "f16": ir.HalfType(), "f32": emit.F32,
}  # fmt: skip


class Vec(types.Type):
    """The numba type of a vector: `n` elements of kind "u8", "u16", "i32", "f16" or "f32"."""

    def __init__(self, element: str, n: int) -> None:
        self.element, self.n = element, n
        super().__init__(name=f"{element}x{n}")

    @property
    def llvm(self) -> ir.VectorType:
        return ir.VectorType(_ELEMENTS[self.element], self.n)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


u8x4, u8x8, u8x16, u8x32, u8x64 = (Vec("u8", n) for n in (4, 8, 16, 32, 64))
u16x8, u16x16, u16x32 = (Vec("u16", n) for n in (8, 16, 32))
i32x8, i32x16 = Vec("i32", 8), Vec("i32", 16)
f32x8, f32x16 = Vec("f32", 8), Vec("f32", 16)
f32 = types.float32
i32 = types.int32
i64 = types.int64


# ---- memory ------------------------------------------------------------------------------------------------


def _make_load(vec: Vec):
    @intrinsic
    def load(typing, address):
        def codegen(context, builder, sig, args):
            return builder.load(emit.pointer(builder, args[0], vec.llvm), align=1)

        return vec(i64), codegen

    return load


load_u8x8, load_u8x16, load_u8x32, load_u8x64 = map(_make_load, (u8x8, u8x16, u8x32, u8x64))
load_u16x8, load_u16x16, load_u16x32 = map(_make_load, (u16x8, u16x16, u16x32))
load_i32x8, load_i32x16 = map(_make_load, (i32x8, i32x16))
load_f32x8, load_f32x16 = map(_make_load, (f32x8, f32x16))


def _make_scalar_load(kind, llvm_type):
    @intrinsic
    def load(typing, address):
        def codegen(context, builder, sig, args):
            return builder.load(emit.pointer(builder, args[0], llvm_type), align=1)

        return kind(i64), codegen

    return load


load_u8 = _make_scalar_load(types.uint8, emit.I8)
load_i8 = _make_scalar_load(types.int8, emit.I8)
load_u16 = _make_scalar_load(types.uint16, emit.I16)
load_i32 = _make_scalar_load(types.int32, emit.I32)
load_i64 = _make_scalar_load(i64, emit.I64)
load_f32 = _make_scalar_load(f32, emit.F32)
load_f64 = _make_scalar_load(types.float64, ir.DoubleType())


@intrinsic
def load_f16(typing, address):
    """Load one half-precision number as float32."""

    def codegen(context, builder, sig, args):
        bits = builder.load(emit.pointer(builder, args[0], emit.I16), align=1)
        return emit.half_to_float(builder, bits, emit.current_target())

    return f32(i64), codegen


@intrinsic
def store(typing, address, value):
    """Write a vector or a scalar, in its own width."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], emit.pointer(builder, args[0], args[1].type), align=1)
        return context.get_dummy_value()

    return types.none(i64, value), codegen


@intrinsic
def prefetch(typing, address):
    """Prefetch the cache line of `address`; any address is allowed, even past the end of a mapping."""

    def codegen(context, builder, sig, args):
        emit.prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.none(i64), codegen


# ---- making vectors ----------------------------------------------------------------------------------------


def _make_splat(vec: Vec, scalar):
    @intrinsic
    def splat(typing, value):
        def codegen(context, builder, sig, args):
            value = context.cast(builder, args[0], sig.args[0], scalar)
            return emit.splat(builder, value, vec.n)

        return vec(value), codegen

    return splat


splat_f32x16, splat_f32x8 = _make_splat(f32x16, f32), _make_splat(f32x8, f32)
splat_i32x16, splat_i32x8 = _make_splat(i32x16, i32), _make_splat(i32x8, i32)
splat_u8x64, splat_u8x32 = _make_splat(u8x64, types.uint8), _make_splat(u8x32, types.uint8)
splat_u8x16 = _make_splat(u8x16, types.uint8)
splat_u16x16 = _make_splat(u16x16, types.uint16)


@intrinsic
def repeat4_u8x64(typing, address):
    """Return the four bytes at `address`, sixteen times."""

    def codegen(context, builder, sig, args):
        word = builder.load(emit.pointer(builder, args[0], emit.I32), align=1)
        return builder.bitcast(emit.splat(builder, word, 16), u8x64.llvm)

    return u8x64(i64), codegen


@intrinsic
def repeat16_u8x64(typing, table):
    """Return the 16 bytes of `table` in every quarter, as `lookup16` needs it."""

    def codegen(context, builder, sig, args):
        return emit.shuffle(builder, args[0], args[0], list(range(16)) * 4)

    return u8x64(u8x16), codegen


def make_shuffle(indices):
    """Return an operation (a, b) -> vector of the lanes `indices` of a followed by b."""
    indices = list(indices)

    @intrinsic
    def shuffle(typing, a, b):
        def codegen(context, builder, sig, args):
            return emit.shuffle(builder, args[0], args[1], indices)

        return Vec(a.element, len(indices))(a, b), codegen

    return shuffle


@intrinsic
def concat(typing, a, b):
    """Return the lanes of a, then the lanes of b."""

    def codegen(context, builder, sig, args):
        return emit.shuffle(builder, args[0], args[1], range(2 * a.n))

    return Vec(a.element, 2 * a.n)(a, b), codegen


@intrinsic
def low_half(typing, a):
    """Return the first half of the lanes."""

    def codegen(context, builder, sig, args):
        return emit.shuffle(builder, args[0], args[0], range(a.n // 2))

    return Vec(a.element, a.n // 2)(a), codegen


@intrinsic
def high_half(typing, a):
    """Return the second half of the lanes."""

    def codegen(context, builder, sig, args):
        return emit.shuffle(builder, args[0], args[0], range(a.n // 2, a.n))

    return Vec(a.element, a.n // 2)(a), codegen


@intrinsic(prefer_literal=True)
def lane(typing, a, index):
    """Return lane `index` (a literal) as a scalar."""
    position = index.literal_value
    kind = {"f32": f32, "i32": i32, "u8": types.uint8, "u16": types.uint16}[a.element]

    def codegen(context, builder, sig, args):
        return builder.extract_element(args[0], emit.I32(position))

    return kind(a, index), codegen


@intrinsic
def lane_at(typing, a, index):
    """Return lane `index` (any int64) as a scalar; slower than `lane`."""
    kind = {"f32": f32, "i32": i32, "u8": types.uint8, "u16": types.uint16}[a.element]

    def codegen(context, builder, sig, args):
        return builder.extract_element(args[0], args[1])

    return kind(a, i64), codegen
