"""Writing GGUF files: what is read back is what was written; old file or new file, never half."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite import GGUFError, gguf
from llmlite.gguf import Typed
from llmlite.gguf.values import VALUE_TYPES
from llmlite.gguf.writer import replacing
from llmlite.quants import TYPES
from llmlite.quants.tensor import QuantTensor
from tests.support.gguf_contents import METADATA, TYPES_OF_METADATA, assert_same_file, random_tensors, same

INTEGERS = {t.name: np.iinfo(t.dtype()) for t in VALUE_TYPES if t.code and t.code in "BbHhIiQq"}


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_what_is_written_is_read_back_with_its_types(tmp_path: Path, version: int, byte_order: str) -> None:
    tensors = random_tensors()
    gguf.write(tmp_path / "a.gguf", METADATA, tensors, version=version, byte_order=byte_order)
    file = gguf.read(tmp_path / "a.gguf")
    assert (file.version, file.byte_order) == (version, byte_order)
    assert [file.metadata_type(key) for key in file.metadata] == TYPES_OF_METADATA
    for key, value in METADATA.items():
        plain = value.value if isinstance(value, Typed) else value
        plain = plain.decode("utf-8", "surrogateescape") if isinstance(plain, bytes) else plain
        np.testing.assert_equal(list(file.metadata[key]) if np.ndim(plain) else file.metadata[key], plain)
    for name, tensor in tensors.items():
        assert np.array_equal(file.tensors[name].blocks, tensor.blocks), name
        assert file.tensors[name].shape == tensor.shape
    gguf.write(tmp_path / "b.gguf", file.metadata, file.tensors, version=version, byte_order=byte_order)
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()
    gguf.write(tmp_path / "c.gguf", file.metadata.typed(), file.tensors)
    assert_same_file(gguf.read(tmp_path / "c.gguf"), file)


def test_bundled_model_is_written_back_byte_for_byte(tmp_path: Path, tales: Path) -> None:
    file = gguf.read(tales)
    gguf.write(tmp_path / "copy.gguf", file.metadata, file.tensors)
    assert (tmp_path / "copy.gguf").read_bytes() == tales.read_bytes()


def test_arrays_are_stored_as_they_are(tmp_path: Path) -> None:
    arrays = {
        "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f16": np.arange(6, dtype=">f2").reshape(1, 2, 3)[:, :, ::-1],
        "f64": np.arange(2.0),
        "i8": np.arange(-3, 3, dtype=np.int8),
        "i64": np.arange(4).reshape(4, 1),
    }
    for byte_order in ("little", "big"):
        gguf.write(tmp_path / "a.gguf", {}, arrays, byte_order=byte_order)
        file = gguf.read(tmp_path / "a.gguf")
        for name, array in arrays.items():
            assert file.tensors[name].type.name == name.upper()
            np.testing.assert_array_equal(file.tensors[name].dequantize(), array)


def test_alignment_comes_from_the_argument_or_the_metadata(tmp_path: Path) -> None:
    path, arrays = tmp_path / "a.gguf", {"a": np.zeros(3, np.float32), "b": np.ones(3, np.float32)}
    gguf.write(path, {}, arrays, alignment=256)
    file = gguf.read(path)
    assert (file.alignment, file.data_offset % 256, path.stat().st_size % 256) == (256, 0, 0)
    gguf.write(path, file.metadata, file.tensors)
    assert gguf.read(path).alignment == 256
    gguf.write(path, gguf.read(path).metadata, arrays, alignment=32)
    assert gguf.read(path).alignment == 32


@pytest.mark.parametrize(
    ("metadata", "tensors", "field"),
    [
        ({"": 1}, {}, "key"),
        ({"\ud800": 1}, {}, "name"),
        ({"k": []}, {}, "k"),
        ({"k": [1, "x"]}, {}, "k"),
        ({"k": [1, True]}, {}, "k"),
        ({"k": [[1]]}, {}, "k"),
        ({"k": None}, {}, "k"),
        ({"k": 1 << 64}, {}, "k"),
        ({"k": [-1, 1 << 63]}, {}, "k"),
        ({"k": np.zeros((2, 2))}, {}, "k"),
        ({"k": np.zeros(2, np.float16)}, {}, "k"),
        ({"k": Typed(300, "u8")}, {}, "k"),
        ({"k": Typed(1.5, "u8")}, {}, "k"),
        ({"k": Typed(1e300, "f32")}, {}, "k"),
        ({"k": Typed([1], "u8")}, {}, "k"),
        ({"k": Typed(1, "[u8]")}, {}, "k"),
        ({"k": Typed(1, "string")}, {}, "k"),
        ({"k": Typed("yes", "bool")}, {}, "k"),
        ({"k": Typed(1, "u128")}, {}, "k"),
        ({"k": Typed([[1]], "[array]")}, {}, "k"),
        ({"general.alignment": 48}, {}, "general.alignment"),
        ({}, {"": np.zeros(1, np.float32)}, "tensor name"),
        ({}, {"a\0": np.zeros(1, np.float32)}, "tensor name"),
        ({}, {"é" * 32: np.zeros(1, np.float32)}, "tensor name"),
        ({}, {"a": np.zeros((1, 1, 1, 1, 1), np.float32)}, "a: shape"),
        ({}, {"a": np.zeros((), np.float32)}, "a: shape"),
        ({}, {"a": np.zeros((2, 0), np.float32)}, "a: shape"),
        ({}, {"a": 1.0}, "a"),
        ({}, {"a": np.zeros(2, np.uint8)}, "a: dtype"),
        ({}, {"a": np.zeros(2, np.complex64)}, "a: dtype"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_beforehand(
    tmp_path: Path, metadata: dict, tensors: dict, field: str
) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    with pytest.raises(GGUFError) as caught:
        gguf.write(path, metadata, tensors)
    assert caught.value.field == field and caught.value.path == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"] and path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "options", [{"version": 4}, {"byte_order": "middle"}, {"alignment": 0}, {"alignment": 24}]
)
def test_impossible_options_are_refused(tmp_path: Path, options: dict) -> None:
    with pytest.raises(GGUFError):
        gguf.write(tmp_path / "a.gguf", {}, {}, **options)


def test_failure_while_writing_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    class Failing(QuantTensor):
        blocks = property(lambda self: 1 / 0, lambda self, value: None)

    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    good = QuantTensor.quantize(np.zeros((4, 32), np.float32), "Q8_0", "good")
    failing = Failing("bad", TYPES[0], (1,), np.zeros((1, 4), np.uint8))
    with pytest.raises(ZeroDivisionError):
        gguf.write(path, {}, {"good": good, "bad": failing})
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileNotFoundError):
        gguf.write(tmp_path / "no folder" / "a.gguf", {}, {})


def test_a_file_can_be_rewritten_from_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    gguf.write(path, METADATA, random_tensors())
    before = gguf.read(path)
    gguf.write(path, before.metadata, dict(list(before.tensors.items())[::-1]))
    after = gguf.read(path)
    assert list(after.tensors) == list(before.tensors)[::-1]
    assert all(np.array_equal(before.tensors[n].blocks, after.tensors[n].blocks) for n in after.tensors)


@pytest.mark.skipif(os.name != "posix", reason="links and modes as on POSIX systems")
def test_links_and_modes_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.gguf", tmp_path / "link.gguf"
    gguf.write(real, {}, {})
    umask = os.umask(0)
    os.umask(umask)
    assert real.stat().st_mode & 0o777 == 0o666 & ~umask
    real.chmod(0o640)
    link.symlink_to(real)
    gguf.write(link, {"a": 1}, {})
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert gguf.read(real).metadata["a"] == 1


def test_progress_is_told(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    gguf.write(
        tmp_path / "a.gguf", {}, {"a": np.zeros(5 << 20, np.float32)}, progress=lambda *n: calls.append(n)
    )
    assert calls[-1] == (20 << 20, 20 << 20) and len(calls) == 2


def numbers(name: str) -> st.SearchStrategy:
    """Values that a type can hold."""
    if name in INTEGERS:
        return st.integers(int(INTEGERS[name].min), int(INTEGERS[name].max))
    if name == "bool":
        return st.booleans()
    return st.floats(width=int(name[1:]))


def typed() -> st.SearchStrategy:
    """Any metadata value with its type."""
    kinds = [t.name for t in VALUE_TYPES if t.name != "array"]
    text = st.text(max_size=20)
    one = [st.tuples(text if k == "string" else numbers(k), st.just(k)) for k in kinds]
    many = [
        st.tuples(st.lists(text if k == "string" else numbers(k), max_size=40), st.just(f"[{k}]"))
        for k in kinds
    ]
    return st.one_of(*one, *many).map(lambda pair: Typed(*pair))


@settings(max_examples=60, deadline=None)
@given(
    values=st.dictionaries(st.text(min_size=1, max_size=20), typed(), max_size=6),
    shapes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), max_size=3),
    version=st.sampled_from([1, 2, 3]),
    byte_order=st.sampled_from(["little", "big"]),
    alignment=st.sampled_from([1, 8, 32, 512]),
    seed=st.integers(0, 100),
)
def test_any_metadata_and_tensors_survive(
    tmp_path_factory: pytest.TempPathFactory,
    values: dict,
    shapes: list,
    version: int,
    byte_order: str,
    alignment: int,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.gguf"
    values.pop("general.alignment", None)
    values.pop("split.count", None)
    pool = list(random_tensors(seed).values())
    arrays = {f"t{i}": np.full(shape, i, np.float32) for i, shape in enumerate(shapes)}
    tensors = {**arrays, "quantized": pool[seed % len(pool)]}
    gguf.write(path, values, tensors, version=version, byte_order=byte_order, alignment=alignment)
    file = gguf.read(path, mmap=seed % 2 == 0)
    assert {key: file.metadata_type(key) for key in values} == {key: v.type for key, v in values.items()}
    for key, (value, kind) in values.items():
        if kind.startswith("["):
            assert len(file.metadata[key]) == len(value)
            assert all(same(a, b) for a, b in zip(list(file.metadata[key].tolist()), value))
        else:
            assert same(file.metadata[key], value)
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.tensors[name].dequantize(), array)
    assert np.array_equal(file.tensors["quantized"].blocks, tensors["quantized"].blocks)


WRITER = """
import sys, numpy as np
from llmlite import gguf
path, n = sys.argv[1], int(sys.argv[2])
tensors = {f"t{i}": np.full((n, 1024), int(sys.argv[3]), np.float32) for i in range(4)}
print("ready", flush=True)
while True:
    gguf.write(path, {"which": int(sys.argv[3])}, tensors)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_at_random_moments_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    moments = random.Random(0)
    gguf.write(path, {"which": 0}, {f"t{i}": np.zeros((64, 1024), np.float32) for i in range(4)})
    seen = set()
    for run in range(1, 101):
        command = [sys.executable, "-c", WRITER, str(path), "64", str(run)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2])
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(10 ** moments.uniform(-4, -1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        file = gguf.read(path)
        which = file.metadata["which"]
        assert len(file.tensors) == 4
        for tensor in file.tensors.values():
            assert (tensor.dequantize() == which).all()
        seen.add("new" if which == run else "old")
        for part in tmp_path.glob(".*.part"):
            seen.add("cut off")
            part.unlink()
    assert {"new", "cut off"} <= seen  # moments before and after a rename were hit


def test_a_folder_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(OSError, match="expected a file"), replacing(target) as file:
            file.write(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"] and not Path("/dev/null").is_file()


def test_what_cannot_be_written_is_named_as_the_user_named_it(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "x.gguf"
    with pytest.raises(FileNotFoundError, match=r"nowhere.x\.gguf") as caught, replacing(target):
        pass
    assert ".part" not in str(caught.value)
