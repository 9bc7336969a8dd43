"""List malformed GGUF files of a few hundred bytes, each with the error that it must raise."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.support.gguf_builder import GGUFBuilder

CUT = "cut off"
DAMAGED = "damaged"


@dataclass(frozen=True)
class Case:
    """Hold a malformed file and the error that it must raise.

    Attributes:
        offset: the offset of the field in the file.
        expected, got, hint: parts of these texts of the error.
    """

    number: int
    name: str
    data: bytes
    field: str
    offset: int | None
    expected: str
    got: str
    hint: str

    def __str__(self) -> str:
        return f"{self.number:02d} {self.name}".replace(" ", "-")


CASES: list[Case] = []


def case(
    number: int,
    name: str,
    builder: GGUFBuilder | bytes,
    field: str,
    at: str | int,
    expected: str,
    got: object,
    hint: str,
    cut: int = 0,
) -> None:
    """Add a case to the table."""
    data = builder if isinstance(builder, bytes) else builder.build(cut)
    offset = builder.at[at] if isinstance(builder, GGUFBuilder) and isinstance(at, str) else at
    assert isinstance(offset, int)
    CASES.append(Case(number, name, data, field, offset, expected, str(got), hint))


def new(version: int = 3, **options: object) -> GGUFBuilder:
    """Return a builder with one key, so that no field is at the start by accident."""
    return GGUFBuilder(version, **options).kv("general.architecture", "string", "llama")  # type: ignore[arg-type]


def weight(**overrides: object) -> GGUFBuilder:
    """Return a builder with a good tensor, then a bad one with the given overrides."""
    return new().tensor("good").tensor("bad", **overrides)  # type: ignore[arg-type]


def header_cases() -> None:
    whole = new().tensor()
    case(1, "empty file", b"", "magic", 0, "a GGUF file", "an empty file", CUT)
    case(2, "three bytes", b"GGU", "magic", 0, "4 bytes", "3 until the end", CUT)
    case(3, "truncated version", whole.build()[:6], "version", 4, "4 bytes", "2 until", CUT)
    case(3, "truncated n_tensors", whole.build()[:13], "n_tensors", 8, "8 bytes", "5 until", CUT)
    case(3, "truncated n_kv", whole.build()[:23], "n_kv", 16, "8 bytes", "7 until", CUT)
    case(4, "wrong magic", new(magic=b"ZIP!"), "magic", 0, "letters GGUF", "ZIP!", "not a GGUF file")
    for magic, name in ((b"lmgg", "GGML"), (b"fmgg", "GGMF"), (b"tjgg", "GGJT")):
        case(5, f"legacy {name}", new(magic=magic), "magic", 0, "GGUF", name, "llmlite convert")
    for version, hint in ((0, DAMAGED), (4, "newer"), (0xABCD0000, DAMAGED)):
        case(6, f"version {version}", new(version), "version", 4, "1, 2 or 3", "", hint)
    for count in (-1, 1 << 40, -(1 << 63)):
        case(8, f"n_tensors {count}", new(n_tensors=count), "n_tensors", 8, "0 to ", count, DAMAGED)
    for count in (-1, 1 << 29, (1 << 63) - 1):
        case(9, f"n_kv {count}", new(n_kv=count), "n_kv", 16, "0 to ", count, DAMAGED)
    case(9, "n_kv of version 1", new(1, n_kv=1 << 31), "n_kv", 12, "0 to ", 1 << 31, DAMAGED)


def key_cases() -> None:
    for number, length in ((12, 1 << 63), (12, (1 << 64) - 1), (13, 1000)):
        builder = new().kv("key", "u32", 1, key_length=length)
        case(
            number,
            f"key length {length}",
            builder,
            "key 1: length",
            "kv[1].length",
            "at most",
            length,
            DAMAGED,
        )
    case(
        14, "empty key", new().kv("", "u32", 1), "key 1", "kv[1].length", "a name", "an empty string", DAMAGED
    )
    twice = new().kv("general.architecture", "u32", 1)
    case(
        15,
        "duplicate key",
        twice,
        "general.architecture",
        "kv[1].key",
        "each key once",
        "another one",
        DAMAGED,
    )
    broken = new().kv(b"k\xff", "u32", 1)
    case(
        16,
        "key not UTF-8",
        broken,
        "key 1",
        broken.build() and broken.at["kv[1].key"] + 1,
        "UTF-8",
        "0xff",
        DAMAGED,
    )
    for number, kind in ((17, 13), (18, -1)):
        builder = new().kv("k", kind, b"\0" * 8)
        case(number, f"value type {kind}", builder, "k: type", "kv[1].type", "0 to 12", kind, DAMAGED)
    case(
        19, "truncated scalar", new().kv("k", "u64", 1), "k", "kv[1].value", "8 bytes", "7 until", CUT, cut=1
    )
    case(
        19,
        "truncated type",
        new().kv("k", "u8", 1),
        "k: type",
        "kv[1].type",
        "4 bytes",
        "3 until",
        CUT,
        cut=2,
    )


def length_cases() -> None:
    text = new().kv("k", "string", struct.pack("<Q", 1 << 62) + b"abc")
    case(20, "string length 2^62", text, "k: length", "kv[1].value", "at most 3", 1 << 62, DAMAGED)
    for number, count in ((21, 1 << 62), (22, 1 << 29)):
        for kind in ("u8", "f64", "string"):
            builder = new().array("k", kind, b"\0" * 24, count=count)
            case(
                number,
                f"array of {count} {kind}",
                builder,
                "k: count",
                "kv[1].count",
                "at most",
                count,
                DAMAGED,
            )
    long_element = new().array("k", "string", b"\1" + bytes(7) + b"a" + struct.pack("<Q", 1 << 62), count=2)
    long_element.build()
    second = long_element.at["kv[1].value"] + 9
    case(21, "string 2^62 in array", long_element, "k[1]: length", second, "at most 0", 1 << 62, DAMAGED)
    short = new().array("k", "string", ["abc", "def"])
    short.build()
    second = short.at["kv[1].value"] + 11
    case(21, "array cut off in string", short, "k[1]: length", second, "at most 2 bytes", 3, DAMAGED, cut=1)
    case(21, "array cut off in length", short, "k: count", "kv[1].count", "at most 1", 2, DAMAGED, cut=8)


def element_cases() -> None:
    nested = new().array("k", "array", struct.pack("<iQ", 4, 0), count=1)
    case(
        23,
        "nested array",
        nested,
        "k: element type",
        "kv[1].element_type",
        "numbers",
        "array of arrays",
        "don't nest",
    )
    deep = new().array("k", "array", struct.pack("<iQ", 9, 1) * 3000, count=1)
    case(
        24,
        "nested 3000 deep",
        deep,
        "k: element type",
        "kv[1].element_type",
        "numbers",
        "array",
        "don't nest",
    )
    for kind in (13, -1, 99):
        builder = new().array("k", kind, b"", count=0)
        where = "kv[1].element_type"
        case(
            25,
            f"element type {kind}, none of it",
            builder,
            "k: element type",
            where,
            "0 to 12",
            kind,
            DAMAGED,
        )
    case(26, "bool 2", new().kv("k", "bool", b"\2"), "k", "kv[1].value", "0 or 1", 2, DAMAGED)
    bools = new().array("k", "bool", b"\0\1\xff", count=3)
    case(
        26,
        "bool 255 in array",
        bools,
        "k[2]",
        bools.build() and bools.at["kv[1].value"] + 2,
        "0 or 1",
        255,
        DAMAGED,
    )


def alignment_cases() -> None:
    for number, value in ((27, 0), (28, 13), (30, 1 << 31), (30, 3 << 20)):
        builder = new().kv("general.alignment", "u32", value)
        case(
            number,
            f"alignment {value}",
            builder,
            "general.alignment",
            "kv[1].value",
            "power of two",
            value,
            DAMAGED,
        )
    for kind in ("i32", "u64", "f32", "bool"):
        builder = new().kv("general.alignment", kind, 1)
        case(
            29,
            f"alignment {kind}",
            builder,
            "general.alignment",
            "kv[1].value",
            "a u32",
            f"type {kind}",
            DAMAGED,
        )


def name_cases() -> None:
    for number, name, what in ((31, "n" * 64, "at most 63"), (31, "ä" * 32, "at most 63")):
        builder = weight(name_length=64)
        builder.tensors[1]["name"] = name
        case(
            number,
            f"name {name[0]} of 64 bytes",
            builder,
            "tensor 1: name",
            "tensor[1].length",
            what,
            64,
            DAMAGED,
        )
    builder = new().tensor("good").tensor("")
    case(32, "empty name", builder, "tensor 1: name", "tensor[1].length", "a name", "empty", DAMAGED)
    builder = new().tensor("good").tensor("a\0b")
    case(33, "NUL in name", builder, "tensor 1: name", "tensor[1].name", "without NUL", r"a\x00b", DAMAGED)
    builder = new().tensor("good").tensor(b"\xc3")
    case(33, "name not UTF-8", builder, "tensor 1: name", "tensor[1].name", "UTF-8", "0xc3", DAMAGED)
    builder = new().tensor("good").tensor("good")
    case(
        34, "duplicate tensor", builder, "good", "tensor[1].name", "each tensor once", "another one", DAMAGED
    )


def shape_cases() -> None:
    for number, n in ((35, 5), (35, 1 << 31), (36, 0)):
        builder = weight(n_dims=n) if n else weight(dims=(), n_bytes=4)
        case(number, f"n_dims {n}", builder, "bad: n_dims", "tensor[1].n_dims", "1 to 4", n, DAMAGED)
    for number, dims, j in ((37, (0,), 0), (37, (32, 0), 1), (38, (-32,), 0), (38, (32, -1, 1), 1)):
        builder = weight(dims=dims)
        case(
            number,
            f"dims {dims}",
            builder,
            f"bad: dims[{j}]",
            f"tensor[1].dims[{j}]",
            "at least 1",
            dims[j],
            DAMAGED,
        )
    for dims, j in (((1 << 62, 2), 1), ((1 << 32, 1 << 32), 1), ((1 << 20, 1 << 20, 1 << 20, 8), 3)):
        builder = weight(dims=dims)
        case(
            39, f"product of {dims}", builder, f"bad: dims[{j}]", f"tensor[1].dims[{j}]", "2^63", "", DAMAGED
        )
    for dims, n_bytes in (((1 << 61, 1), 1 << 63), (((1 << 63) - 1,), (1 << 65) - 4)):
        case(
            40,
            f"bytes of {dims}",
            weight(dims=dims),
            "bad: data",
            "tensor[1].data",
            f"{n_bytes} bytes",
            "128",
            CUT,
        )
    for number, kind, name in ((41, 4, "Q4_2"), (41, 31, "Q4_0_4_4"), (42, 43, "43"), (42, -1, "-1")):
        hint = "removed" if number == 41 else "it reads"
        builder = weight(type_id=kind)
        case(number, f"type {kind}", builder, "bad: type", "tensor[1].type", "llmlite reads", name, hint)
    for kind, block in ((2, "Q4_0 block, 32"), (12, "Q4_K block, 256")):
        builder = weight(type_id=kind, dims=(100, 2))
        case(
            43,
            f"row of 100 in type {kind}",
            builder,
            "bad: dims[0]",
            "tensor[1].dims[0]",
            block,
            100,
            DAMAGED,
        )


def data_cases() -> None:
    for number, offset, expected in (
        (44, 130, "multiple of the alignment, 32"),
        (45, -1, "multiple of the alignment"),
        (46, 96, "128, the end"),
        (46, 0, "128, the end"),
        (47, 160, "128, the end"),
        (49, 1 << 40, "128, the end"),
    ):
        got = offset & (1 << 64) - 1
        hint = "overlap" if number == 46 else "gap" if number in (47, 49) else DAMAGED
        case(
            number,
            f"offset {offset}",
            weight(offset=offset),
            "bad: offset",
            "tensor[1].offset",
            expected,
            got,
            hint,
        )
    swapped = new().tensor("b", offset=128).tensor("a", offset=0)
    case(48, "reordered", swapped, "b: offset", "tensor[0].offset", "0, the end", 128, "gap")
    whole = new().tensor("good").tensor("bad")
    case(50, "one byte short", whole, "bad: data", "tensor[1].data", "128 bytes", "127 until", CUT, cut=1)
    case(51, "no data", whole, "good: data", "tensor[0].data", "128 bytes", "0 until", CUT, cut=256)
    size = len(whole.build())
    for name, field in (("offset", "bad: offset"), ("type", "bad: type"), ("n_dims", "bad: n_dims")):
        cut = size - whole.at[f"tensor[1].{name}"] - 2
        case(52, f"cut in {name}", whole, field, f"tensor[1].{name}", "bytes", "2 until", CUT, cut=cut)
    cut = size - whole.at["tensor[1].length"] - 2
    case(
        52,
        "cut in name",
        whole,
        "tensor 1: name: length",
        "tensor[1].length",
        "8 bytes",
        "2 until",
        CUT,
        cut=cut,
    )


for add in (
    header_cases,
    key_cases,
    length_cases,
    element_cases,
    alignment_cases,
    name_cases,
    shape_cases,
    data_cases,
):
    add()
