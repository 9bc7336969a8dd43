"""Vectors of quantized blocks: bytes gathered from several places, shifts by constants, bits spread to bytes.

If an operation's lowering differs between CPUs, it is in `emit`. Importing this module imports numba.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmlite.engine import emit
from llmlite.engine.vectors import Vec, f32, f32x8, i32, i64, u8x8, u8x16, u8x32, u16x8


@intrinsic
def bytes8(typing, word):
    """Return the eight bytes of an int64, lowest first."""

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], u8x8.llvm)

    return u8x8(i64), codegen


def make_pieces(starts, n_bytes, windows):
    """Return an operation (address) -> the `n_bytes` bytes at each of `starts`, side by side, as u8.

    `windows` are offsets from the address at which 64 bytes may be read; every piece lies in one of them.
    """
    starts = list(starts)
    out = Vec("u8", len(starts) * n_bytes)

    @intrinsic
    def pieces(typing, address):
        def codegen(context, builder, sig, args):
            return emit.load_pieces(builder, args[0], starts, n_bytes, windows, emit.current_target())

        return out(i64), codegen

    return pieces


def make_half8(first, stride, windows=()):
    """Return an operation (address) -> f32x8 of half-precision numbers, `stride` bytes apart from `first` on.

    `windows`: see `make_pieces`; without windows, each number is loaded separately.
    """
    starts = [first + i * stride for i in range(8)]

    @intrinsic
    def half8(typing, address):
        def codegen(context, builder, sig, args):
            target = emit.current_target()
            found = emit.load_pieces(builder, args[0], starts, 2, windows, target)
            return emit.half_to_float(builder, builder.bitcast(found, u16x8.llvm), target)

        return f32x8(i64), codegen

    return half8


def _make_word_operation(emitted):
    """Return a maker (bits) -> operation that applies to each 64-bit word the word's own constant."""

    def make(bits):
        bits = list(bits)

        @intrinsic
        def each_word(typing, a):
            def codegen(context, builder, sig, args):
                return emitted(builder, args[0], bits)

            return a(a), codegen

        return each_word

    return make


# Unsigned shift and rotation of each word by its number of bits: to the right if positive, else to the left.
make_shift_words, make_turn_words = map(_make_word_operation, (emit.shift_words, emit.turn_words))
# Unsigned shift of each lane to the right by its number of bits.
make_shift_lanes = _make_word_operation(emit.shift_lanes)


@intrinsic
def scatter_words(typing, vector, address, stride):
    """Write the 32-bit words of a vector of bytes, or the lanes of any other, `stride` bytes apart."""

    def codegen(context, builder, sig, args):
        words = args[0]
        if vector.element == "u8":
            words = builder.bitcast(words, ir.VectorType(emit.I32, vector.n // 4))
        place, kind = args[1], words.type.element
        for i in range(words.type.count):
            word = builder.extract_element(words, emit.I32(i))
            builder.store(word, emit.pointer(builder, place, kind), align=1)
            place = builder.add(place, args[2])
        return context.get_dummy_value()

    return types.none(vector, i64, i64), codegen


@intrinsic
def scatter_bytes(typing, vector, address, stride):
    """Write the lanes of a vector of bytes, `stride` bytes apart."""

    def codegen(context, builder, sig, args):
        for i in range(vector.n):
            place = builder.add(args[1], builder.mul(args[2], emit.I64(i)))
            byte = builder.extract_element(args[0], emit.I32(i))
            builder.store(byte, emit.pointer(builder, place, emit.I8), align=1)
        return context.get_dummy_value()

    return types.none(vector, i64, i64), codegen


@intrinsic
def table16(typing, low, high):
    """Make sixteen bytes of two int64: a table for `lookup16`, in the first u8x16."""

    def codegen(context, builder, sig, args):
        pair = ir.Constant(ir.VectorType(emit.I64, 2), ir.Undefined)
        for i in (0, 1):
            pair = builder.insert_element(pair, args[i], emit.I32(i))
        return builder.bitcast(pair, u8x16.llvm)

    return u8x16(i64, i64), codegen


@intrinsic
def spread_bits(typing, word):
    """Return bit j of an int32 as 0 or 255 in byte j."""

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(args[0], ir.VectorType(ir.IntType(1), 32))
        return builder.sext(bits, u8x32.llvm)

    return u8x32(i32), codegen


def make_bit_of_byte(value):
    """Return an operation on bytes: `value` in each lane i whose bit i % 8 is set, 0 in the others."""

    @intrinsic
    def bit_of_byte(typing, a):
        def codegen(context, builder, sig, args):
            own = ir.Constant(a.llvm, [1 << i % 8 for i in range(a.n)])
            found = builder.icmp_unsigned("!=", builder.and_(args[0], own), emit.constant(a.llvm, 0))
            return builder.select(found, emit.constant(a.llvm, value), emit.constant(a.llvm, 0))

        return a(a), codegen

    return bit_of_byte


@intrinsic
def float_of_bits(typing, bits):
    """Return the float32 with these bits."""

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], emit.F32)

    return f32(i32), codegen


@intrinsic
def shift_any(typing, a, bits):
    """Shift unsigned bytes to the right by `bits`, -7…7 (negative: to the left), which may be a variable."""
    words = ir.VectorType(emit.I16, a.n // 2)

    def codegen(context, builder, sig, args):
        # shift 16-bit lanes, because x86 can't shift bytes, and mask off the neighbour's bits
        n = context.cast(builder, args[1], sig.args[1], i64)
        right = builder.select(builder.icmp_signed("<", n, emit.I64(0)), emit.I64(0), n)
        left = builder.sub(right, n)
        v = builder.bitcast(args[0], words)
        v = builder.lshr(v, emit.splat(builder, builder.trunc(right, emit.I16), words.count))
        v = builder.shl(v, emit.splat(builder, builder.trunc(left, emit.I16), words.count))
        mask = builder.lshr(emit.I64(255), right)
        mask = builder.trunc(builder.and_(builder.shl(mask, left), emit.I64(255)), emit.I8)
        return builder.and_(builder.bitcast(v, a.llvm), emit.splat(builder, mask, a.n))

    return a(a, bits), codegen
