"""Atomic operations on words that threads share: loads, sums and exchanges.

All are sequentially consistent: every thread sees them in the same order, with everything that was written
before.
Importing this module imports numba.
"""

from numba import types
from numba.extending import intrinsic

from llmlite.engine import emit
from llmlite.engine.vectors import i64


def _word(builder, address):
    return emit.pointer(builder, address, emit.I64)


@intrinsic
def atomic_load(typing, address):
    """Return the int64 at `address`, ordered after everything its writer did before."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_word(builder, args[0]), "seq_cst", 8)

    return i64(i64), codegen


def _make_exchange(operation):
    @intrinsic
    def exchange(typing, address, value):
        def codegen(context, builder, sig, args):
            return builder.atomic_rmw(operation, _word(builder, args[0]), args[1], "seq_cst")

        return i64(i64, i64), codegen

    return exchange


# (address, value) -> the old value, which is replaced by the sum, by the value, or by the smaller of both
atomic_add, atomic_exchange, atomic_min = map(_make_exchange, ("add", "xchg", "min"))


@intrinsic
def compare_exchange(typing, address, expected, value):
    """Write `value` if the word at `address` is `expected`; return whether it was."""

    def codegen(context, builder, sig, args):
        found = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(i64, i64, i64), codegen
