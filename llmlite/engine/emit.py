"""LLVM instructions for the vector vocabulary: pure llvmlite, one function per operation that differs between
CPUs.

Each function takes the builder, values and, if it matters, the `Target`, whose features alone decide. LLVM
aborts the process on an intrinsic of an extension that the target doesn't have, so everything also has a form
in neutral IR.
"""

import llvmlite.binding as llvm
from llvmlite import ir

from llmlite.engine.cpu import Target, target

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32 = ir.FloatType()
current_target = target


def constant(kind: ir.VectorType, value) -> ir.Constant:
    """Return a vector with `value` in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def shuffle(builder, a, b, indices):
    """Return the lanes `indices` of a followed by b."""
    indices = list(indices)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(indices)), indices))


def splat(builder, value, n: int):
    """Return the scalar `value` in n lanes."""
    empty = ir.Constant(ir.VectorType(value.type, n), ir.Undefined)
    return shuffle(builder, builder.insert_element(empty, value, I32(0)), empty, [0] * n)


def shift_right(builder, a, bits: int):
    """Shift every lane to the right, unsigned."""
    return builder.lshr(a, constant(a.type, bits)) if bits else a


def shift_words(builder, a, bits):
    """Shift each 64-bit word by its own constant, unsigned: to the right, or if negative to the left."""
    words = ir.VectorType(I64, len(bits))
    value = builder.bitcast(a, words)
    for shift, counts in (
        (builder.lshr, [max(n, 0) for n in bits]),
        (builder.shl, [max(-n, 0) for n in bits]),
    ):
        if any(counts):
            value = shift(value, ir.Constant(words, counts))
    return builder.bitcast(value, a.type)


def shift_lanes(builder, a, bits):
    """Shift each lane to the right by its own constant, unsigned."""
    return builder.lshr(a, ir.Constant(a.type, list(bits)))


def turn_words(builder, a, bits):
    """Rotate each 64-bit word to the right by its own constant; one instruction with AVX-512."""
    words = ir.VectorType(I64, len(bits))
    value, counts = builder.bitcast(a, words), ir.Constant(words, [n % 64 for n in bits])
    return builder.bitcast(_call(builder, f"llvm.fshr.{_suffix(words)}", words, value, value, counts), a.type)


def shift_left(builder, a, bits: int):
    """Shift every lane to the left."""
    return builder.shl(a, constant(a.type, bits)) if bits else a


def _call(builder, name: str, result, *args):
    kind = ir.FunctionType(result, [a.type for a in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, args)


def pointer(builder, address, pointee):
    """Return the integer `address` as a pointer to the LLVM type `pointee`.

    LLVM turns base + offset into a displacement by `base` from the "pointer" `offset`. If the offset is known
    to be 0 (in a loop's first round), this is a displacement from the null pointer. No program may access
    memory there, so LLVM deletes the access. The attribute declares that address 0 is valid.
    """
    set.add(builder.function.attributes, "null_pointer_is_valid")  # llvmlite's own `add` doesn't know it
    return builder.inttoptr(address, pointee.as_pointer())


def prefetch(builder, address) -> None:
    """Prefetch the cache line of an integer address into every cache level, for reading."""
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer(builder, address, I8), I32(0), I32(3), I32(1))


def fma(builder, a, b, c, cpu: Target):
    """Return a·b + c. If the CPU has no such instruction, multiply and add, because LLVM would call a library
    function for each lane.
    """
    if cpu.architecture == "x86" and not cpu.has("fma"):
        return builder.fadd(builder.fmul(a, b), c)
    return _call(builder, f"llvm.fma.{_suffix(a.type)}", a.type, a, b, c)


def _suffix(kind) -> str:
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_suffix(kind.element)}"
    return "f32" if kind == F32 else f"i{kind.width}"


def reduce(builder, a, operation: str):
    """Fold the lanes by halves: "add", "fadd", "max" (of floats) or "imax" (of signed integers)."""
    n = a.type.count
    while n > 1:
        n //= 2
        low, high = shuffle(builder, a, a, range(n)), shuffle(builder, a, a, range(n, 2 * n))
        if operation == "max":
            a = builder.select(builder.fcmp_ordered(">", low, high), low, high)
        elif operation == "imax":
            a = builder.select(builder.icmp_signed(">", low, high), low, high)
        else:
            a = getattr(builder, operation)(low, high)
    return builder.extract_element(a, I32(0))


def fold_rows(builder, rows):
    """Return a vector with the sum of each vector of `rows`: 4 or 16 vectors of sixteen numbers.

    The bits are those of `reduce` with "fadd": the same lanes are added in the same order, but those of
    several vectors at once. Sixteen sums take 45 instructions instead of about 140.
    """
    if len(rows) == 16:  # the last two steps stay within 128 bits, and leave the results in this order
        rows = [rows[i % 4 * 4 + i // 4] for i in range(16)]

    def add(low, distance, a, b):  # the lanes `low` of a and b, and the lanes at a distance from them
        return builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, [i + distance for i in low]))

    def add_pairs(low, distance, vectors):
        return [add(low, distance, a, b) for a, b in zip(vectors[::2], vectors[1::2])]

    parts = range(0, 16, 4)  # lanes where 128 bits begin
    eights = add_pairs([*range(8), *range(16, 24)], 8, rows)
    fours = add_pairs([begin + i for begin in range(0, 32, 8) for i in range(4)], 4, eights)
    pairs = [begin + i for begin in parts for i in (0, 1, 16, 17)]
    if len(rows) == 4:
        twos = add(pairs, 2, *fours, *fours)
        return add(parts, 1, twos, twos)
    (folded,) = add_pairs(
        [begin + i for begin in parts for i in (0, 2, 16, 18)], 1, add_pairs(pairs, 2, fours)
    )
    return folded


def block_order(cpu: Target) -> tuple[int, ...]:
    """Return the order in which the eight blocks of 256 activations are written side by side for one token.

    With AVX-512, loading pieces of weights costs the same for any place. Otherwise the even blocks come
    first, because the low nibbles of a vector of K-quants, and the high ones, are a vector each.
    """
    return tuple(range(8)) if cpu.has("avx512f") else (0, 2, 4, 6, 1, 3, 5, 7)


def add_pairs(builder, a, cpu: Target):
    """Return the sums of lanes 2i and 2i + 1 of 16 integers in `block_order`: eight blocks in file order."""
    if cpu.has("avx512f"):  # shift, add, narrow
        words = builder.bitcast(a, ir.VectorType(I64, 8))
        words = builder.add(words, builder.lshr(words, constant(words.type, 32)))
        return builder.trunc(words, ir.VectorType(I32, 8))
    # add within 128 bits, which takes one instruction; then swap the middle ones
    halves = [[i + j for j in (0, 2, 8, 10, 4, 6, 12, 14)] for i in (0, 1)]
    a = builder.add(*(shuffle(builder, a, a, half) for half in halves))
    return shuffle(builder, a, a, [0, 2, 1, 3, 4, 6, 5, 7])


# ---- bytes gathered from constant places -------------------------------------------------------------------

WINDOW = 64  # bytes of the widest register


def load_pieces(builder, address, starts, n_bytes: int, windows, cpu: Target):
    """Return `n_bytes` (1, 2, 4 or 8) bytes from address + start for each of `starts`, side by side.

    Args:
        windows: offsets from `address` at which 64 bytes may be read; every piece lies in one of them. With
            AVX-512, loads and permutations of these replace a load and an insertion for every piece.
    """
    origin = [start + i for start in starts for i in range(n_bytes)]  # of each byte of the result
    even = n_bytes % 2 == 0 and all(place % 2 == 0 for place in (*starts, *windows))
    unit = 2 if even and cpu.has("avx512bw") else 1 if cpu.has("avx512vbmi") else 0
    if not unit or not windows or len(windows) > len(starts) // 2:
        word = ir.IntType(8 * n_bytes)
        vector = ir.Constant(ir.VectorType(word, len(starts)), ir.Undefined)
        for i, start in enumerate(starts):
            place = pointer(builder, builder.add(address, I64(start)), word)
            vector = builder.insert_element(vector, builder.load(place, align=1), I32(i))
        return builder.bitcast(vector, ir.VectorType(I8, len(starts) * n_bytes))
    lanes = ir.VectorType(ir.IntType(8 * unit), WINDOW // unit)
    origin = origin[::unit]
    result, missing = None, set(range(len(origin)))
    for place in windows:
        window = builder.load(pointer(builder, builder.add(address, I64(place)), lanes), align=1)
        here = {i for i in missing if place <= origin[i] <= place + WINDOW - unit}
        missing -= here
        if result is None:
            source = [(at - place) // unit if i in here else 0 for i, at in enumerate(origin)]
            result = window
        else:
            source = [lanes.count + (at - place) // unit if i in here else i for i, at in enumerate(origin)]
        source += [0] * (lanes.count - len(source))
        result = shuffle(builder, result, window, source)
    if missing:
        raise ValueError(f"bytes {[origin[i] for i in sorted(missing)]} lie in none of the windows {windows}")
    if len(origin) < lanes.count:
        result = shuffle(builder, result, result, range(len(origin)))
    return builder.bitcast(result, ir.VectorType(I8, len(starts) * n_bytes))


# ---- int8 dot product --------------------------------------------------------------------------------------


def dot4(builder, acc, unsigned, signed, cpu: Target, *, small: bool = False):
    """Return acc[i] + Σⱼ unsigned[4i+j] · signed[4i+j], j < 4, exactly; `small` promises unsigned < 128.

    Args:
        acc: n × i32.
        unsigned, signed: 4n × i8.
        cpu: decides the instruction: VNNI's vpdpbusd, AVX2's vpmaddubsw / vpmaddwd, ARM's sdot / usdot, or
            neutral IR.
    """
    n = acc.type.count
    widest = _widest_dot(cpu)
    if widest and n > widest:  # wider than the CPU's registers: two halves
        parts = [
            dot4(builder, *(half(builder, v, side) for v in (acc, unsigned, signed)), cpu, small=small)
            for side in (0, 1)
        ]
        return shuffle(builder, *parts, range(n))
    if cpu.dot_bits and n >= 4:
        operands = (acc, unsigned, signed)
        if llvm.llvm_version_info[0] < 22:  # the byte operands were typed as i32 vectors before
            operands = (acc, *(builder.bitcast(v, acc.type) for v in (unsigned, signed)))
        return _call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * n}", acc.type, *operands)
    if widest and cpu.architecture == "x86":
        return builder.add(acc, _dot4_avx2(builder, unsigned, signed, small))
    if widest:
        return _dot4_arm(builder, acc, unsigned, signed, cpu, small)
    return _dot4_neutral(builder, acc, unsigned, signed)


def dots_signed(cpu: Target) -> bool:
    """Return whether `dot4_signed` is cheaper than `dot4` for quants that use all values of a byte."""
    if cpu.architecture == "x86":
        return cpu.has("avx2") and not cpu.has("avx512bw") and not cpu.dot_bits
    return cpu.architecture == "arm" and cpu.has("dotprod") and not cpu.has("i8mm")


def dot4_signed(builder, acc, shifted, signed, cpu: Target):
    """Return acc[i] + Σⱼ (shifted[4i+j] − 128) · signed[4i+j], j < 4, exactly; see `dot4_both_signed`."""
    return dot4_both_signed(builder, acc, builder.xor(shifted, constant(shifted.type, -128)), signed, cpu)


def dot4_both_signed(builder, acc, w, signed, cpu: Target):
    """Return acc[i] + Σⱼ w[4i+j] · signed[4i+j], j < 4, exactly, for signed ≥ −127. Needs `dots_signed`.

    AVX2 multiplies unsigned by signed bytes, so it multiplies |w| by x·sign(w): a pair is at most
    128·127·2 < 2¹⁵.
    """
    n, widest = acc.type.count, _widest_dot(cpu)
    if n > widest:
        parts = [
            dot4_both_signed(builder, *(half(builder, v, side) for v in (acc, w, signed)), cpu)
            for side in (0, 1)
        ]
        return shuffle(builder, *parts, range(n))
    if cpu.architecture == "arm":
        return _call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", acc.type, acc, w, signed)
    size = builder.select(builder.icmp_signed("<", w, constant(w.type, 0)), builder.neg(w), w)
    turned = _call(builder, "llvm.x86.avx2.psign.b", w.type, signed, w)
    return builder.add(acc, _dot4_avx2(builder, size, turned, small=True))


def _widest_dot(cpu: Target) -> int:
    """Return the lanes of int32 of the target's own instruction, or 0 if it has none that we use."""
    if cpu.dot_bits:
        return cpu.dot_bits // 32
    if cpu.architecture == "x86":
        return 16 if cpu.has("avx512bw") else 8 if cpu.has("avx2") else 0
    return 4 if cpu.architecture == "arm" and cpu.has("dotprod") else 0


def half(builder, v, side: int):
    """Return the lower (side 0) or the upper lanes."""
    n = v.type.count // 2
    return shuffle(builder, v, v, range(side * n, side * n + n))


def _dot4_avx2(builder, unsigned, signed, small: bool):
    """Return the sums by vpmaddubsw if pairs can't saturate, else of even and odd bytes by vpmaddwd."""
    n = unsigned.type.count
    words, sums = ir.VectorType(I16, n // 2), ir.VectorType(I32, n // 4)
    madd_wd = "llvm.x86.avx512.pmaddw.d.512" if n == 64 else "llvm.x86.avx2.pmadd.wd"
    if n < 32:
        return _dot4_neutral(builder, constant(sums, 0), unsigned, signed)
    if small:  # 127·127·2 < 2¹⁵
        madd_ubsw = "llvm.x86.avx512.pmaddubs.w.512" if n == 64 else "llvm.x86.avx2.pmadd.ub.sw"
        pairs = _call(builder, madd_ubsw, words, unsigned, signed)
        return _call(builder, madd_wd, sums, pairs, constant(words, 1))
    u, s = builder.bitcast(unsigned, words), builder.bitcast(signed, words)
    eight = constant(words, 8)
    even = _call(
        builder,
        madd_wd,
        sums,
        builder.and_(u, constant(words, 255)),
        builder.ashr(builder.shl(s, eight), eight),
    )
    odd = _call(builder, madd_wd, sums, builder.lshr(u, eight), builder.ashr(s, eight))
    return builder.add(even, odd)


def _dot4_arm(builder, acc, unsigned, signed, cpu: Target, small: bool):
    """Return the sums by usdot (i8mm), or by sdot, which reads both sides as signed.

    If unsigned bytes may be 128 or more, two sdots compute u = (u − 128) + 128.
    """

    def sdot(acc, a, b, name="sdot"):
        return _call(builder, f"llvm.aarch64.neon.{name}.v4i32.v16i8", acc.type, acc, a, b)

    if small:
        return sdot(acc, unsigned, signed)
    if cpu.has("i8mm"):
        return sdot(acc, unsigned, signed, "usdot")
    shifted = builder.xor(unsigned, constant(unsigned.type, -128))
    sums = sdot(constant(acc.type, 0), constant(signed.type, 1), signed)
    return sdot(builder.add(acc, shift_left(builder, sums, 7)), shifted, signed)


def _dot4_neutral(builder, acc, unsigned, signed):
    """Return the sums in plain integer arithmetic, with shifts for byte j of every 32-bit lane."""
    u, s = builder.bitcast(unsigned, acc.type), builder.bitcast(signed, acc.type)
    for j in range(4):
        u_j = builder.and_(shift_right(builder, u, 8 * j), constant(acc.type, 255))
        s_j = builder.ashr(shift_left(builder, s, 24 - 8 * j), constant(acc.type, 24))
        acc = builder.add(acc, builder.mul(u_j, s_j))
    return acc


# ---- table of 16 bytes -------------------------------------------------------------------------------------


def lookup16(builder, table, index, cpu: Target):
    """Return table[index] within each 16 bytes: by pshufb if the CPU has it, else by a choice per bit."""
    n = index.type.count
    if cpu.architecture == "x86" and cpu.has("ssse3"):
        widest = 64 if cpu.has("avx512bw") else 32 if cpu.has("avx2") else 16
        if n > widest:
            parts = [
                lookup16(builder, half(builder, table, side), half(builder, index, side), cpu)
                for side in (0, 1)
            ]
            return shuffle(builder, *parts, range(n))
        names = {
            64: "llvm.x86.avx512.pshuf.b.512",
            32: "llvm.x86.avx2.pshuf.b",
            16: "llvm.x86.ssse3.pshuf.b.128",
        }
        return _call(builder, names[n], index.type, table, index)
    level = [splat(builder, builder.extract_element(table, I32(i)), n) for i in range(16)]
    for bit in range(4):
        odd = builder.icmp_unsigned(
            "!=", builder.and_(index, constant(index.type, 1 << bit)), constant(index.type, 0)
        )
        level = [builder.select(odd, level[i + 1], level[i]) for i in range(0, len(level), 2)]
    return level[0]


# ---- half precision ----------------------------------------------------------------------------------------


def _has_half(cpu: Target) -> bool:
    return cpu.architecture == "arm" or cpu.has("f16c") or cpu.has("avx512f")


def _like(bits, scalar):
    """Return the type `scalar` with as many lanes as `bits`."""
    return ir.VectorType(scalar, bits.type.count) if isinstance(bits.type, ir.VectorType) else scalar


def _all(kind, value):
    return constant(kind, value) if isinstance(kind, ir.VectorType) else kind(value)


def half_to_float(builder, bits, cpu: Target):
    """Convert half-precision bits (i16, scalar or vector) to float32.

    Without F16C, move exponent and fraction into place, scale by 2¹¹² (which is also right for subnormals),
    and give infinities and NaNs an exponent of ones.
    """
    floats = _like(bits, F32)
    if _has_half(cpu):
        return builder.fpext(builder.bitcast(bits, _like(bits, ir.HalfType())), floats)
    words = _like(bits, I32)
    wide = builder.zext(bits, words)
    magnitude = builder.shl(builder.and_(wide, _all(words, 0x7FFF)), _all(words, 13))
    scaled = builder.fmul(builder.bitcast(magnitude, floats), _all(floats, 2.0**112))
    special = builder.icmp_unsigned(">=", builder.and_(wide, _all(words, 0x7C00)), _all(words, 0x7C00))
    ones = builder.or_(magnitude, _all(words, 0x7F800000))
    value = builder.select(special, ones, builder.bitcast(scaled, words))
    sign = builder.shl(builder.and_(wide, _all(words, 0x8000)), _all(words, 16))
    return builder.bitcast(builder.or_(value, sign), floats)


def float_to_half(builder, value, cpu: Target):
    """Convert float32 to half-precision bits, rounded to nearest even; numbers too large become infinity.

    Without F16C, a normal result is rounded by adding about half a unit to the bits before the shift, so that
    ties go to even. A subnormal result is rounded by adding 0.5, whose unit in the last place is the half
    format's smallest number.
    """
    halves = _like(value, I16)
    if _has_half(cpu):
        return builder.bitcast(builder.fptrunc(value, _like(value, ir.HalfType())), halves)
    words, floats = _like(value, I32), value.type
    bits = builder.bitcast(value, words)
    sign = builder.lshr(builder.and_(bits, _all(words, 0x80000000)), _all(words, 16))
    magnitude = builder.and_(bits, _all(words, 0x7FFFFFFF))
    odd = builder.and_(builder.lshr(magnitude, _all(words, 13)), _all(words, 1))
    rebased = builder.add(builder.sub(magnitude, _all(words, (127 - 15) << 23)), _all(words, 0xFFF))
    normal = builder.lshr(builder.add(rebased, odd), _all(words, 13))
    shifted = builder.fadd(builder.bitcast(magnitude, floats), _all(floats, 0.5))
    tiny = builder.sub(builder.bitcast(shifted, words), _all(words, 0x3F000000))
    is_tiny = builder.icmp_unsigned("<", magnitude, _all(words, (127 - 14) << 23))
    result = builder.select(is_tiny, tiny, normal)
    result = builder.select(
        builder.icmp_unsigned(">=", magnitude, _all(words, 0x477FF000)), _all(words, 0x7C00), result
    )
    result = builder.select(
        builder.icmp_unsigned(">", magnitude, _all(words, 0x7F800000)), _all(words, 0x7E00), result
    )
    return builder.trunc(builder.or_(result, sign), halves)


def pause(builder, cpu: Target) -> None:
    """Emit the hint for a waiting loop: `pause` on x86, nothing elsewhere (`yield_core` follows soon)."""
    if cpu.architecture == "x86":
        _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
