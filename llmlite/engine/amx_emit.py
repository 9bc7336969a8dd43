"""The AMX routine in LLVM's IR: 32 unpacked rows times many tokens, one chunk of groups. Pure llvmlite.

numba has no tile instructions, and its target may not have them either. So the routine is a separate module,
and its function names the features that it needs. `kernels/amx.py` calls it by address.

A step multiplies the 32 or 16 weights that share a scale, of 16 rows, by 16 tokens: it loads two tiles,
multiplies them, and stores 16 × 16 integers. Each token's 16 integers then become floats, are multiplied by
scale·d and added to its sum with one `fma`, in the order of docs/numerics.md. The next group's integers are
made before this group's are added, so that the tile unit and the vector units can work at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from llmlite.engine import emit
from llmlite.engine.amx import FEATURES, PRODUCTS, ROW_BYTES, TILE_ROWS, TOKENS, WEIGHTS
from llmlite.engine.cpu import Target
from llmlite.engine.families import AMX_BLOCK, LANES, MINIMUMS, SCALES
from llmlite.engine.families import TILE_ROWS as UNPACKED_ROWS

LINE = 4 * UNPACKED_ROWS  # bytes of one row of words, scales or sums
ARGUMENTS = (
    "config", "tile", "acc", "q", "d", "sums", "width", "n_blocks", "n_tokens", "begins", "products",
    "coming", "row_bytes", "n_coming", "n_ahead",
)  # fmt: skip
PRODUCT_BYTES = TILE_ROWS * ROW_BYTES  # integers of 16 tokens × 16 rows
I64, VOID = emit.I64, ir.VoidType()
NUMBERS, INTEGERS = ir.VectorType(emit.F32, 16), ir.VectorType(emit.I32, 16)


class Instructions:
    """The tile instructions. A subclass may emit other code for them: see tests/support/tile_unit.py.

    Registers are numbers 0…7; addresses and strides are values of i64.
    """

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def configure(self, address: Any) -> None:
        """Give the registers the shapes in the 64 bytes at `address`."""
        self._call("ldtilecfg", self._pointer(address))

    def zero(self, register: int) -> None:
        """Fill a register with zeros."""
        self._call("tilezero", emit.I8(register))

    def load(self, register: int, address: Any, stride: Any) -> None:
        """Load a register's rows, `stride` bytes apart."""
        self._call("tileloadd64", emit.I8(register), self._pointer(address), stride)

    def multiply(self, sums: int, a: int, b: int) -> None:
        """sums[m][n] += Σ a[m][4k + i] · b[k][4n + i], signed bytes, exactly."""
        self._call("tdpbssd", emit.I8(sums), emit.I8(a), emit.I8(b))

    def store(self, register: int, address: Any, stride: Any) -> None:
        """Write a register's rows, `stride` bytes apart."""
        self._call("tilestored64", emit.I8(register), self._pointer(address), stride)

    def release(self) -> None:
        """Release the registers: the system switches to and from a thread without them faster."""
        self._call("tilerelease")

    def _pointer(self, address: Any) -> Any:
        return emit.pointer(self.builder, address, emit.I8)

    def _call(self, name: str, *args: Any) -> None:
        emit._call(self.builder, f"llvm.x86.{name}", VOID, *args)


def block_module(
    cpu: Target,
    name: str,
    *,
    sub: int,
    has_minimum: bool,
    instructions: type[Instructions] = Instructions,
    features: Sequence[str] = FEATURES,
) -> str:
    """Return the IR of the routine `name`, with the arguments ARGUMENTS, all int64.

    The routine's arguments:
        config: address of `amx.config(sub)`.
        tile: address of the unpacked chunk (`unpack.make_unpack`); the zero was subtracted from its bytes, so
            they are signed.
        acc: address of the sums, float32 (LANES, AMX_BLOCK, 32).
        q, d, sums: addresses of the first token's bytes, scales and d·Σq of the chunk's first group. Tokens
            are `width` bytes apart, and are read in groups of sixteen.
        n_blocks: blocks of 32 weights in the chunk.
        n_tokens: the number of tokens.
        begins: whether sums start at zero.
        products: address of 4 KB that belong to the thread.
        coming, …: the rows to prefetch, as in `matmul.make_matmul`.

    Args:
        cpu: the target.
        name: the routine's symbol.
        sub: weights that share a scale, 32 or 16.
        has_minimum: whether a sub-block subtracts a minimum.
        instructions: emits the tile instructions.
        features: features to add to the target's.
    """
    module = ir.Module(name)
    function = ir.Function(module, ir.FunctionType(VOID, [I64] * len(ARGUMENTS)), name)
    whole = ",".join([cpu.features, *(f"+{feature}" for feature in features)])
    set.add(function.attributes, f'"target-features"="{whole}"')  # llvmlite's own `add` doesn't know it
    function.attributes.add("nounwind")
    for argument, its_name in zip(function.args, ARGUMENTS):
        argument.name = its_name
    _Block(function, cpu, sub, has_minimum, instructions).emit()
    return str(module)


class _Block:
    """The emitter of the routine's body."""

    def __init__(
        self, function: Any, cpu: Target, sub: int, has_minimum: bool, instructions: type[Instructions]
    ) -> None:
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.cpu, self.sub, self.has_minimum = cpu, sub, has_minimum
        self.n_parts, self.sums_bytes = 32 // sub, 1024 // sub  # of a block of 32; of a group's Σq
        self.tiles = instructions(self.b)
        self.of = dict(zip(ARGUMENTS, function.args))

    def emit(self) -> None:
        b, of = self.b, self.of
        self.tiles.configure(of["config"])
        self.n_groups = b.lshr(b.add(of["n_blocks"], I64(7)), I64(3))
        # A row's last group may have fewer than eight blocks; the lanes after those have one group less.
        self.whole_lanes = b.sub(of["n_blocks"], b.shl(b.sub(self.n_groups, I64(1)), I64(3)))
        self.d_stride = b.lshr(of["width"], I64(3))
        self.s_stride = b.lshr(of["width"], I64({32: 3, 16: 2}[self.sub]))
        self.begins = b.icmp_signed("!=", of["begins"], I64(0))
        self._loop(I64(LANES), I64(1), self._lane)
        self.tiles.release()
        b.ret_void()

    def _lane(self, j: Any) -> list[Any]:
        """Emit the products of block j of every group with all tokens."""
        b, of = self.b, self.of
        self._prefetch(j)
        n_here = b.sub(self.n_groups, b.zext(b.icmp_signed(">=", j, self.whole_lanes), I64))
        before = b.mul(j, self.n_groups)  # groups of earlier lanes
        words = b.add(of["tile"], b.mul(before, I64(8 * LINE)))
        scales = b.add(b.add(of["tile"], I64(SCALES)), b.mul(before, I64(self.n_parts * LINE)))
        sums = b.add(of["acc"], b.mul(j, I64(AMX_BLOCK * LINE)))
        column, number = b.shl(j, I64(5)), b.shl(j, I64(2))

        def tokens(i: Any) -> list[Any]:
            x = b.add(b.add(of["q"], column), b.mul(i, of["width"]))
            xd = b.add(b.add(of["d"], number), b.mul(i, self.d_stride))
            xs = b.add(b.add(of["sums"], number), b.mul(i, self.s_stride))
            place = b.add(sums, b.mul(i, I64(LINE)))
            for half in (0, ROW_BYTES):
                ours = (b.add(address, I64(half)) for address in (words, scales, place))
                self._multiply((*ours, x, xd, xs), n_here)
            return []

        self._loop(of["n_tokens"], I64(TILE_ROWS), tokens)
        return []

    def _prefetch(self, j: Any) -> None:
        """Emit the prefetch of n_ahead rows of the next chunk."""
        b, of = self.b, self.of
        first = b.add(of["coming"], b.mul(b.mul(j, of["n_ahead"]), of["row_bytes"]))

        def row(i: Any) -> list[Any]:
            start = b.add(first, b.mul(i, of["row_bytes"]))

            def line(offset: Any) -> list[Any]:
                emit.prefetch(b, b.add(start, offset))
                return []

            self._loop(of["n_coming"], I64(ROW_BYTES), line)
            return []

        self._loop(of["n_ahead"], I64(1), row)

    def _multiply(self, addresses: Sequence[Any], n: Any) -> None:
        """Emit 16 rows × 16 tokens × one block of n groups, added to their sums, or to zero.

        Args:
            addresses: addresses of words, scales, sums, activations, their scales and their d·Σq, all of the
                first group.
            n: the number of groups.
        """
        b, (words, scales, place, x, xd, xs) = self.b, addresses
        none = emit.constant(NUMBERS, 0)
        sums = [b.select(self.begins, none, self._load(place, t * LINE, NUMBERS)) for t in range(TILE_ROWS)]
        this = self.of["products"]
        other = b.add(this, I64(self.n_parts * PRODUCT_BYTES))
        with b.if_then(b.icmp_signed(">", n, I64(0))):
            self._produce(x, words, this)

        def group(
            i: Any, words: Any, scales: Any, x: Any, xd: Any, xs: Any, this: Any, other: Any, *sums: Any
        ) -> list[Any]:
            """Make the next group's integers, then add this one's. There is no branch between the additions,
            because LLVM would move them past it, and keep their operands in memory.
            """
            next_words, next_x = b.add(words, I64(8 * LINE)), b.add(x, I64(256))
            with b.if_then(b.icmp_signed("<", b.add(i, I64(1)), n)):
                self._produce(next_x, next_words, other)
            totals = list(sums)
            for part in range(self.n_parts):
                products = b.add(this, I64(part * PRODUCT_BYTES))
                totals = self._add(totals, products, b.add(scales, I64(part * LINE)), xd)
            if self.has_minimum:
                totals = self._subtract_minimums(totals, b.add(scales, I64(MINIMUMS - SCALES)), xs)
            next_scales, next_xs = b.add(scales, I64(self.n_parts * LINE)), b.add(xs, I64(self.sums_bytes))
            return [next_words, next_scales, next_x, b.add(xd, I64(32)), next_xs, other, this, *totals]

        carried = (words, scales, x, xd, xs, this, other, *sums)
        for t, total in enumerate(self._loop(n, I64(1), group, carried)[7:]):
            self._store(total, place, t * LINE)

    def _produce(self, x: Any, words: Any, products: Any) -> None:
        """Emit the integers of one block of 32 weights: 16 tokens × 16 rows, for each of its parts."""
        b = self.b
        for part in range(self.n_parts):
            self.tiles.zero(PRODUCTS)
            self.tiles.load(TOKENS, b.add(x, I64(part * self.sub)), self.of["width"])
            self.tiles.load(WEIGHTS, b.add(words, I64(part * self.sub // 4 * LINE)), I64(LINE))
            self.tiles.multiply(PRODUCTS, TOKENS, WEIGHTS)
            self.tiles.store(PRODUCTS, b.add(products, I64(part * PRODUCT_BYTES)), I64(ROW_BYTES))

    def _add(self, sums: Sequence[Any], products: Any, scales: Any, xd: Any) -> list[Any]:
        """Return fma(float(products), scale·d, sum) of each token."""
        b, found = self.b, []
        s = self._load(scales, 0, NUMBERS)
        for t, (place, total) in enumerate(zip(self._rows(xd, self.d_stride), sums)):
            d = emit.splat(b, self._load(place, 0, emit.F32), 16)
            numbers = b.sitofp(self._load(products, t * ROW_BYTES, INTEGERS), NUMBERS)
            found.append(emit.fma(b, numbers, b.fmul(s, d), total, self.cpu))
        return found

    def _subtract_minimums(self, sums: Sequence[Any], mins: Any, xs: Any) -> list[Any]:
        """Subtract the minimums as `tiles.make_subtract_minimums` does, for 16 rows."""
        b, found = self.b, []
        m = [self._load(mins, part * LINE, NUMBERS) for part in range(self.n_parts)]
        for place, total in zip(self._rows(xs, self.s_stride), sums):
            factor = self._load(place, 0, emit.F32)
            if self.n_parts == 1:
                found.append(emit.fma(b, m[0], emit.splat(b, b.fneg(factor), 16), total, self.cpu))
                continue
            second = emit.splat(b, self._load(place, 32, emit.F32), 16)
            both = emit.fma(b, m[1], second, b.fmul(m[0], emit.splat(b, factor, 16)), self.cpu)
            found.append(b.fsub(total, both))
        return found

    def _rows(self, first: Any, stride: Any) -> list[Any]:
        """Return sixteen addresses as base + 0, 1, 2 or 3 strides, so that they need few registers."""
        b = self.b
        steps = [I64(0), stride, b.shl(stride, I64(1)), b.mul(stride, I64(3))]
        four, bases = b.shl(stride, I64(2)), [first]
        for _ in range(3):
            bases.append(b.add(bases[-1], four))
        return [b.add(bases[t // 4], steps[t % 4]) for t in range(TILE_ROWS)]

    def _load(self, address: Any, offset: int, kind: Any) -> Any:
        b = self.b
        return b.load(emit.pointer(b, b.add(address, I64(offset)), kind), align=4)

    def _store(self, value: Any, address: Any, offset: int) -> None:
        b = self.b
        b.store(value, emit.pointer(b, b.add(address, I64(offset)), value.type), align=4)

    def _loop(
        self, end: Any, step: Any, body: Callable[..., Sequence[Any]], carried: Sequence[Any] = ()
    ) -> list[Any]:
        """Emit `for i in range(0, end, step): carried = body(i, *carried)`; return `carried` at the end."""
        b, before = self.b, self.b.block
        head, inside, after = (b.append_basic_block(name) for name in ("head", "inside", "after"))
        b.branch(head)
        b.position_at_end(head)
        phis = [b.phi(value.type) for value in (I64(0), *carried)]
        for phi, value in zip(phis, (I64(0), *carried)):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", phis[0], end), inside, after)
        b.position_at_end(inside)
        found = body(*phis)
        following = (b.add(phis[0], step), *found)
        for phi, value in zip(phis, following):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return phis[1:]
