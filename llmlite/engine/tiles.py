"""Tiles of a matrix product: many sums held in registers, as one variable.

A tile has 2 × N vectors of sums. The vectors 2t and 2t + 1 belong to token t; their lanes are 32 rows of
weights. All vectors are one tuple, and loops over it run during compilation. Importing this module imports
numba.

In a matrix product the lanes are rows of weights; in attention they are positions or columns of the cache,
and queries take the place of tokens.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llmlite.engine import emit
from llmlite.engine.vectors import f32x8, f32x16, i32x16, i64


def make_transpose16(together):
    """Return an operation (source, stride, target, target_stride, part_stride).

    It writes 16 rows of 16 words of 32 bits, which are `stride` bytes apart, as columns. Columns come in
    groups of `together`: they are `target_stride` bytes apart, and groups are `part_stride` bytes apart.
    """

    @intrinsic
    def transpose16(typing, source, stride, target, target_stride, part_stride):
        def codegen(context, builder, sig, args):
            _emit_transpose(builder, *args, together)
            return context.get_dummy_value()

        return types.none(*[i64] * 5), codegen

    return transpose16


def _emit_transpose(builder, address, step, out, out_step, part_step, together):
    """Interleave words, then pairs of words, within 128 bits; then reorder the 128-bit parts."""
    kind = ir.VectorType(emit.I32, 16)

    def weave(a, b, unit):  # low, then high halves of each 128 bits of a and b, `unit` words in turn
        low = [lane + i + side for lane in (0, 4, 8, 12) for i in range(0, 2, unit)
               for side in (*range(unit), *range(16, 16 + unit))]  # fmt: skip
        return emit.shuffle(builder, a, b, low), emit.shuffle(builder, a, b, [i + 2 for i in low])

    def quarters(a, b, *of):  # two quarters of a, two of b
        places = [4 * q + i + side for side, q in zip((0, 0, 16, 16), of) for i in range(4)]
        return emit.shuffle(builder, a, b, places)

    places = [builder.add(address, builder.mul(step, emit.I64(r))) for r in range(16)]
    rows = [_load_at(builder, place, kind) for place in places]
    groups = []  # of four rows: vector j holds columns j, 4 + j, 8 + j, 12 + j of them
    for r in range(0, 16, 4):
        (a, b), (c, d) = weave(rows[r], rows[r + 1], 1), weave(rows[r + 2], rows[r + 3], 1)
        groups.append([*weave(a, c, 2), *weave(b, d, 2)])
    for j in range(4):
        first, second, third, fourth = (group[j] for group in groups)
        for half in (0, 2):
            p = quarters(first, second, half, half + 1, half, half + 1)
            q = quarters(third, fourth, half, half + 1, half, half + 1)
            for i in (0, 1):
                column = 4 * (half + i) + j
                place = builder.add(out, builder.mul(part_step, emit.I64(column // together)))
                place = builder.add(place, builder.mul(out_step, emit.I64(column % together)))
                found = quarters(p, q, i, i + 2, i, i + 2)
                builder.store(found, emit.pointer(builder, place, kind), align=4)


# Tokens of a product with quantized weights and with plain ones, and queries of attention. Their sums must
# fit 32 registers of 512 bits, or 16 of 256. Spilled sums cost AVX2 a third of its speed, and over half with
# VNNI.
QUANTIZED_TOKENS, FLOAT_TOKENS, QUERIES = (6, 6, 4) if emit.current_target().has("avx512f") else (2, 3, 2)


def _each(builder, packed):
    return [builder.extract_value(packed, i) for i in range(packed.type.count)]


def _packed(builder, vectors):
    array = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for i, vector in enumerate(vectors):
        array = builder.insert_value(array, vector, i)
    return array


def make_load_sums(n):
    """Return an operation (address) -> 2n vectors of float32, one after another."""

    @intrinsic
    def load_sums(typing, address):
        def codegen(context, builder, sig, args):
            base = emit.pointer(builder, args[0], f32x16.llvm)
            vectors = [builder.load(builder.gep(base, [emit.I64(i)]), align=4) for i in range(2 * n)]
            return _packed(builder, vectors)

        return types.UniTuple(f32x16, 2 * n)(i64), codegen

    return load_sums


def make_zero_sums(n, kind=f32x16):
    """Return an operation () -> 2n vectors of float32 (or another kind), all zero."""

    @intrinsic
    def zero_sums(typing):
        def codegen(context, builder, sig, args):
            return _packed(builder, [emit.constant(kind.llvm, 0)] * (2 * n))

        return types.UniTuple(kind, 2 * n)(), codegen

    return zero_sums


@intrinsic
def store_sums(typing, address, sums):
    """Write vectors of float32, one after another."""

    def codegen(context, builder, sig, args):
        base = emit.pointer(builder, args[0], f32x16.llvm)
        for i, vector in enumerate(_each(builder, args[1])):
            builder.store(vector, builder.gep(base, [emit.I64(i)]), align=4)
        return context.get_dummy_value()

    return types.none(i64, sums), codegen


def make_add_sums(n):
    """Return an operation (sums, address) -> 2n vectors of float32: the sums plus those at the address."""

    @intrinsic
    def add_sums(typing, sums, address):
        def codegen(context, builder, sig, args):
            base = emit.pointer(builder, args[1], f32x16.llvm)
            found = [builder.load(builder.gep(base, [emit.I64(i)]), align=4) for i in range(2 * n)]
            return _packed(builder, [builder.fadd(a, b) for a, b in zip(found, _each(builder, args[0]))])

        return sums(sums, i64), codegen

    return add_sums


@intrinsic
def add_vectors(typing, sums, others):
    """Return the sums plus the others, vector by vector."""

    def codegen(context, builder, sig, args):
        pairs = zip(_each(builder, args[0]), _each(builder, args[1]))
        return _packed(builder, [builder.fadd(a, b) for a, b in pairs])

    return sums(sums, others), codegen


def make_dots(n_rows, n_tokens, vector):
    """Return operations on n_rows × n_tokens vectors of sums: load, store, all zero, add.

    `add`: (sums, w, w_stride, x, x_stride) adds the products of a vector of each row and one of each token.
    """
    n, kind = n_rows * n_tokens, vector.llvm
    sums = types.UniTuple(vector, n)

    @intrinsic
    def load_dots(typing, address):
        def codegen(context, builder, sig, args):
            base = emit.pointer(builder, args[0], kind)
            found = [builder.load(builder.gep(base, [emit.I64(i)]), align=4) for i in range(n)]
            return _packed(builder, found)

        return sums(i64), codegen

    @intrinsic
    def store_dots(typing, address, dots):
        def codegen(context, builder, sig, args):
            base = emit.pointer(builder, args[0], kind)
            for i, found in enumerate(_each(builder, args[1])):
                builder.store(found, builder.gep(base, [emit.I64(i)]), align=4)
            return context.get_dummy_value()

        return types.none(i64, dots), codegen

    @intrinsic
    def no_dots(typing):
        def codegen(context, builder, sig, args):
            return _packed(builder, [emit.constant(kind, 0)] * n)

        return sums(), codegen

    @intrinsic
    def add_dots(typing, dots, w, w_stride, x, x_stride):
        def codegen(context, builder, sig, args):
            found, cpu = _each(builder, args[0]), emit.current_target()

            def loaded(base, stride, i):
                return _load_at(builder, builder.add(base, builder.mul(stride, emit.I64(i))), kind)

            tokens = [loaded(args[3], args[4], t) for t in range(n_tokens)]
            for r in range(n_rows):
                row = loaded(args[1], args[2], r)
                for t, token in enumerate(tokens):
                    i = r * n_tokens + t
                    found[i] = emit.fma(builder, row, token, found[i], cpu)
            return _packed(builder, found)

        return sums(sums, i64, i64, i64, i64), codegen

    return load_dots, store_dots, no_dots, add_dots


def make_store_folded(row_strides, half_stride):
    """Return an operation (out, sums): write 16 numbers, each the sum of sixteen lanes, as `reduce_add` adds.

    Args:
        row_strides: bytes from the sums of a row to those of the next one, and from four rows to the next.
        half_stride: bytes from lanes 0 to 7 of a row to lanes 8 to 15; 32 if they are side by side.
    """

    @intrinsic
    def store_folded(typing, out, sums):
        def codegen(context, builder, sig, args):
            def loaded(offset, kind):
                return _load_at(builder, builder.add(args[1], emit.I64(offset)), kind.llvm)

            def sixteen(offset):
                if half_stride == 32:
                    return loaded(offset, f32x16)
                halves = loaded(offset, f32x8), loaded(offset + half_stride, f32x8)
                return emit.shuffle(builder, *halves, range(16))

            offsets = [r % 4 * row_strides[0] + r // 4 * row_strides[1] for r in range(16)]
            folded = emit.fold_rows(builder, [sixteen(offset) for offset in offsets])
            builder.store(folded, emit.pointer(builder, args[0], folded.type), align=4)
            return context.get_dummy_value()

        return types.none(i64, i64), codegen

    return store_folded


@intrinsic
def store_four_folded(typing, out, a, b, c, d):
    """Write the sums of the lanes of four vectors of sixteen numbers, as `reduce_add` adds them."""

    def codegen(context, builder, sig, args):
        folded = emit.fold_rows(builder, list(args[1:]))
        builder.store(folded, emit.pointer(builder, args[0], folded.type), align=4)
        return context.get_dummy_value()

    return types.none(i64, a, b, c, d), codegen


def _load_at(builder, address, kind):
    return builder.load(emit.pointer(builder, address, kind), align=1)


def make_offset_products(n):
    """Return an operation (sums, stride, zero) -> 2n vectors of int32: -zero · Σq of each token."""

    @intrinsic
    def offset_products(typing, sums, stride, zero):
        def codegen(context, builder, sig, args):
            factor = builder.neg(builder.trunc(args[2], emit.I32))
            out = []
            for t in range(n):
                place = builder.add(args[0], builder.mul(args[1], emit.I64(t)))
                start = emit.splat(builder, builder.mul(_load_at(builder, place, emit.I32), factor), 16)
                out += [start, start]
            return _packed(builder, out)

        return types.UniTuple(i32x16, 2 * n)(i64, i64, i64), codegen

    return offset_products


def make_add_products(small, signed=False):
    """Return an operation (products, w0, w1, x, stride): dot products of four bytes, added up.

    The bytes of 32 rows are in w0 and w1; those of token t are at x + t·stride.

    Args:
        small: see `emit.dot4`.
        signed: whether the rows' bytes are signed.
    """

    @intrinsic
    def add_products(typing, products, w0, w1, x, stride):
        def codegen(context, builder, sig, args):
            sums, cpu = _each(builder, args[0]), emit.current_target()
            words = []
            for t in range(len(sums) // 2):
                place = builder.add(args[3], builder.mul(args[4], emit.I64(t)))
                word = emit.splat(builder, _load_at(builder, place, emit.I32), 16)
                words.append(builder.bitcast(word, args[1].type))
            if signed:
                return _packed(builder, _add_signed(builder, sums, args[1:3], words, cpu))
            for i, total in enumerate(sums):
                sums[i] = emit.dot4(builder, total, args[1 + i % 2], words[i // 2], cpu, small=small)
            return _packed(builder, sums)

        return products(products, w0, w1, x, stride), codegen

    return add_products


def _add_signed(builder, sums, weights, words, cpu):
    """Multiply each register of weights by all tokens before loading the next one, to need few registers."""
    halves = [[emit.half(builder, total, side) for side in (0, 1)] for total in sums]
    for i, side in ((0, 0), (0, 1), (1, 0), (1, 1)):
        w = emit.half(builder, weights[i], side)
        for t, word in enumerate(words):
            x, total = emit.half(builder, word, side), halves[2 * t + i][side]
            halves[2 * t + i][side] = emit.dot4_both_signed(builder, total, w, x, cpu)
    return [emit.shuffle(builder, *pair, range(2 * pair[0].type.count)) for pair in halves]


def make_subtract_minimums(n_parts, line):
    """Return an operation (sums, mins, x, stride): subtract minimum·(d·Σq) of each token from its sums.

    Each of a block's 32 rows has one minimum at `mins`, or two, `line` bytes apart. With two, a token also
    has two d·Σq, 32 bytes apart, and both products are added before they are subtracted.
    """

    @intrinsic
    def subtract_minimums(typing, sums, mins, x, stride):
        def codegen(context, builder, sig, args):
            totals, cpu = _each(builder, args[0]), emit.current_target()
            m = [_load_at(builder, builder.add(args[1], emit.I64(64 * i)), f32x16.llvm) for i in (0, 1)]
            more = [
                _load_at(builder, builder.add(args[1], emit.I64(64 * i + line)), f32x16.llvm) for i in (0, 1)
            ]
            for i, total in enumerate(totals):
                place = builder.add(args[2], builder.mul(args[3], emit.I64(i // 2)))
                factor = _load_at(builder, place, emit.F32)
                if n_parts == 1:
                    factor = emit.splat(builder, builder.fneg(factor), 16)
                    totals[i] = emit.fma(builder, m[i % 2], factor, total, cpu)
                    continue
                second = _load_at(builder, builder.add(place, emit.I64(32)), emit.F32)
                both = builder.fmul(m[i % 2], emit.splat(builder, factor, 16))
                both = emit.fma(builder, more[i % 2], emit.splat(builder, second, 16), both, cpu)
                totals[i] = builder.fsub(total, both)
            return _packed(builder, totals)

        return sums(sums, mins, x, stride), codegen

    return subtract_minimums


@intrinsic
def add_outer(typing, sums, v0, v1, x, stride):
    """Add v0, v1 (float32) times each token's number at x + t·stride to its sums."""

    def codegen(context, builder, sig, args):
        totals, cpu = _each(builder, args[0]), emit.current_target()
        for i, total in enumerate(totals):
            place = builder.add(args[3], builder.mul(args[4], emit.I64(i // 2)))
            factor = emit.splat(builder, _load_at(builder, place, emit.F32), 16)
            totals[i] = emit.fma(builder, args[1 + i % 2], factor, total, cpu)
        return _packed(builder, totals)

    return sums(sums, v0, v1, x, stride), codegen


@intrinsic
def scale_sums(typing, sums, x, stride):
    """Multiply each token's sums by its number at x + t·stride."""

    def codegen(context, builder, sig, args):
        totals = _each(builder, args[0])
        for i, total in enumerate(totals):
            place = builder.add(args[1], builder.mul(args[2], emit.I64(i // 2)))
            totals[i] = builder.fmul(total, emit.splat(builder, _load_at(builder, place, emit.F32), 16))
        return _packed(builder, totals)

    return sums(sums, x, stride), codegen


@intrinsic
def add_scaled(typing, sums, products, s0, s1, scales, stride):
    """Add products · weight scales (s0, s1) · the token's scale at scales + t·stride to each token's sums."""

    def codegen(context, builder, sig, args):
        totals, cpu = _each(builder, args[0]), emit.current_target()
        for i, product in enumerate(_each(builder, args[1])):
            place = builder.add(args[4], builder.mul(args[5], emit.I64(i // 2)))
            scale = emit.splat(builder, _load_at(builder, place, emit.F32), 16)
            both = builder.fmul(args[2 + i % 2], scale)
            totals[i] = emit.fma(builder, builder.sitofp(product, both.type), both, totals[i], cpu)
        return _packed(builder, totals)

    return sums(sums, products, s0, s1, scales, stride), codegen
