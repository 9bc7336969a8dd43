"""The quant types that have kernels, and the shapes of these. Other types run through NumPy, much slower.

The recorder and the kernels read the same records: all facts about a type are only here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmlite.engine import amx, signatures
from llmlite.engine.contract import FEW_TOKENS
from llmlite.engine.jit import DECLARED, Kernel, declare

GROUP = 256  # weights that kernels of quantized types process together: a super-block, or eight blocks of 32
LANES = 8  # float sums of one row and token: one for each 32 weights of a group
TILE_ROWS = 32  # of weights that a matrix product of many tokens unpacks together
CHUNK = 8  # groups of a row that are unpacked together
TOKEN_BLOCK = 24  # tokens multiplied with a chunk together: a multiple of every `tiles.QUANTIZED_TOKENS`
AMX_BLOCK = 32  # the same for AMX tiles: a multiple of amx.TILE_ROWS
FEW_ROWS, FEW_CHUNK = 16, 64  # of a few tokens: rows that share a chunk; its groups, times tokens: 20 KB
FLOAT_ROWS, FLOAT_COLUMNS = 16, 512  # of plain weights that are converted together
# Offsets in a thread's scratch for quantized types. The order is: bytes; scales and minimums, at most 16 of a
# group; one group's rows before they are transposed; the sums that wait to be folded; and, for rows longer
# than a chunk, all eight sums of every token. If AMX multiplies, only all eight sums of every token.
SCALES = TILE_ROWS * GROUP * CHUNK
MINIMUMS = SCALES + TILE_ROWS * 16 * 4 * CHUNK
STAGED = MINIMUMS + TILE_ROWS * 16 * 4 * CHUNK
SUMS = STAGED + TILE_ROWS * (GROUP + 2 * 16 * 4)
KEPT = SUMS + 3 * TOKEN_BLOCK * TILE_ROWS * 4


def mixed_bytes(width: int) -> int:
    """Return the bytes of a row of activations in the order of `side_by_side`: whole groups, and one more
    line.

    Without that line, rows of multiples of 4096 would share the same few sets of the first-level cache.
    """
    return (width + GROUP - 1) // GROUP * GROUP + 64


@dataclass(frozen=True, kw_only=True)
class Family:
    """The kernels of one quant type.

    Attributes:
        module: the file in `llmlite/engine/kernels`.
        suffix: suffix of the kernels' names.
        block: weights in a block; a row must consist of whole blocks.
        block_bytes: bytes of a block in a file.
        sub: weights that share a scale, 32 or 16; 0 for plain floats, whose activations stay floats.
        zero: number to subtract from an unpacked quant.
        has_minimum: whether a sub-block subtracts a minimum.
        full_bytes: whether quants use all values of a byte; if not, they are below 128.
    """

    module: str
    suffix: str
    block: int
    block_bytes: int = 0
    sub: int = 0
    zero: int = 0
    has_minimum: bool = False
    full_bytes: bool = False

    @property
    def multiple(self) -> int:
        """A number of weights that the kernels take together: rows must be multiples of it."""
        return 32 if self.sub else 16

    @property
    def group_bytes(self) -> int:
        """Bytes of GROUP weights."""
        return self.block_bytes * GROUP // self.block

    def product(self, n_tokens: int, tiles: bool = False) -> Kernel:
        """Return the kernel for a product with at most n_tokens rows of activations: the only place that
        chooses.

        Plain types have no kernel for a few tokens, because their weights need no unpacking that a tile would
        save.

        Args:
            tiles: whether AMX multiplies many tokens (`amx_check`), if the type is quantized.
        """
        if n_tokens == 1:
            return self.matvec
        if self.sub and n_tokens <= FEW_TOKENS:
            return self.matmul_few
        return MATMUL_TILES if self.sub and tiles else self.matmul

    def scratch_bytes(self, n_tokens: int, width: int, tiles: bool = False) -> int:
        """Return the bytes of scratch memory for a thread of `product(n_tokens, tiles)`; many tokens count as
        whole tiles.
        """
        if self.sub and n_tokens <= FEW_TOKENS:
            return n_tokens * FEW_ROWS * 32
        if not self.sub:
            return FLOAT_ROWS * (FLOAT_COLUMNS * 4 + n_tokens * 64)
        kept, block = (SUMS, AMX_BLOCK) if tiles else (KEPT, TOKEN_BLOCK)
        n_blocks = -(-n_tokens // block) if width > CHUNK * GROUP else int(tiles)
        return kept + n_blocks * block * LANES * TILE_ROWS * 4

    @property
    def matvec(self) -> Kernel:
        """The kernel of out = W x for one token."""
        parameters = signatures.MATVEC if self.sub else signatures.PLAIN_MATVEC
        return declare(self.module, f"matvec_{self.suffix}", parameters)

    @property
    def matmul_few(self) -> Kernel:
        """The kernel of out = X Wᵀ for 2 to FEW_TOKENS tokens, for quantized types."""
        return declare(self.module, f"matmul_few_{self.suffix}", signatures.MATMUL_FEW)

    @property
    def matmul(self) -> Kernel:
        """The kernel of out = X Wᵀ for many tokens."""
        if not self.sub:
            return declare(self.module, f"matmul_{self.suffix}", signatures.PLAIN_MATMUL)
        return declare("matmul", f"matmul{self.sub}", signatures.MATMUL)

    def is_paired(self, width: int) -> bool:
        """Return whether `multiply` takes two blocks of a row at once: rows of one group."""
        return self.sub > 0 and width == GROUP

    def multiply(self, width: int) -> Kernel:
        """Return the routine that multiplies 32 unpacked rows in `matmul` of a quantized type."""
        form = "_min" if self.has_minimum else "_bytes" if self.full_bytes else ""
        return declare(
            "multiply", f"multiply{self.sub}{form}{'_pair' if self.is_paired(width) else ''}", None
        )

    @property
    def tile_block(self) -> Kernel:
        """The routine that multiplies a chunk of a quantized type in MATMUL_TILES."""
        return declare("amx", f"block{self.sub}{'_min' if self.has_minimum else ''}", None, amx.NEEDS)

    @property
    def unpack(self) -> Kernel:
        """The routine that unpacks 32 rows in `matmul` of a quantized type."""
        return declare(self.module, f"unpack_{self.suffix}", None)

    @property
    def embed(self) -> Kernel:
        """The kernel that reads rows as floats."""
        return declare(self.module, f"embed_{self.suffix}", signatures.EMBED)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """All kernels of the type."""
        quantized: tuple[Kernel, ...] = ()
        if self.sub:
            multiply = dict.fromkeys(self.multiply(width) for width in (GROUP, 2 * GROUP))
            quantized = self.matmul_few, self.unpack, *multiply
        return self.matvec, self.matmul, self.embed, *quantized


# out = X Wᵀ for many tokens of any quantized type, with AMX
MATMUL_TILES = declare("amx", "matmul_tiles", signatures.MATMUL_TILES, amx.NEEDS)


def _plain(suffix: str, n_bytes: int) -> Family:
    return Family(module="dense", suffix=suffix, block=1, block_bytes=n_bytes)


def _blocks(suffix: str, n_bytes: int, zero: int, **facts: bool) -> Family:
    return Family(module="blocks32", suffix=suffix, block=32, block_bytes=n_bytes, sub=32, zero=zero, **facts)


def _super(suffix: str, n_bytes: int, zero: int, sub: int = 32, **facts: bool) -> Family:
    return Family(
        module="blocks256", suffix=suffix, block=256, block_bytes=n_bytes, sub=sub, zero=zero, **facts
    )


# GGML's type id -> its kernels
FAMILIES: dict[int, Family] = {
    0: _plain("f32", 4),
    1: _plain("f16", 2),
    30: _plain("bf16", 2),
    2: _blocks("q4_0", 18, 8),
    3: _blocks("q4_1", 20, 0, has_minimum=True),
    6: _blocks("q5_0", 22, 16),
    7: _blocks("q5_1", 24, 0, has_minimum=True),
    8: _blocks("q8_0", 34, 128, full_bytes=True),
    20: _blocks("iq4_nl", 18, 128, full_bytes=True),
    39: _blocks("mxfp4", 17, 12),
    10: _super("q2_k", 84, 0, 16, has_minimum=True),
    11: _super("q3_k", 110, 4, 16),
    12: _super("q4_k", 144, 0, has_minimum=True),
    13: _super("q5_k", 176, 0, has_minimum=True),
    14: _super("q6_k", 210, 32, 16),
    23: _super("iq4_xs", 136, 128, full_bytes=True),
}

BY_SUFFIX = {family.suffix: family for family in FAMILIES.values()}


for _family in FAMILIES.values():
    _ = _family.kernels  # declared once, so that `declared_kernel` finds each by its name
    if _family.sub:
        _family.tile_block  # noqa: B018


def declared_kernel(module: str, name: str) -> Kernel:
    """Return a declared kernel by the name of its file and its own.

    Raises:
        KeyError: nothing declares it.
    """
    return DECLARED[module, name]


def every_kernel(types: Iterable[int] = FAMILIES) -> list[Kernel]:
    """Return the kernels that any model needs, and those of the types given by id (by default, all types).

    Kernels for AMX are left out: a model that may use them prepares them itself.
    """
    measuring = {*signatures.PEAK.values(), *signatures.SCALAR_MATVEC.values(), signatures.READ_ALL}
    of_types = {k for family in FAMILIES.values() for k in family.kernels}
    found = [k for k in DECLARED.values() if k not in measuring and k not in of_types and k.module != "amx"]
    return [*found, *dict.fromkeys(k for type_id in types for k in FAMILIES[type_id].kernels)]
