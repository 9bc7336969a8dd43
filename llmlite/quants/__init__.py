"""The tensor types of GGML, one record each, with its layout, its decoder and its encoder.

    from llmlite import quants
    q4 = quants.by_name("Q4_K")
    blocks = q4.quantize(values)          # (n, 256) float32 -> (n, 144) uint8
    weights = q4.dequantize(blocks)       # (n, 144) uint8 -> (n, 256) float32

To add a type, write its record in its family's file and list it there.
"""

from __future__ import annotations

import copyreg

from llmlite.errors import UnsupportedError
from llmlite.quants.iq import IQ
from llmlite.quants.k import K_QUANTS
from llmlite.quants.legacy import LEGACY
from llmlite.quants.plain import PLAIN
from llmlite.quants.record import Parts, QuantType
from llmlite.quants.ternary_fp4 import TERNARY_FP4

__all__ = ["REMOVED", "TYPES", "Parts", "QuantType", "by_name", "get"]

_FAMILIES = (PLAIN, LEGACY, K_QUANTS, IQ, TERNARY_FP4)
TYPES: dict[int, QuantType] = {
    t.id: t for t in sorted((t for family in _FAMILIES for t in family), key=lambda t: t.id)
}

# ids in older files, of types that llama.cpp has removed
REMOVED: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}

_BY_NAME = {t.name: t for t in TYPES.values()}


def get(id: int) -> QuantType:
    """Look up a type by its number in a GGUF file.

    Raises:
        UnsupportedError: the number is unknown, or its type was removed from GGML.
    """
    if id in TYPES:
        return TYPES[id]
    if id in REMOVED:
        raise UnsupportedError(
            f"tensor type {id} ({REMOVED[id]}) was removed from GGML; requantize from the original model"
        )
    raise UnsupportedError(f"tensor type {id} is unknown; known are {', '.join(map(str, TYPES))}")


def by_name(name: str) -> QuantType:
    """Look up a type by its name, in upper or lower case: "Q4_K", "f16".

    Raises:
        UnsupportedError: the name is unknown, or its type was removed from GGML.
    """
    record = _BY_NAME.get(name.upper())
    if record is not None:
        return record
    if name.upper() in REMOVED.values():
        raise UnsupportedError(f"{name.upper()} was removed from GGML; requantize from the original model")
    raise UnsupportedError(f"unknown tensor type {name!r}; known are {', '.join(_BY_NAME)}")


# Records hold functions, so a pickle holds the type's number; loading it returns the record itself.
copyreg.pickle(QuantType, lambda record: (get, (record.id,)))
