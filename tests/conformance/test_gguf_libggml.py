"""GGUF files against libggml's own reader, as llama.cpp ships it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmlite import gguf
from llmlite.gguf.values import ARRAY, BY_NAME
from tests.support.gguf_builder import GGUFBuilder
from tests.support.gguf_contents import METADATA, random_tensors
from tests.support.malformed_gguf import CASES

pytestmark = pytest.mark.conformance
WORKER = Path(__file__).with_name("libggml_gguf_worker.py")


@pytest.fixture(scope="module")
def library() -> Path:
    """libggml's shared library, found without importing llama_cpp."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        pytest.skip("llama-cpp-python is not installed")
    found = sorted(Path(spec.origin).parent.glob("lib/*ggml-base.*"))
    if not found:
        pytest.skip("llama-cpp-python has no ggml-base library")
    return found[0]


def descriptions(library: Path, *paths: Path) -> list[Any]:
    """What libggml says of each file; None where it refuses it."""
    command = [sys.executable, str(WORKER), str(library), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def encoded(file: gguf.GGUFFile, key: str) -> list[Any]:
    """A value as the worker prints it."""
    kind, value = file.metadata_type(key), file.metadata[key]
    if kind == "[string]":
        return [
            ARRAY,
            BY_NAME["string"].id,
            [text.encode("utf-8", "surrogateescape").hex() for text in value],
        ]
    if kind.startswith("["):
        return [ARRAY, BY_NAME[kind[1:-1]].id, value.tobytes().hex()]
    if kind == "string":
        return [BY_NAME[kind].id, value.encode("utf-8", "surrogateescape").hex()]
    return [BY_NAME[kind].id, np.array(value, BY_NAME[kind].dtype()).tobytes().hex()]


def assert_libggml_sees_the_same(library: Path, path: Path) -> None:
    (theirs,), file = descriptions(library, path), gguf.read(path)
    assert theirs is not None
    assert theirs["version"] == file.version
    assert theirs["alignment"] == file.alignment
    if file.tensors:
        assert theirs["data_offset"] == file.data_offset
    assert theirs["kv"] == [[key, *encoded(file, key)] for key in file.metadata]
    offset, expected = 0, []
    for name, tensor in file.tensors.items():
        expected.append([name, tensor.type.id, offset, tensor.n_bytes])
        offset += -(-tensor.n_bytes // file.alignment) * file.alignment
    assert theirs["tensors"] == expected


@pytest.mark.parametrize(("version", "alignment"), [(2, 32), (3, 32), (3, 128)])
def test_libggml_reads_what_we_write(library: Path, tmp_path: Path, version: int, alignment: int) -> None:
    path = tmp_path / "ours.gguf"
    metadata = {key: value for key, value in METADATA.items() if key != "t.bytes"}  # it ends strings at a NUL
    gguf.write(path, metadata, random_tensors(), version=version, alignment=alignment)
    assert_libggml_sees_the_same(library, path)


def test_libggml_reads_the_bundled_model_like_us(library: Path, tales: Path) -> None:
    assert_libggml_sees_the_same(library, tales)


def test_libggml_reads_what_the_tests_builder_writes(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "built.gguf"
    builder = GGUFBuilder().kv("a", "u32", 1).array("b", "string", ["x", "yz"]).tensor("one").tensor("two")
    path.write_bytes(builder.build())
    assert_libggml_sees_the_same(library, path)


# What llama.cpp's reader takes and ours refuses: rules of the format it doesn't check. It is asked for the
# head only here, so data that is missing (40, 50, 51) doesn't concern it.
ONLY_WE_REFUSE = {16, 26, 30, 32, 33, 36, 37, 40, 50, 51}


def test_whatever_libggml_refuses_we_refuse_too(library: Path, tmp_path: Path) -> None:
    """Every file of the malformed list goes to both readers; ours is the stricter one."""
    paths = []
    for i, case in enumerate(CASES):
        paths.append(tmp_path / f"{i}.gguf")
        paths[-1].write_bytes(case.data)
    found = descriptions(library, *paths)
    assert {case.number for case, theirs in zip(CASES, found, strict=True) if theirs} == ONLY_WE_REFUSE


def test_llama_cpp_loads_a_split_model_to_the_same_logits(tmp_path: Path, tales: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    first = gguf.split(tales, tmp_path / "tales", max_tensors=20)[0]
    np.save(tmp_path / "ids.npy", np.array([5, 17, 300, 42], np.int32))
    results = []
    for i, path in enumerate((tales, first)):
        out = tmp_path / f"{i}.npz"
        command = [sys.executable, str(WORKER.with_name("llama_cpp_worker.py"))]
        command += [str(path), str(tmp_path / "ids.npy"), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(out) as arrays:
            results.append(arrays["logits"])
    np.testing.assert_array_equal(*results)
