"""Arithmetic on vectors: operators, dot products, conversions, and the helpers of quantized blocks.

If an operation's lowering differs between CPUs, it is in `emit`. Importing this module imports numba.
"""

import operator

from llvmlite import ir
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin

from llmlite.engine import emit
from llmlite.engine.vectors import Vec, f32, i32, i32x8, i32x16, i64

# ---- arithmetic --------------------------------------------------------------------------------------------

_INTEGER = {operator.add: "add", operator.sub: "sub", operator.mul: "mul",
            operator.and_: "and_", operator.or_: "or_", operator.xor: "xor"}  # fmt: skip
_FLOAT = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul"}


def _register_operator(op) -> None:
    @infer_global(op)
    class _SameVectors(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Vec) and args[0] == args[1]:
                return signature(args[0], *args)

    @lower_builtin(op, Vec, Vec)
    def _lower(context, builder, sig, args):
        names = _FLOAT if sig.return_type.element == "f32" else _INTEGER
        return getattr(builder, names[op])(*args)


for _op in _INTEGER:
    _register_operator(_op)


@infer_global(operator.neg)
class _Negated(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 1 and isinstance(args[0], Vec) and args[0].element == "f32":
            return signature(args[0], *args)


@lower_builtin(operator.neg, Vec)
def _negate(context, builder, sig, args):
    return builder.fneg(args[0])


@intrinsic
def divide(typing, a, b):
    """a / b, lane by lane (float32)."""

    def codegen(context, builder, sig, args):
        return builder.fdiv(*args)

    return a(a, b), codegen


@intrinsic
def fma(typing, a, b, c):
    """a·b + c, rounded once if the CPU can, else twice."""

    def codegen(context, builder, sig, args):
        return emit.fma(builder, *args, emit.current_target())

    return c(a, b, c), codegen


@intrinsic
def dot4(typing, acc, unsigned, signed):
    """acc[i] + Σⱼ unsigned[4i+j] · signed[4i+j] over j < 4, exact for every byte."""

    def codegen(context, builder, sig, args):
        return emit.dot4(builder, *args, emit.current_target())

    return acc(acc, unsigned, signed), codegen


@intrinsic
def dot4_small(typing, acc, unsigned, signed):
    """`dot4`, cheaper without VNNI, only for unsigned bytes below 128 (nibbles, 6-bit numbers)."""

    def codegen(context, builder, sig, args):
        return emit.dot4(builder, *args, emit.current_target(), small=True)

    return acc(acc, unsigned, signed), codegen


@intrinsic
def add_pairs(typing, a):
    """Add each block's two lanes: eight blocks in `emit.block_order` become lanes in file order."""

    def codegen(context, builder, sig, args):
        return emit.add_pairs(builder, args[0], emit.current_target())

    return i32x8(a), codegen


@intrinsic
def dot4_signed(typing, acc, shifted, signed):
    """acc[i] + Σⱼ (shifted[4i+j] − 128) · signed[4i+j] over j < 4; see `emit.dot4_signed`."""

    def codegen(context, builder, sig, args):
        return emit.dot4_signed(builder, *args, emit.current_target())

    return acc(acc, shifted, signed), codegen


@intrinsic(prefer_literal=True)
def shift_right(typing, a, bits):
    """Shift every lane, read as unsigned, by a literal number of bits."""
    n = bits.literal_value

    def codegen(context, builder, sig, args):
        return emit.shift_right(builder, args[0], n)

    return a(a, bits), codegen


@intrinsic(prefer_literal=True)
def shift_left(typing, a, bits):
    """Shift of every lane by a literal number of bits."""
    n = bits.literal_value

    def codegen(context, builder, sig, args):
        return emit.shift_left(builder, args[0], n)

    return a(a, bits), codegen


@intrinsic
def low_nibbles(typing, a):
    """a & 15, byte by byte."""

    def codegen(context, builder, sig, args):
        return builder.and_(args[0], emit.constant(a.llvm, 15))

    return a(a), codegen


@intrinsic
def high_nibbles(typing, a):
    """a >> 4, byte by byte."""

    def codegen(context, builder, sig, args):
        return emit.shift_right(builder, args[0], 4)

    return a(a), codegen


@intrinsic
def lookup16(typing, table, index):
    """table[index], byte by byte. `table` repeats 16 bytes (`repeat16_u8x64`); every index is below 16."""

    def codegen(context, builder, sig, args):
        return emit.lookup16(builder, *args, emit.current_target())

    return index(table, index), codegen


@intrinsic
def widen_u8(typing, a):
    """Convert bytes (0…255) to int32."""

    def codegen(context, builder, sig, args):
        return builder.zext(args[0], Vec("i32", a.n).llvm)

    return Vec("i32", a.n)(a), codegen


@intrinsic
def widen_i8(typing, a):
    """Convert bytes, read as -128…127, to int32."""

    def codegen(context, builder, sig, args):
        return builder.sext(args[0], Vec("i32", a.n).llvm)

    return Vec("i32", a.n)(a), codegen


@intrinsic
def narrow_u8(typing, a):
    """Return the low byte of every int32."""

    def codegen(context, builder, sig, args):
        return builder.trunc(args[0], Vec("u8", a.n).llvm)

    return Vec("u8", a.n)(a), codegen


@intrinsic
def to_f32(typing, a):
    """Convert int32 to float32, rounded to nearest."""

    def codegen(context, builder, sig, args):
        return builder.sitofp(args[0], Vec("f32", a.n).llvm)

    return Vec("f32", a.n)(a), codegen


@intrinsic
def half_to_f32(typing, a):
    """Convert half-precision bits (u16) to float32."""

    def codegen(context, builder, sig, args):
        return emit.half_to_float(builder, args[0], emit.current_target())

    return Vec("f32", a.n)(a), codegen


@intrinsic
def f32_to_half(typing, a):
    """Convert float32 to half-precision bits (u16), rounded to nearest even."""

    def codegen(context, builder, sig, args):
        return emit.float_to_half(builder, args[0], emit.current_target())

    return Vec("u16", a.n)(a), codegen


@intrinsic
def bfloat_to_f32(typing, a):
    """Convert bfloat16 bits (u16) to float32: the same bits, sixteen places higher."""

    def codegen(context, builder, sig, args):
        wide = builder.zext(args[0], Vec("i32", a.n).llvm)
        return builder.bitcast(emit.shift_left(builder, wide, 16), Vec("f32", a.n).llvm)

    return Vec("f32", a.n)(a), codegen


@intrinsic(prefer_literal=True)
def reinterpret(typing, a, kind):
    """Return the same bits as another element kind ("i32", "f32", "u8", "u16")."""
    element = kind.literal_value
    bits = {"u8": 8, "u16": 16, "i32": 32, "f32": 32}
    out = Vec(element, a.n * bits[a.element] // bits[element])

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], out.llvm)

    return out(a, kind), codegen


def _make_compare(predicate):
    @intrinsic
    def choose(typing, a, b):
        def codegen(context, builder, sig, args):
            if a.element == "f32":
                test = builder.fcmp_ordered(predicate, *args)
            else:
                test = builder.icmp_signed(predicate, *args)
            return builder.select(test, *args)

        return a(a, b), codegen

    return choose


maximum, minimum = _make_compare(">"), _make_compare("<")


@intrinsic
def choose_above(typing, a, b, yes, no):
    """Return `yes` in the lanes with a > b (signed or float), `no` in the others."""

    def codegen(context, builder, sig, args):
        test = (builder.fcmp_ordered if a.element == "f32" else builder.icmp_signed)(">", args[0], args[1])
        return builder.select(test, args[2], args[3])

    return yes(a, b, yes, no), codegen


@intrinsic
def choose_lane(typing, index, yes, no):
    """Return `yes` in lane `index` (any int64), `no` in all others."""

    def codegen(context, builder, sig, args):
        own = ir.Constant(ir.VectorType(emit.I32, no.n), list(range(no.n)))
        wanted = emit.splat(builder, builder.trunc(args[0], emit.I32), no.n)
        return builder.select(builder.icmp_signed("==", own, wanted), args[1], args[2])

    return no(i64, yes, no), codegen


@intrinsic
def counting_i32x16(typing):
    """0, 1, … 15."""

    def codegen(context, builder, sig, args):
        return ir.Constant(i32x16.llvm, list(range(16)))

    return i32x16(), codegen


@intrinsic
def absolute(typing, a):
    """Return |a| of float32 lanes: the sign bit is cleared."""

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(args[0], Vec("i32", a.n).llvm)
        return builder.bitcast(builder.and_(bits, emit.constant(bits.type, 0x7FFFFFFF)), a.llvm)

    return a(a), codegen


@intrinsic
def reduce_add(typing, a):
    """Return the sum of all lanes."""

    def codegen(context, builder, sig, args):
        return emit.reduce(builder, args[0], "fadd" if a.element == "f32" else "add")

    return (f32 if a.element == "f32" else i32)(a), codegen


@intrinsic
def reduce_max(typing, a):
    """Return the largest of float32 or int32 lanes."""

    def codegen(context, builder, sig, args):
        return emit.reduce(builder, args[0], "max" if a.element == "f32" else "imax")

    return (f32 if a.element == "f32" else i32)(a), codegen
